"""What is asked of a vision-language model, and what it replies: plain values, whatever server is behind."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

MIME = {b"\xff\xd8": "image/jpeg", b"\x89P": "image/png"}


@dataclass(frozen=True)
class Picture:
    """An encoded picture, a JPEG or PNG; its id is the hash of its bytes."""

    data: bytes

    @cached_property
    def id(self) -> str:
        """SHA-256 of the bytes."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def mime(self) -> str:
        """The media type, by the first bytes."""
        return MIME[self.data[:2]]


@dataclass(frozen=True)
class Request:
    """One user message of texts and pictures, and how the model shall reply.

    `top` asks for the log-probabilities of so many alternatives at each token, `attempt` tells a repeated request from
    the first.
    """

    parts: tuple[str | Picture, ...]
    max_tokens: int
    temperature: float = 0.0
    top: int = 0
    attempt: int = 0
    more: Mapping[str, Any] = field(default_factory=dict)  # further fields of the API, as the user sets them

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """Its pictures in order."""
        return tuple(part for part in self.parts if isinstance(part, Picture))

    def content(self, model: str) -> dict[str, Any]:
        """What makes it this request and no other, as JSON, with ids for pictures."""
        parts = [{"picture": part.id} if isinstance(part, Picture) else {"text": part} for part in self.parts]
        settings = {"max_tokens": self.max_tokens, "temperature": self.temperature, "top": self.top}
        return {"model": model, "parts": parts, **settings, "attempt": self.attempt, "more": dict(self.more)}

    def key(self, model: str) -> str:
        """The hash of its content."""
        return hashlib.sha256(json.dumps(self.content(model), sort_keys=True).encode()).hexdigest()


class Token(NamedTuple):
    """A token of a reply with its log-probability, and those of its alternatives [(token, log-probability)]."""

    text: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Reply:
    """A model's reply. `tokens` is None where the server gives no log-probabilities.

    `finish` is the server's word for why it ended: "stop", "length", "content_filter" and others.
    """

    text: str
    finish: str
    tokens: tuple[Token, ...] | None = None
    refusal: str | None = None
    prompt_tokens: int = 0
    reply_tokens: int = 0
    seconds: float = 0.0
    model: str = ""  # as the server names it
    is_kept: bool = False  # from the transcript: nothing was paid for it

    @property
    def is_refused(self) -> bool:
        """Whether the model, or a filter before it, would not answer."""
        return self.refusal is not None or self.finish == "content_filter"

    def to_json(self) -> dict[str, Any]:
        """As the transcript keeps it."""
        own = {name: value for name, value in vars(self).items() if name not in ("tokens", "is_kept")}
        return {**own, "tokens": None if self.tokens is None else [list(token) for token in self.tokens]}

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> "Reply":
        """Back from there."""
        tokens = kept["tokens"]
        if tokens is not None:
            tokens = tuple(Token(text, lp, tuple((t, p) for t, p in top)) for text, lp, top in tokens)
        return cls(**{**kept, "tokens": tokens}, is_kept=True)

"""What a way of judging is: it asks a model about the pictures of a question's clips, and reads a value in the replies.

Each way is one file in judges/, with its prompt beside in prompts/. Order swaps are its own business: what it says of
each order is kept, so that position bias can be measured.
"""

import hashlib
import inspect
import random
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module, resources
from typing import Any, Protocol

from pbrl.feedback.kinds import ANSWER, SKIP, TIE
from pbrl.feedback.questions import Question, Value
from pbrl.types import UserError
from pbrl.vlm.messages import Picture, Reply, Request

Ask = Callable[[Request], Awaitable[Reply]]  # from the transcript, or paid for


@dataclass(frozen=True)
class View:
    """A clip as a model sees it: pictures in the order of time, and when each was taken, in s from the clip's start."""

    pictures: tuple[Picture, ...]
    times_s: tuple[float, ...]


@dataclass(frozen=True)
class Judgement:
    """The value of an answer, and what it was made of.

    `orders` are P(second preferred), or None where the model would not say, with the clips as asked and swapped; both
    speak of the question's own second clip. `detail` is what else is kept with the answer, as JSON.
    """

    value: Value
    orders: tuple[float | None, ...] = ()
    detail: dict[str, Any] = field(default_factory=dict)


class Judge(Protocol):
    """A way of judging."""

    name: str
    kinds: tuple[str, ...]  # of the questions that it answers
    view: str  # what it looks at where nothing else was chosen: frame, ends, sheet or frames
    wants_logprobs: bool
    prompt: str  # the template

    async def judge(self, ask: Ask, question: Question, views: Sequence[View], task: str) -> Judgement:
        """Judges the clips of a question, each seen as a view, with respect to a task in words."""
        ...

    def requests(self, question: Question, views: Sequence[View], task: str) -> list[Request]:
        """What `judge` would send at least, for estimates; a second stage stands with the longest first reply."""
        ...


def judge_names() -> list[str]:
    """All ways of judging: the files in judges/."""
    files = (resources.files("pbrl.vlm") / "judges").iterdir()
    return sorted(f.name.removesuffix(".py") for f in files if f.name.endswith(".py") and not f.name.startswith("_"))


def settings_of(name: str) -> list[str]:
    """The settings that a way of judging takes. Raises UserError where there is none of this name."""
    if name not in judge_names():
        raise UserError(f"vlm.judge={name}: choose one of {', '.join(judge_names())}")
    return list(inspect.signature(import_module(f"pbrl.vlm.judges.{name}").make).parameters)


def make_judge(name: str, **settings: Any) -> Judge:
    """The way of judging of this name. Raises UserError where there is none, or it has no such setting."""
    known = settings_of(name)
    for unknown in set(settings) - set(known):
        raise UserError(f"vlm.judge={name} has no setting {unknown}, but {', '.join(known)}")
    return import_module(f"pbrl.vlm.judges.{name}").make(**settings)


def load_prompt(name: str) -> str:
    """The template prompts/<name>.txt."""
    return (resources.files("pbrl.vlm") / "prompts" / f"{name}.txt").read_text()


def version_of(prompt: str) -> str:
    """A short name of a prompt's wording: other words are another version."""
    return hashlib.sha256(prompt.encode()).hexdigest()[:8]


def fill(prompt: str, **named: Any) -> tuple[str | Picture, ...]:
    """The parts of a message: the template with {name} replaced by a text, a picture, or a sequence of both."""
    parts: list[str | Picture] = []
    for i, piece in enumerate(re.split(r"\{(\w+)\}", prompt)):
        if i % 2 == 0:
            found: Any = piece
        else:
            found = named[piece]
        for part in (found,) if isinstance(found, (str, Picture)) else found:
            if isinstance(part, str) and parts and isinstance(parts[-1], str):
                parts[-1] += part
            elif part != "":
                parts.append(part)
    return tuple(part.strip("\n") if isinstance(part, str) else part for part in parts)


def pair_value(orders: Sequence[float | None]) -> Value:
    """One value of what was said in each order: the mean of those that say anything; a skip where none does."""
    said = [p for p in orders if p is not None]
    if not said:
        return Value(SKIP)
    label = sum(said) / len(said)
    return Value(TIE if label == 0.5 else ANSWER, label)


def question_random(question: Question, *more: Any) -> random.Random:
    """Random numbers of a question's own, the same in every run."""
    return random.Random(f"{question.id} {more}")

"""The settings of a vision-language model that answers: `vlm.…` of the command line; see configs/vlm."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pbrl.ranges import Count, NotNegative, Positive, Range, Size, Whole, check_values, hints
from pbrl.types import UserError
from pbrl.vlm.budget import Budget, Limits, Price
from pbrl.vlm.client import Server
from pbrl.vlm.judging import Judge, make_judge, settings_of


@dataclass(frozen=True)
class Settings:
    """A model, how it is reached, what it sees and how it judges."""

    base_url: str
    model: str | None
    key_env: str | None
    check_model: bool
    logprobs: bool
    concurrency: Annotated[int, Range(1, 1000)]
    timeout_s: Positive
    retries: Annotated[int, Range(0, 100)]
    backoff_s: NotNegative
    max_tokens_name: Literal["max_tokens", "max_completion_tokens"]
    most_picture_bytes: Count
    more: dict[str, Any] | None
    judge: str
    swap: bool
    options: dict[str, Any] | None
    task: str | None
    view: Literal["frame", "ends", "sheet", "frames"] | None
    frames: Annotated[int, Range(2, 64)]
    size: Annotated[int, Range(16, 4096)]
    camera: str | None
    workers: Size
    price: dict[str, Any]
    picture_tokens: Whole
    budget: dict[str, Any]
    cache: str
    replay: bool
    answer_key: str | None

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> "Settings":
        """Typed settings. Raises UserError for a name or value that means nothing."""
        known = {field.name for field in fields(cls)}
        for what, names in (("no", set(given) - known), ("to have", known - set(given))):
            if names:
                raise UserError(f"vlm has {what} {', '.join(sorted(names))}; it takes {', '.join(sorted(known))}")
        check_values(dict(given), hints(cls), "vlm.")
        for part, names in (("price", {"input", "output"}), ("budget", {"questions", "tokens", "money"})):
            if set(given[part]) != names:
                raise UserError(f"vlm.{part} has {', '.join(sorted(names))}")
            for name, value in given[part].items():
                if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0):
                    raise UserError(f"vlm.{part}.{name}={value}: a number from 0, or null")
        return cls(**given)

    def make_judge(self) -> Judge:
        """The way of judging. Raises UserError where it has no such options."""
        swap = {"swap": self.swap} if "swap" in settings_of(self.judge) else {}  # of those that compare two clips
        return make_judge(self.judge, **swap, **(self.options or {}))

    def server(self) -> Server:
        """Where the model is, and how it is asked."""
        return Server(**{field.name: getattr(self, field.name) for field in fields(Server)})

    def make_budget(self) -> Budget:
        """What may be spent."""
        return Budget(Limits(**self.budget), Price(**self.price), picture_tokens=self.picture_tokens)

    @property
    def cache_folder(self) -> Path:
        """Where requests, replies and pictures are kept."""
        return Path(self.cache).expanduser()

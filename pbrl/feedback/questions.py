"""Questions about clips, and what may answer them.

A rater's answer arrives as JSON; `parse_answer` makes a `Value` of it: an outcome, a number where one number says it
all, and the rest. `equal` is a tie; `cant_tell` is an answer too, but nothing is learnt from it. `check_value` is what
the page, imports, stored answers and training all ask whether a value fits its question.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pbrl.feedback.kinds import ANSWER, KINDS, SKIP, TIE, Kind, Value, is_permutation
from pbrl.feedback.limits import check_json, check_text, is_number
from pbrl.types import Clip, UserError

NOTE = 2000  # characters
SHOWN = 8192  # characters of JSON about what was on the rater's screen
PURPOSES = ("learn", "practice", "gold", "repeat")


def identity(*parts: Any) -> str:
    """A hash of what makes a thing what it is, the same everywhere: 32 hexadecimal digits."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def clip_id(clip: Clip) -> str:
    """The id of a clip in a store, and of its file."""
    return identity("clip", *clip)


@dataclass(frozen=True)
class Question:
    """Clips that raters are asked about. The same clips, wording, purpose, round and position are the same question."""

    kind: str  # see kinds.py
    clips: tuple[Clip, ...]
    wording: Mapping[str, Any] | None = None  # what raters read: the text, the attributes it asks about, …
    rater_kind: str | None = None  # which raters may answer: human, vlm or script; None: any rater
    wanted: int = 1  # answers, by different raters
    purpose: str = "learn"  # learn, practice, gold or repeat
    expected: float | None = None  # the right label, of practice and gold
    repeats: str | None = None  # id of the question whose mirror image it is
    priority: float = 0.0  # the higher, the sooner
    strategy: str = "uniform"  # how its clips were chosen
    round: int = 0
    position: int = 0  # in its round

    @property
    def length(self) -> int:
        """Steps of the longest clip."""
        return max(clip.length for clip in self.clips)

    @property
    def wording_id(self) -> str | None:
        """Other words are another wording."""
        return identity("wording", dict(self.wording)) if self.wording else None

    @cached_property
    def id(self) -> str:
        """The hash of what makes it this question."""
        clips = map(clip_id, self.clips)
        return identity("question", self.kind, *clips, self.wording_id, self.purpose, self.round, self.position)


def parse_answer(question: Question, answer: Any) -> Value:
    """The value of a rater's answer, as JSON, to a question. Raises UserError where it cannot be one."""
    return parse(question.kind, answer, clips=len(question.clips), length=question.length)


def parse(kind: str, answer: Any, *, clips: int, length: int) -> Value:
    """The value of a rater's answer to a question of `kind` about so many clips, the longest of `length` steps.

    Raises UserError where it cannot be one.
    """
    asked = find_kind(kind)
    check_json(answer, "an answer")
    answer = dict(answer)
    note = answer.pop("note", None)
    if answer == {"choice": "cant_tell"}:
        value = Value(SKIP)
    else:
        value = asked.parse(answer)
        if answer:
            raise UserError(f"an answer to a {kind} has no {', '.join(answer)}")
    if note:
        value = value._replace(detail={**(value.detail or {}), "note": note})
    check_kind_of_value(kind, value, clips, length)
    return value


def check_value(question: Question, value: Value) -> None:
    """Raises UserError where a value, as stores keep it, is no answer to the question."""
    check_kind_of_value(question.kind, value, len(question.clips), question.length)


def check_kind_of_value(kind: str, value: Value, clips: int, length: int) -> None:
    """The same of a question of `kind` about so many clips, the longest of `length` steps."""
    check_outcome(value)
    if value.outcome != SKIP:
        find_kind(kind).check(value, clips, length)


def check_outcome(value: Value) -> None:
    """Raises UserError where a value is none of any kind of question."""
    if value.outcome not in (ANSWER, TIE, SKIP):
        raise UserError(f"an outcome is {ANSWER}, {TIE} or {SKIP}, not {value.outcome!r}")
    if value.label is not None and (value.outcome == SKIP or not is_number(value.label)):
        wanted = "a skipped question has no label" if value.outcome == SKIP else "a label is a finite number"
        raise UserError(f"{wanted}, not {value.label!r}")
    if value.detail is not None:
        check_json(value.detail, "an answer's detail")
        check_text(value.detail.get("note") or "", NOTE, "a note")


def check_shown(question: Question, shown: Any) -> None:
    """Raises UserError where that cannot have been on a rater's screen, or is too much to be kept."""
    check_json(shown, "`shown`", SHOWN)
    order = shown.get("order")
    if order is not None and not is_permutation(order, len(question.clips)):
        raise UserError(f"`shown.order` has the places of all {len(question.clips)} clips, from 0, not {order!r:.60}")


def find_kind(name: Any) -> Kind:
    """The kind of question of that name. Raises UserError."""
    if not isinstance(name, str) or name not in KINDS:
        raise UserError(f"there are no questions of kind {name!r:.60}; there are {', '.join(KINDS)}")
    return KINDS[name]

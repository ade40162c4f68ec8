"""What can be asked about clips, and what an answer to it may be.

A person's answer arrives as JSON and leaves as what the store keeps: an outcome, a number that learners read (where one
number says it all), and the rest. `equal` is a tie; `cant_tell` is an answer, but nothing is learnt from it.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from pbrl.types import UserError

CHOICES = {"first": 0.0, "second": 1.0, "equal": 0.5}
LEVELS = 5  # of a rating
STRENGTHS = 3  # of a preference: slightly, clearly, far
NOTE = 2000  # characters


class Judged(NamedTuple):
    """`outcome` is answer, tie or skip; `label` P(second preferred) or a rating; `detail` all that is no number."""

    outcome: str
    label: float | None
    detail: dict[str, Any] | None


def judge(kind: str, said: Mapping[str, Any], clips: int) -> Judged:
    """Checks an answer to a question of that kind about so many clips. Raises UserError where it cannot be one."""
    if kind not in KINDS:
        raise UserError(f"there are no questions of kind {kind!r}; there are {', '.join(KINDS)}")
    said = dict(said)
    note = said.pop("note", None)
    if note is not None and not (isinstance(note, str) and len(note) <= NOTE):
        raise UserError(f"a note is text of up to {NOTE} characters")
    judged = Judged("skip", None, None) if said == {"choice": "cant_tell"} else KINDS[kind](said, clips)
    return judged._replace(detail={**(judged.detail or {}), "note": note}) if note else judged


def check_sureness(sureness: list[float] | None) -> list[float] | None:
    """P(better) for each strength of a preference, None for certainty. Raises UserError."""
    if sureness and not (len(sureness) == STRENGTHS and all(0.5 < p <= 1 for p in sureness)):
        raise UserError(f"feedback.sureness={sureness}: {STRENGTHS} numbers above a half and up to 1, or null")
    return sureness


def _pair(said: dict[str, Any], clips: int) -> Judged:
    """{"choice": first | second | equal, "strength": 1 to 3}: which of two clips is better."""
    label = _choice(said.pop("choice", None))
    strength = said.pop("strength", None)
    if strength is not None and not (_whole(strength, 1, STRENGTHS) and label != 0.5):
        raise UserError(f"strength is a whole number from 1 to {STRENGTHS}, of a clip that is better")
    _nothing_else(said)
    return _tie_or(label, None if strength is None else {"strength": strength})


def _rating(said: dict[str, Any], clips: int) -> Judged:
    """{"rating": 1 to 5}: how good a clip is."""
    rating = said.pop("rating", None)
    if not _whole(rating, 1, LEVELS):
        raise UserError(f"a rating is a whole number from 1 to {LEVELS}")
    _nothing_else(said)
    return Judged("answer", float(rating), None)


def _ranking(said: dict[str, Any], clips: int) -> Judged:
    """{"tiers": [[2], [0, 1]]}: places of the clips from best to worst; those as good as each other share a tier."""
    tiers = said.pop("tiers", None)
    whole = isinstance(tiers, list) and all(isinstance(tier, list) and tier for tier in tiers)
    if not whole or sorted(p for tier in tiers if isinstance(tier, list) for p in tier) != list(range(clips)):
        raise UserError(f"tiers name each of the {clips} clips once, from best to worst")
    _nothing_else(said)
    return Judged("tie" if len(tiers) == 1 else "answer", None, {"tiers": tiers})


def _attributes(said: dict[str, Any], clips: int) -> Judged:
    """{"attributes": {"faster": second, "higher": equal}}: which of two clips has more of each."""
    found = said.pop("attributes", None)
    if not isinstance(found, dict) or not found or not all(isinstance(k, str) and len(k) <= 64 for k in found):
        raise UserError("attributes say of each name which clip has more of it")
    _nothing_else(said)
    labels = {name: None if choice == "cant_tell" else _choice(choice) for name, choice in found.items()}
    return Judged("answer", None, {"attributes": labels})


def _triplet(said: dict[str, Any], clips: int) -> Judged:
    """{"choice": first | second | equal}: which of the last two clips is more like the one before them."""
    label = _choice(said.pop("choice", None))
    _nothing_else(said)
    return _tie_or(label, None)


def _spans(said: dict[str, Any], clips: int) -> Judged:
    """{"spans": [{"start": 3, "end": 9, "good": true}], "marks": [{"frame": 5, "name": "grasped"}]}, in frames."""
    spans, marks = said.pop("spans", []), said.pop("marks", [])
    _nothing_else(said)
    if not isinstance(spans, list) or not isinstance(marks, list) or not spans + marks:
        raise UserError("spans and marks are lists, and one of them holds something")
    for span in spans:
        fits = isinstance(span, dict) and set(span) == {"start", "end", "good"} and isinstance(span["good"], bool)
        if not fits or not (_whole(span["start"], 0, 10**6) and _whole(span["end"], span["start"], 10**6)):
            raise UserError('a span is {"start": frame, "end": frame, "good": true or false}')
    for mark in marks:
        fits = isinstance(mark, dict) and set(mark) == {"frame", "name"} and isinstance(mark["name"], str)
        if not fits or not _whole(mark["frame"], 0, 10**6) or not 0 < len(mark["name"]) <= 64:
            raise UserError('a mark is {"frame": frame, "name": text}')
    return Judged("answer", None, {"spans": spans, "marks": marks})


KINDS: dict[str, Callable[[dict[str, Any], int], Judged]] = {
    "pair": _pair, "rating": _rating, "ranking": _ranking, "attributes": _attributes, "triplet": _triplet,
    "spans": _spans,
}  # fmt: skip
CLIPS = {"pair": 2, "rating": 1, "attributes": 2, "triplet": 3, "spans": 1}  # a ranking takes 3 to 5


def _tie_or(label: float, detail: dict[str, Any] | None) -> Judged:
    return Judged("tie" if label == 0.5 else "answer", label, detail)


def _choice(choice: Any) -> float:
    if not isinstance(choice, str) or choice not in CHOICES:
        raise UserError(f"a choice is one of {', '.join(CHOICES)}")
    return CHOICES[choice]


def _whole(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _nothing_else(said: dict[str, Any]) -> None:
    if said:
        raise UserError(f"an answer says nothing about {', '.join(map(str, said))}")

"""Questions about clips. A kind of question is one object here: clips, wording, what an answer may be, and its labels.

A rater's answer arrives as JSON; `parse` makes a `Value` of it: an outcome, a number where one number says it all, and
the rest. `equal` is a tie; `cant_tell` is an answer too, but nothing is learnt from it.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from pbrl.types import Clip, UserError

ANSWER, TIE, SKIP = "answer", "tie", "skip"  # outcomes
CHOICES = {"first": 0.0, "second": 1.0, "equal": 0.5}
LEVELS = 5  # of a rating
STRENGTHS = 3  # of a preference: slightly, clearly, far
NOTE = 2000  # characters
NAME = 64  # characters of an attribute or a mark
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

    kind: str  # see KINDS
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


class Value(NamedTuple):
    """`outcome` is answer, tie or skip; `label` P(second preferred) or a rating; `detail` all that is no number."""

    outcome: str
    label: float | None = None
    detail: dict[str, Any] | None = None


class Example(NamedTuple):
    """What an answer says of some of its question's clips, for learners."""

    clips: tuple[int, ...]  # places in the question
    label: float
    first: int = 0  # step in the clips where the segment begins


@dataclass(frozen=True)
class Reading:
    """How values become labels."""

    span: int = 1  # steps of the pieces that spans are cut into
    attribute: str | None = None  # which one of several is learnt
    strengths: Sequence[float] | None = None  # P(better) for each strength of a preference; None: 1


@dataclass(frozen=True)
class Kind:
    """A kind of question: all that is special about it but its panel on the page."""

    name: str
    clips: tuple[int, int]  # at least, at most
    text: str  # the default wording
    words: tuple[str, ...]  # what else belongs to the wording
    parse: Callable[[dict[str, Any], int, int], Value]  # JSON, number of clips, steps of the longest → value
    examples: Callable[[Value, Reading, int], list[Example]]  # …, steps of the longest clip → labels

    def check_clips(self, count: int, setting: str) -> None:
        """Raises UserError where questions of this kind are about another number of clips."""
        low, high = self.clips
        if not low <= count <= high:
            raise UserError(f"{setting}={count}: a {self.name} is of {low} to {high} clips")

    def wording(self, words: Mapping[str, Any]) -> dict[str, Any]:
        """What raters read, of `words` that may hold more than belongs to this kind; no `text` is the default one."""
        return {"text": words.get("text") or self.text, **{key: words[key] for key in self.words}}


def parse(kind: str, answer: Mapping[str, Any], *, clips: int, length: int) -> Value:
    """The value of a rater's answer to a question of `kind` about so many clips, the longest of `length` steps.

    Raises UserError where it cannot be one.
    """
    if kind not in KINDS:
        raise UserError(f"there are no questions of kind {kind!r}; there are {', '.join(KINDS)}")
    answer = dict(answer)
    note = answer.pop("note", None)
    if note is not None and not (isinstance(note, str) and len(note) <= NOTE):
        raise UserError(f"a note is text of up to {NOTE} characters")
    value = Value(SKIP) if answer == {"choice": "cant_tell"} else KINDS[kind].parse(answer, clips, length)
    return value._replace(detail={**(value.detail or {}), "note": note}) if note else value


def check_strengths(strengths: Sequence[float] | None) -> Sequence[float] | None:
    """P(better) for each strength of a preference, None for certainty. Raises UserError."""
    if strengths and not (len(strengths) == STRENGTHS and all(0.5 < p <= 1 for p in strengths)):
        raise UserError(f"feedback.strengths={strengths}: {STRENGTHS} numbers above a half and up to 1, or null")
    return strengths


# Pairs


def _parse_pair(answer: dict[str, Any], clips: int, length: int) -> Value:
    """{"choice": first | second | equal, "strength": 1 to 3}: which of two clips is better."""
    label = _choice(answer.pop("choice", None))
    strength = answer.pop("strength", None)
    if strength is not None and not (_is_whole(strength, 1, STRENGTHS) and label != 0.5):
        raise UserError(f"strength is a whole number from 1 to {STRENGTHS}, of a clip that is better")
    _check_empty(answer)
    return _comparison(label, None if strength is None else {"strength": strength})


def _pair_examples(value: Value, reading: Reading, length: int) -> list[Example]:
    assert value.label is not None
    strength = (value.detail or {}).get("strength")
    if strength is None or not reading.strengths:
        return [Example((0, 1), value.label)]
    probability = reading.strengths[strength - 1]
    return [Example((0, 1), probability if value.label > 0.5 else 1 - probability)]


PAIR = Kind("pair", (2, 2), "Which clip is better?", ("better", "strength"), _parse_pair, _pair_examples)


# Ratings


def _parse_rating(answer: dict[str, Any], clips: int, length: int) -> Value:
    """{"rating": 1 to 5}: how good a clip is."""
    rating = answer.pop("rating", None)
    if not _is_whole(rating, 1, LEVELS):
        raise UserError(f"a rating is a whole number from 1 to {LEVELS}")
    _check_empty(answer)
    return Value(ANSWER, float(rating))


def _rating_examples(value: Value, reading: Reading, length: int) -> list[Example]:
    assert value.label is not None
    return [Example((0,), value.label)]


RATING = Kind("rating", (1, 1), "How good is this?", (), _parse_rating, _rating_examples)


# Rankings


def _parse_ranking(answer: dict[str, Any], clips: int, length: int) -> Value:
    """{"tiers": [[2], [0, 1]]}: places of the clips from best to worst; those as good as each other share a tier."""
    tiers = answer.pop("tiers", None)
    is_listed = isinstance(tiers, list) and all(isinstance(tier, list) and tier for tier in tiers)
    places = [place for tier in tiers for place in tier] if is_listed else []
    if not all(_is_whole(place, 0, clips - 1) for place in places) or sorted(places) != list(range(clips)):
        raise UserError(f"tiers name each of the {clips} clips once, from best to worst")
    _check_empty(answer)
    return Value(TIE if len(tiers) == 1 else ANSWER, None, {"tiers": tiers})


def _ranking_examples(value: Value, reading: Reading, length: int) -> list[Example]:
    """Each clip with its rank, from 0 for the worst."""
    assert value.detail is not None
    tiers = value.detail["tiers"]
    return [Example((place,), float(len(tiers) - 1 - i)) for i, tier in enumerate(tiers) for place in tier]


RANKING = Kind("ranking", (3, 5), "Order the clips from best to worst", (), _parse_ranking, _ranking_examples)


# Attributes


def _parse_attributes(answer: dict[str, Any], clips: int, length: int) -> Value:
    """{"attributes": {"faster": second, "higher": equal}}: which of two clips has more of each."""
    found = answer.pop("attributes", None)
    if not isinstance(found, dict) or not found or not all(isinstance(k, str) and len(k) <= NAME for k in found):
        raise UserError("attributes say of each name which clip has more of it")
    _check_empty(answer)
    labels = {name: None if choice == "cant_tell" else _choice(choice) for name, choice in found.items()}
    return Value(ANSWER, None, {"attributes": labels})


def _attribute_examples(value: Value, reading: Reading, length: int) -> list[Example]:
    """P(the second clip has more of the attribute that is learnt); nothing where the answer leaves it open."""
    assert value.detail is not None
    label = value.detail["attributes"].get(reading.attribute)
    return [] if label is None else [Example((0, 1), label)]


ATTRIBUTES = Kind(
    "attributes", (2, 2), "Which clip has more of it?", ("attributes",), _parse_attributes, _attribute_examples
)


# Triplets


def _parse_triplet(answer: dict[str, Any], clips: int, length: int) -> Value:
    """{"choice": first | second | equal}: which of the last two clips is more like the one before them."""
    label = _choice(answer.pop("choice", None))
    _check_empty(answer)
    return _comparison(label, None)


def _triplet_examples(value: Value, reading: Reading, length: int) -> list[Example]:
    assert value.label is not None
    return [Example((0, 1, 2), value.label)]


TRIPLET = Kind("triplet", (3, 3), "Which clip is more like the first?", (), _parse_triplet, _triplet_examples)


# Spans


def _parse_spans(answer: dict[str, Any], clips: int, length: int) -> Value:
    """{"spans": [{"start": 3, "end": 9, "good": true}], "marks": [{"frame": 5, "name": "grasped"}]}, in frames."""
    spans, marks = answer.pop("spans", []), answer.pop("marks", [])
    _check_empty(answer)
    if not isinstance(spans, list) or not isinstance(marks, list) or not spans + marks:
        raise UserError("spans and marks are lists, and one of them holds something")
    for span in spans:
        fits = isinstance(span, dict) and set(span) == {"start", "end", "good"} and isinstance(span["good"], bool)
        if not fits or not (_is_whole(span["start"], 0, length) and _is_whole(span["end"], span["start"], length)):
            raise UserError(f'a span is {{"start": frame, "end": frame, "good": true or false}}, frames up to {length}')
    for mark in marks:
        fits = isinstance(mark, dict) and set(mark) == {"frame", "name"} and isinstance(mark["name"], str)
        if not fits or not _is_whole(mark["frame"], 0, length) or not 0 < len(mark["name"]) <= NAME:
            raise UserError(f'a mark is {{"frame": frame, "name": text}}, frames up to {length}')
    return Value(ANSWER, None, {"spans": spans, "marks": marks})


def _span_examples(value: Value, reading: Reading, length: int) -> list[Example]:
    """Pieces of `reading.span` steps: 1 where it is good, 0 where it is bad. Shorter rests are left out."""
    assert value.detail is not None
    return [
        Example((0,), float(span["good"]), first)
        for span in value.detail["spans"]
        for first in range(span["start"], min(span["end"] + 1, length) - reading.span + 1, reading.span)
    ]


SPANS = Kind("spans", (1, 1), "Where is it good, where is it bad?", ("stages",), _parse_spans, _span_examples)


KINDS = {kind.name: kind for kind in (PAIR, RATING, RANKING, ATTRIBUTES, TRIPLET, SPANS)}


def _comparison(label: float, detail: dict[str, Any] | None) -> Value:
    return Value(TIE if label == 0.5 else ANSWER, label, detail)


def _choice(choice: Any) -> float:
    if not isinstance(choice, str) or choice not in CHOICES:
        raise UserError(f"a choice is one of {', '.join(CHOICES)}")
    return CHOICES[choice]


def _is_whole(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _check_empty(answer: dict[str, Any]) -> None:
    if answer:
        raise UserError(f"an answer has no {', '.join(map(str, answer))}")

"""Kinds of question. Each is one object here: clips, wording, what an answer may be, and the labels it gives.

`parse` reads a rater's JSON, `check` whether a value fits the clips: both are called by questions.py, for all who take
answers.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from pbrl.feedback.limits import check_text, is_number, is_whole
from pbrl.types import UserError

ANSWER, TIE, SKIP = "answer", "tie", "skip"  # outcomes
CHOICES = {"first": 0.0, "second": 1.0, "equal": 0.5}
LEVELS = 5  # of a rating
STRENGTHS = 3  # of a preference: slightly, clearly, far
NAME = 64  # characters of an attribute or a mark
MOST_PARTS = 500  # spans, marks or attributes of one answer


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
    parse: Callable[[dict[str, Any]], Value]  # JSON → value, which `check` has not seen yet
    check: Callable[[Value, int, int], None]  # value, number of clips, steps of the longest; raises UserError
    examples: Callable[[Value, Reading, int], list[Example]]  # …, steps of the longest clip → labels

    def check_clips(self, count: int, setting: str) -> None:
        """Raises UserError where questions of this kind are about another number of clips."""
        low, high = self.clips
        if not low <= count <= high:
            raise UserError(f"{setting}={count}: a {self.name} is of {low} to {high} clips")

    def wording(self, words: Mapping[str, Any]) -> dict[str, Any]:
        """What raters read, of `words` that may hold more than belongs to this kind; no `text` is the default one."""
        return {"text": words.get("text") or self.text, **{key: words[key] for key in self.words}}


def check_strengths(strengths: Sequence[float] | None) -> Sequence[float] | None:
    """P(better) for each strength of a preference, None for certainty. Raises UserError."""
    if strengths and not (len(strengths) == STRENGTHS and all(0.5 < p <= 1 for p in strengths)):
        raise UserError(f"feedback.strengths={strengths}: {STRENGTHS} numbers above a half and up to 1, or null")
    return strengths


# Pairs


def _parse_pair(answer: dict[str, Any]) -> Value:
    """{"choice": first | second | equal, "strength": 1 to 3}: which of two clips is better."""
    label, strength = _choice(answer.pop("choice", None)), answer.pop("strength", None)
    return _comparison(label, None if strength is None else {"strength": strength})


def _check_pair(value: Value, clips: int, length: int) -> None:
    _check_probability(value, clips, length)
    strength = (value.detail or {}).get("strength")
    if strength is not None and not (is_whole(strength, 1, STRENGTHS) and value.outcome == ANSWER):
        raise UserError(f"strength is a whole number from 1 to {STRENGTHS}, of a clip that is better")


def _pair_examples(value: Value, reading: Reading, length: int) -> list[Example]:
    assert value.label is not None
    strength = (value.detail or {}).get("strength")
    if strength is None or not reading.strengths:
        return [Example((0, 1), value.label)]
    probability = reading.strengths[strength - 1]
    return [Example((0, 1), probability if value.label > 0.5 else 1 - probability)]


PAIR = Kind("pair", (2, 2), "Which clip is better?", ("better", "strength"), _parse_pair, _check_pair, _pair_examples)


# Ratings


def _parse_rating(answer: dict[str, Any]) -> Value:
    """{"rating": 1 to 5}: how good a clip is."""
    rating = answer.pop("rating", None)
    if not is_whole(rating, 1, LEVELS):
        raise UserError(f"a rating is a whole number from 1 to {LEVELS}")
    return Value(ANSWER, float(rating))


def _check_rating(value: Value, clips: int, length: int) -> None:
    """A rating has any finite number: scripted teachers rate by the return."""
    if value.label is None or value.outcome == TIE:
        raise UserError("the label of a rating is a number, and its outcome no tie")


def _rating_examples(value: Value, reading: Reading, length: int) -> list[Example]:
    assert value.label is not None
    return [Example((0,), value.label)]


RATING = Kind("rating", (1, 1), "How good is this?", (), _parse_rating, _check_rating, _rating_examples)


# Rankings


def _parse_ranking(answer: dict[str, Any]) -> Value:
    """{"tiers": [[2], [0, 1]]}: places of the clips from best to worst; those as good as each other share a tier."""
    tiers = answer.pop("tiers", None)
    return Value(TIE if isinstance(tiers, list) and len(tiers) == 1 else ANSWER, None, {"tiers": tiers})


def _check_ranking(value: Value, clips: int, length: int) -> None:
    tiers = (value.detail or {}).get("tiers")
    is_listed = isinstance(tiers, list) and all(isinstance(tier, list) and tier for tier in tiers)
    if not is_listed or not is_permutation([place for tier in tiers or [] for place in tier], clips):
        raise UserError(f"tiers name each of the {clips} clips once, from best to worst, by its place from 0")


def _ranking_examples(value: Value, reading: Reading, length: int) -> list[Example]:
    """Each clip with its rank, from 0 for the worst."""
    assert value.detail is not None
    tiers = value.detail["tiers"]
    return [Example((place,), float(len(tiers) - 1 - i)) for i, tier in enumerate(tiers) for place in tier]


RANKING = Kind(
    "ranking", (3, 5), "Order the clips from best to worst", (), _parse_ranking, _check_ranking, _ranking_examples
)


# Attributes


def _parse_attributes(answer: dict[str, Any]) -> Value:
    """{"attributes": {"faster": second, "higher": equal}}: which of two clips has more of each."""
    found = answer.pop("attributes", None)
    if not isinstance(found, dict):
        raise UserError("attributes say of each name which clip has more of it")
    labels = {name: None if choice == "cant_tell" else _choice(choice) for name, choice in found.items()}
    return Value(ANSWER, None, {"attributes": labels})


def _check_attributes(value: Value, clips: int, length: int) -> None:
    found = (value.detail or {}).get("attributes")
    if not isinstance(found, dict) or not 0 < len(found) <= MOST_PARTS:
        raise UserError(f"attributes say of each name, 1 to {MOST_PARTS} of them, which clip has more of it")
    for name, label in found.items():
        if not check_text(name, NAME, "an attribute") or not (label is None or is_number(label, 0, 1)):
            raise UserError(f"attribute {name!r} is P(the second has more of it), from 0 to 1, or null")


def _attribute_examples(value: Value, reading: Reading, length: int) -> list[Example]:
    """P(the second clip has more of the attribute that is learnt); nothing where the answer leaves it open."""
    assert value.detail is not None
    label = value.detail["attributes"].get(reading.attribute)
    return [] if label is None else [Example((0, 1), label)]


ATTRIBUTES = Kind(
    "attributes",
    (2, 2),
    "Which clip has more of it?",
    ("attributes",),
    _parse_attributes,
    _check_attributes,
    _attribute_examples,
)


# Triplets


def _parse_triplet(answer: dict[str, Any]) -> Value:
    """{"choice": first | second | equal}: which of the last two clips is more like the one before them."""
    return _comparison(_choice(answer.pop("choice", None)), None)


def _check_probability(value: Value, clips: int, length: int) -> None:
    """P(second preferred); a tie has 0.5."""
    if value.label is None or not is_number(value.label, 0, 1) or (value.outcome == TIE and value.label != 0.5):
        wanted = "0.5 for a tie" if value.outcome == TIE else "from 0 (the first) to 1 (the second)"
        raise UserError(f"the label of a comparison is P(second preferred), {wanted}, not {value.label!r}")


def _triplet_examples(value: Value, reading: Reading, length: int) -> list[Example]:
    assert value.label is not None
    return [Example((0, 1, 2), value.label)]


LIKENESS = "Which clip is more like the first?"
TRIPLET = Kind("triplet", (3, 3), LIKENESS, (), _parse_triplet, _check_probability, _triplet_examples)


def word_likeness(attributes: Sequence[str]) -> str:
    """What a triplet asks: which clip is more like the first, perhaps in these attributes."""
    return f"{LIKENESS[:-1]} in {' and '.join(attributes)}?" if attributes else LIKENESS


# Spans


def _parse_spans(answer: dict[str, Any]) -> Value:
    """{"spans": [{"start": 3, "end": 9, "good": true}], "marks": [{"frame": 5, "name": "grasped"}]}, in frames."""
    return Value(ANSWER, None, {"spans": answer.pop("spans", []), "marks": answer.pop("marks", [])})


def _check_spans(value: Value, clips: int, length: int) -> None:
    """Frames count from 0; a clip of `length` steps ends with the frame of that number."""
    detail = value.detail or {}
    spans, marks = detail.get("spans", []), detail.get("marks", [])
    if not isinstance(spans, list) or not isinstance(marks, list) or not 0 < len(spans) + len(marks) <= MOST_PARTS:
        raise UserError(f"spans and marks are lists, and hold 1 to {MOST_PARTS} together")
    if not all(_is_span(span, length) for span in spans):
        raise UserError(f'a span is {{"start": frame, "end": frame, "good": true or false}}, frames from 0 to {length}')
    if not all(_is_mark(mark, length) for mark in marks):
        raise UserError(f'a mark is {{"frame": frame, "name": text}}, frames from 0 to {length}')


def _is_span(span: Any, length: int) -> bool:
    is_whole_span = isinstance(span, dict) and set(span) == {"start", "end", "good"} and isinstance(span["good"], bool)
    return is_whole_span and is_whole(span["start"], 0, length) and is_whole(span["end"], span["start"], length)


def _is_mark(mark: Any, length: int) -> bool:
    is_named = isinstance(mark, dict) and set(mark) == {"frame", "name"} and isinstance(mark["name"], str)
    return is_named and is_whole(mark["frame"], 0, length) and 0 < len(mark["name"]) <= NAME


def _span_examples(value: Value, reading: Reading, length: int) -> list[Example]:
    """Pieces of `reading.span` steps: 1 where it is good, 0 where it is bad. Shorter rests are left out.

    They end with the clip, whose last frame follows its last step.
    """
    assert value.detail is not None
    return [
        Example((0,), float(span["good"]), first)
        for span in value.detail.get("spans", [])
        for first in range(span["start"], min(span["end"] + 1, length) - reading.span + 1, reading.span)
    ]


SPANS = Kind(
    "spans", (1, 1), "Where is it good, where is it bad?", ("stages",), _parse_spans, _check_spans, _span_examples
)


KINDS = {kind.name: kind for kind in (PAIR, RATING, RANKING, ATTRIBUTES, TRIPLET, SPANS)}


def _comparison(label: float, detail: dict[str, Any] | None) -> Value:
    return Value(TIE if label == 0.5 else ANSWER, label, detail)


def is_permutation(places: Any, count: int) -> bool:
    """Whether it is a list that names each of so many places, from 0, once."""
    is_list = isinstance(places, (list, tuple)) and all(is_whole(place, 0, count - 1) for place in places)
    return is_list and sorted(places) == list(range(count))


def _choice(choice: Any) -> float:
    if not isinstance(choice, str) or choice not in CHOICES:
        raise UserError(f"a choice is one of {', '.join(CHOICES)}")
    return CHOICES[choice]

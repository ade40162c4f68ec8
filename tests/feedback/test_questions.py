"""What may answer a question: by its kind and its clips, as raters send it and as stores keep it."""

import math

import pytest

from pbrl.feedback.kinds import SPANS, Reading
from pbrl.feedback.questions import Question, Value, check_shown, check_value, parse, parse_answer
from pbrl.types import Clip, UserError

LENGTH = 8


def question(kind: str, clips: int) -> Question:
    return Question(kind, tuple(Clip("abc", i, LENGTH) for i in range(clips)))


PAIR, RATING, RANKING = question("pair", 2), question("rating", 1), question("ranking", 4)
ATTRIBUTES, TRIPLET, SPAN = question("attributes", 2), question("triplet", 3), question("spans", 1)

GOOD = [
    (PAIR, {"choice": "second", "strength": 3, "note": "dark"}, Value("answer", 1.0, {"strength": 3, "note": "dark"})),
    (PAIR, {"choice": "equal"}, Value("tie", 0.5)),
    (PAIR, {"choice": "cant_tell", "note": "é ✓"}, Value("skip", None, {"note": "é ✓"})),
    (RATING, {"rating": 5}, Value("answer", 5.0)),
    (RANKING, {"tiers": [[3, 1], [0], [2]]}, Value("answer", None, {"tiers": [[3, 1], [0], [2]]})),
    (RANKING, {"tiers": [[0, 1, 2, 3]]}, Value("tie", None, {"tiers": [[0, 1, 2, 3]]})),
    (ATTRIBUTES, {"attributes": {"fast": "first", "high": "cant_tell"}},
     Value("answer", None, {"attributes": {"fast": 0.0, "high": None}})),
    (TRIPLET, {"choice": "first"}, Value("answer", 0.0)),
    (SPAN, {"spans": [{"start": 0, "end": LENGTH, "good": True}]},
     Value("answer", None, {"spans": [{"start": 0, "end": LENGTH, "good": True}], "marks": []})),
    (SPAN, {"marks": [{"frame": LENGTH, "name": "done"}]},
     Value("answer", None, {"spans": [], "marks": [{"frame": LENGTH, "name": "done"}]})),
]  # fmt: skip


@pytest.mark.parametrize("asked,sent,value", GOOD)
def test_answers_become_values_that_fit(asked, sent, value):
    assert parse_answer(asked, sent) == value == parse(asked.kind, sent, clips=len(asked.clips), length=LENGTH)
    check_value(asked, value)


def span(**changes):
    return {"spans": [{"start": 0, "end": 4, "good": True, **changes}]}


BAD = [
    (PAIR, {"choice": "left"}, "a choice is one of"), (PAIR, {"choice": ["first"]}, "a choice is one of"),
    (PAIR, {"choice": "equal", "strength": 1}, "strength is"), (PAIR, {"choice": "first", "strength": 2.0}, "strength"),
    (PAIR, {"choice": "first", "strength": True}, "strength is"), (PAIR, {"choice": "first", "mood": 1}, "has no mood"),
    (PAIR, [], "is a JSON object"), (PAIR, None, "is a JSON object"), (PAIR, {}, "a choice is one of"),
    (PAIR, {"choice": "first", "note": "a\0b"}, "no text"), (PAIR, {"choice": "first", "note": "\ud800"}, "no text"),
    (PAIR, {"choice": "first", "note": 2001 * "a"}, "up to 2000 characters"),
    (PAIR, {"choice": "first", "note": 7}, "text"),
    (RATING, {"rating": 0}, "from 1 to 5"), (RATING, {"rating": 3.0}, "from 1 to 5"),
    (RATING, {"rating": math.nan}, "nan"),
    (RANKING, {"tiers": [[0], [1], [2]]}, "each of the 4"),
    (RANKING, {"tiers": [[0.0], [1], [2], [3]]}, "each of the 4"),
    (RANKING, {"tiers": [["a"], [1], [2], [3]]}, "each of the 4"), (RANKING, {"tiers": [[[0]], [1], [2], [3]]}, "each"),
    (RANKING, {"tiers": [[0, 0], [1], [2], [3]]}, "each of the 4"), (RANKING, {"tiers": [[], [0, 1, 2, 3]]}, "each of"),
    (RANKING, {"tiers": [[False], [True], [2], [3]]}, "each of"), (RANKING, {"tiers": {"0": 1}}, "each of the 4"),
    (RANKING, {}, "each of the 4"), (ATTRIBUTES, {"attributes": {}}, "1 to 500"),
    (ATTRIBUTES, {"attributes": {str(i): "first" for i in range(501)}}, "1 to 500"),
    (ATTRIBUTES, {"attributes": {"": "first"}}, "attribute ''"),
    (ATTRIBUTES, {"attributes": {"a" * 65: "first"}}, "64"),
    (ATTRIBUTES, {"attributes": {"fast": 1.0}}, "a choice"), (ATTRIBUTES, {"attributes": ["fast"]}, "say of each"),
    (SPAN, span(end=LENGTH + 1), "frames from 0 to 8"), (SPAN, span(end=1_000_000), "frames from 0 to 8"),
    (SPAN, span(start=-1), "frames"), (SPAN, span(end=4.0), "frames"), (SPAN, span(start=5), "frames"),
    (SPAN, span(good=1), "a span is"), (SPAN, span(mood=1), "a span is"), (SPAN, {"spans": [7]}, "a span is"),
    (SPAN, {}, "1 to 500"), (SPAN, {"spans": span()["spans"] * 501}, "1 to 500"), (SPAN, {"spans": 3}, "lists"),
    (SPAN, {"marks": [{"frame": 9, "name": "done"}]}, "a mark is"),
    (SPAN, {"marks": [{"frame": 1, "name": ""}]}, "a mark"),
    (SPAN, {"marks": [{"frame": 10**400, "name": "done"}]}, "no place"),
    (PAIR, {"choice": "first", "x": 70_000 * "a"}, "up to"),
]  # fmt: skip


@pytest.mark.parametrize("asked,sent,sentence", BAD)
def test_what_is_no_answer_is_refused_with_a_sentence(asked, sent, sentence):
    with pytest.raises(UserError, match=sentence):
        parse_answer(asked, sent)


def test_an_answer_that_is_nested_without_end_is_refused():
    deep: list = []
    for _ in range(5000):
        deep = [deep]
    for sent in ({"tiers": deep}, {"note": deep}):
        with pytest.raises(UserError, match="8 deep"):
            parse_answer(RANKING, sent)


@pytest.mark.parametrize("asked,value", [
    (PAIR, Value("answer", 2.0)), (PAIR, Value("answer", math.nan)), (PAIR, Value("answer")), (PAIR, Value("tie", 1.0)),
    (PAIR, Value("skip", 1.0)), (PAIR, Value("maybe", 1.0)), (PAIR, Value("answer", 1.0, {"strength": 0})),
    (PAIR, Value("answer", 1.0, {"note": math.inf})), (RATING, Value("answer", math.inf)), (RATING, Value("tie", 1.0)),
    (RANKING, Value("answer", 1.0)), (ATTRIBUTES, Value("answer", None, {"attributes": {"fast": 1.5}})),
    (SPAN, Value("answer", None, span(end=LENGTH + 1))), (Question("mood", PAIR.clips), Value("answer", 1.0)),
])  # fmt: skip
def test_a_stored_value_that_does_not_fit_is_found(asked, value):
    with pytest.raises(UserError):
        check_value(asked, value)


def test_scripts_rate_by_any_number_and_models_answer_by_probabilities():
    check_value(RATING, Value("answer", -1234.5))
    check_value(PAIR, Value("answer", 0.8, {"note": "sure", "reason": ["by the", "model"]}))


def test_spans_end_with_their_clip():
    """Frames 4 to 8 of a clip of 8 steps: pieces of two steps begin at 4 and 6, before the last frame."""
    value = parse_answer(SPAN, span(start=4, end=LENGTH))
    assert [example.first for example in SPANS.examples(value, Reading(span=2), LENGTH)] == [4, 6]
    beyond = Value("answer", None, span(start=4, end=30))  # as older stores may hold it
    assert [example.first for example in SPANS.examples(beyond, Reading(span=2), LENGTH)] == [4, 6]


def test_what_was_on_the_screen():
    check_shown(PAIR, {"order": [1, 0], "watched": 1.25, "speed": 2, "version": "0.5", "clicks": [["a", 1]]})
    check_shown(PAIR, {})
    for shown in ({"order": 5}, {"order": [0]}, {"order": [0, 2]}, {"order": "01"}, {"order": [0.0, 1.0]},
                  {"order": [1, 1]}, {"x": math.nan}, {"x": 10**400}, {"x\0": 1}, {"x": "a" * 8192}, 7):  # fmt: skip
        with pytest.raises(UserError):
            check_shown(PAIR, shown)

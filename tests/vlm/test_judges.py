"""Ways of judging, asked of models in memory: what they ask, and what they make of replies, in closed form."""

import asyncio
import math
import random
import re
from dataclasses import replace

import pytest

from pbrl.feedback.kinds import ANSWER, SKIP, TIE
from pbrl.feedback.questions import check_value
from pbrl.types import UserError
from pbrl.vlm.asking import REPEAT_TEMPERATURE
from pbrl.vlm.judging import judge_names, make_judge
from pbrl.vlm.messages import Reply, Request
from tests.vlm.scripted import TASK, asked, in_turn, judge, picture, quality, question, reply, token, view

NAMES = ["pair", "pair_logprob", "progress", "rating", "true_probability"]
ONE_WAY = {"swap": False}
FRAMES = view(0.0, 0.5, 0.25, 0.75, 1.0)


def words(request: Request) -> str:
    return "".join(part if isinstance(part, str) else "<picture>" for part in request.parts)


def shown(request: Request) -> list[float]:
    return [quality(p) for p in request.pictures]


def test_all_ways_are_found_and_say_what_they_are():
    assert judge_names() == NAMES
    for name in NAMES:
        made = make_judge(name)
        assert made.name == name and made.view in ("frame", "ends", "sheet", "frames") and "{task}" in made.prompt


@pytest.mark.parametrize(
    "name, settings, sentence",
    [
        ("best", {}, "vlm.judge=best: choose one of pair, pair_logprob, progress"),
        ("pair", {"stage": 1}, "no setting stage, but swap, stages"),
        ("pair", {"stages": 3}, "vlm.judge.stages=3 must be"),
        ("pair", {"tries": 0}, "vlm.judge.tries=0 must be"),
        ("true_probability", {"chat": False}, "vlm.judge.chat=false"),
        ("../pair", {}, "choose one of"),
    ],
)
def test_settings_that_do_not_exist(name, settings, sentence):
    with pytest.raises(UserError, match=re.escape(sentence)):
        make_judge(name, **settings)


@pytest.mark.parametrize("name", NAMES)
def test_no_task_or_another_kind_is_a_sentence_before_anything_is_asked(name):
    ask, requests = asked(in_turn())
    for kind, task, sentence in (("pair", "  ", "env.instruction="), ("ranking", TASK, "not ranking")):
        about = replace(question("pair"), kind=kind)
        with pytest.raises(UserError, match=sentence):
            asyncio.run(make_judge(name).judge(ask, about, [FRAMES, FRAMES], task))
        with pytest.raises(UserError, match=sentence):
            make_judge(name).requests(about, [FRAMES, FRAMES], task)
    assert not requests


@pytest.mark.parametrize("name, settings", [("pair", {"stages": 1}), *((name, {}) for name in NAMES)])
def test_what_is_estimated_is_what_is_asked(name, settings):
    """But for the words of a first stage, which are not known before."""
    answers = {"pair": "2", "progress": "".join(f"Frame {i}: 40%\n" for i in range(1, 5))}
    ask, requests = asked(
        lambda r: reply(answers.get(name, "True" if "True" in words(r) else "2"), {"True": 1, "2": 1})
    )
    way, views = make_judge(name, **settings), [FRAMES, view(0.0, 0.1, 0.2, 0.3, 0.4)]
    asyncio.run(way.judge(ask, question(), views, TASK))
    expected = way.requests(question(), views, TASK)
    assert len(requests) == len(expected) and [r for r in requests if r.pictures] == [r for r in expected if r.pictures]
    assert all(TASK in words(r) and "{" not in words(r) for r in requests)
    assert {bool(r.top) for r in requests} == {way.wants_logprobs}


# Pairs in words


def describe_and_compare(first_stage: str, verdict: str):
    return lambda request: Reply(first_stage if request.pictures else verdict, "stop")


@pytest.mark.parametrize(
    "line, label",
    [
        ("1", 0.0),
        ("2", 1.0),
        ("0", 0.5),
        ("Answer: 2", 1.0),
        ("**2**", 1.0),
        ("\n\nCase 1.\n", 0.0),
        ("The second case", 1.0),
        ("the answer is case 1", 0.0),
        ('{"answer": 2}', 1.0),
        ('```json\n{"answer": "2"}\n```', 1.0),
        ('{"choice": "neither', None),
        ('{"answer": 2, "why": "it is', 1.0),
        ("\\boxed{1}", 0.0),
        ("2\n\nIn case 2 the drawer is open.", 1.0),
        ("?", None),
        ("-1", None),
        ("Answer: -1", None),
        ("I cannot decide.", None),
        ("1 or 2", None),
        ("1\n2", None),
        ("12", None),
        ('{"answer": null}', None),
        ('{"answer": 1, "choice": 2}', None),
        ("", None),
        ("  \n ", None),
        ("3", None),
        ("<think>it may be 1, as in\n1\n</think>\n2", 1.0),
        ("<think>so it is\n1", None),
        ("cannot tell", None),
    ],
)
def test_a_verdict_is_read_from_its_line_or_not_at_all(line, label):
    found = judge("pair", describe_and_compare("Both were seen.", line), [view(0.1), view(0.9)], swap=False)
    assert found.orders == (label,) and found.value.label == label
    assert found.value.outcome == (SKIP if label is None else TIE if label == 0.5 else ANSWER)


def test_the_second_stage_reads_the_first_and_sees_nothing():
    ask, requests = asked(describe_and_compare("The drawer of case 2 is {open}.", "2"))
    asyncio.run(make_judge("pair", **ONE_WAY).judge(ask, question(), [view(0.1), view(0.9)], TASK))
    first, second = requests
    assert shown(first) == [0.1, 0.9] and not second.pictures and "The drawer of case 2 is {open}." in words(second)


def test_one_stage_reads_the_last_line_alone():
    answers = in_turn("1. It is shut.\n2. It is open.\n3. Case 2 is nearer.\n2", "1\nThat is my answer, or is it?", "0")
    found = judge("pair", answers, [view(0.1), view(0.9)], stages=1, swap=False, tries=1)
    assert found.orders == (1.0,)
    assert judge("pair", answers, [view(0.1), view(0.9)], stages=1, swap=False, tries=2).orders == (0.5,)


def test_what_was_cut_off_is_not_its_own_last_line():
    """The cut may have come in the middle of a list's second line."""
    cut = Reply("1. It is shut.\n2", "length")
    assert judge("pair", in_turn(cut, cut), [view(0.1), view(0.9)], stages=1, swap=False, tries=2).orders == (None,)
    blank = Reply("2\n\n\n\n\n\n", "length")
    assert judge("pair", in_turn("seen", blank), [view(0.1), view(0.9)], swap=False).orders == (1.0,)


def test_swapped_orders_speak_of_the_question_s_own_second_clip():
    """A model that sees which is better is right in both orders; one that always says 1 is a tie."""

    def right(request: Request) -> Reply:
        if request.pictures:
            return Reply(f"better: {1 + (shown(request)[1] > shown(request)[0])}", "stop")
        return Reply(re.findall(r"better: (\d)", words(request))[0], "stop")

    assert judge("pair", right, [view(0.1), view(0.9)]).orders == (1.0, 1.0)
    assert judge("pair", right, [view(0.9), view(0.1)]).orders == (0.0, 0.0)
    first = judge("pair", describe_and_compare("x", "1"), [view(0.1), view(0.9)])
    assert first.orders == (0.0, 1.0) and first.value == (TIE, 0.5, None)


def test_the_orders_are_asked_at_once():
    under_way: list[int] = []

    async def ask(request: Request) -> Reply:
        under_way.append(1)
        await asyncio.sleep(0)
        assert len(under_way) == 2
        return reply("2")

    asyncio.run(make_judge("pair_logprob").judge(ask, question(), [view(0.1), view(0.9)], TASK))


def test_where_one_order_fails_the_other_comes_to_its_end():
    """So that a reply that is paid for is kept."""
    done = []

    async def ask(request: Request) -> Reply:
        if shown(request) == [0.1, 0.9]:
            raise UserError("the budget is reached")
        await asyncio.sleep(0.01)
        done.append(request)
        return reply("2")

    with pytest.raises(UserError, match="budget"):
        asyncio.run(make_judge("pair_logprob").judge(ask, question(), [view(0.1), view(0.9)], TASK))
    assert len(done) == 1


def test_what_cannot_be_read_is_asked_again_and_a_refusal_is_not():
    ask, requests = asked(in_turn("seen", "well", "hm", "2"))
    found = asyncio.run(make_judge("pair", tries=3, swap=False).judge(ask, question(), [view(0.1), view(0.9)], TASK))
    assert found.orders == (1.0,) and [r.attempt for r in requests] == [0, 0, 1, 2]
    assert [r.temperature for r in requests] == [0.0, 0.0, REPEAT_TEMPERATURE, REPEAT_TEMPERATURE]
    for refused in (Reply("", "stop", refusal="I will not."), Reply("2", "content_filter")):
        ask, requests = asked(in_turn(refused))
        found = asyncio.run(make_judge("pair", swap=False).judge(ask, question(), [view(0.1), view(0.9)], TASK))
        assert found.value == (SKIP, None, None) and found.detail["outcomes"] == ["refused"] and len(requests) == 1


def test_one_order_that_says_nothing_leaves_the_other():
    found = judge("pair_logprob", in_turn("hm", "2", "hm"), [view(0.1), view(0.9)], tries=2)
    assert found.orders == (None, 0.0) and found.value == (ANSWER, 0.0, None)
    assert found.detail == {"outcomes": ["unreadable", "said"]}


# Pairs by log-probabilities


@pytest.mark.parametrize(
    "listed, text, p",
    [
        ({"1": 0.2, "2": 0.6}, "2", 0.75),
        ({"1": 0.2, " 1": 0.1, "2": 0.3, " 2": 0.2, "second": 0.1, "The": 0.1}, "2", 6 / 9),
        ({"1": 0.9, "I": 0.1}, "1", 0.0),
        ({"▁2": 0.5, "**1": 0.5}, "▁2", 0.5),
        ({"I": 0.995, "1": 0.004, "2": 0.001}, "I", None),
        ({"I": 0.9, "1": 0.02, "2": 0.06}, "I", 0.75),
    ],
)
def test_the_expected_preference_is_the_share_of_the_second(listed, text, p):
    found = judge("pair_logprob", lambda r: reply(text, listed), [view(0.1), view(0.9)], swap=False, tries=1)
    assert found.orders[0] == (p if p is None else pytest.approx(p))


def test_the_first_token_that_answers_counts():
    """After white space, formatting, and what the model thought; not a list's number, nor a word in a sentence."""
    two = {"1": 0.25, "2": 0.75}
    for before in (
        [],
        ["\n"],
        ["**"],
        ["Answer", ":", " "],
        ["<think>", "case", " 1", "?", "</think>", "\n\n"],
        ['{"', "answer", '":'],
    ):
        tokens = [*(token(text, {text: 0.9, "1": 0.1}) for text in before), token("2", two)]
        made = Reply("".join(t.text for t in tokens), "stop", tuple(tokens))
        assert judge("pair_logprob", lambda r, m=made: m, [view(0.1), view(0.9)], swap=False).orders == (
            pytest.approx(0.75),
        )
    hidden = [token(text, {text: 1.0}) for text in ("is", " 1", " better", "?")] + [token("2", two)]
    made = Reply("2", "stop", tuple(hidden))  # a server that lists what was thought and leaves it out of the words
    assert judge("pair_logprob", lambda r: made, [view(0.1), view(0.9)], swap=False).orders == (pytest.approx(0.75),)


@pytest.mark.parametrize(
    "tokens, p",
    [
        (["1", ".", " In", " case", " 1"], None),
        (["First", ",", " I", " look"], None),
        (["1", " and", " 2", " look", " alike"], None),
        (["1", "2"], None),
        (["-", "1"], None),
        (["Case", " 2", "\n\n", "It", " is", " open"], 1.0),
        (["The", " second", " one", "."], 1.0),
        (['{"', "choice", '":', " ", "2", ",", ' "why', '":'], 1.0),
        (["**", "2", "**", "<|im_end|>"], 1.0),
    ],
)
def test_a_token_answers_where_it_stands_alone(tokens, p):
    """Each token is as good as certain, so that nothing hides behind an alternative."""
    made = Reply("".join(tokens), "length", tuple(token(text, {text: 1.0}) for text in tokens))
    assert judge("pair_logprob", lambda r: made, [view(0.1), view(0.9)], swap=False).orders == (p,)


def test_without_log_probabilities_the_word_counts():
    for text, label in (("1", 0.0), ("2", 1.0), ("0", 0.5), ("equal", 0.5), ("?", None), ("maybe 2 of them", None)):
        assert judge("pair_logprob", lambda r, t=text: reply(t), [view(0.1), view(0.9)], swap=False).orders == (label,)


def test_a_position_bias_cancels_over_both_orders():
    """A model that adds 20 points to whatever comes first: each order is off by as much, their mean is right."""

    def biased(request: Request) -> Reply:
        first, second = shown(request)
        p = 0.5 + (second - first) / 2 - 0.2
        return reply("1", {"1": 1 - p, "2": p})

    rng = random.Random(0)
    for _ in range(20):
        a, b = rng.uniform(0.3, 0.7), rng.uniform(0.3, 0.7)
        found = judge("pair_logprob", biased, [view(a), view(b)])
        right = 0.5 + (b - a) / 2
        assert found.orders == (pytest.approx(right - 0.2), pytest.approx(right + 0.2))
        assert found.value.label == pytest.approx(right)
        check_value(question(), found.value)


# Ratings


def test_a_rating_is_the_expected_level():
    listed = {"3": 0.2, "4": 0.4, " 5": 0.2, "Well": 0.2}
    found = judge("rating", lambda r: reply("4", listed), [FRAMES], "rating")
    assert found.value == (ANSWER, pytest.approx((3 * 0.2 + 4 * 0.4 + 5 * 0.2) / 0.8), None)
    check_value(question("rating"), found.value)


@pytest.mark.parametrize(
    "text, level",
    [
        ("4", 4),
        ("Level 4", 4),
        ("4/5", 4),
        ("4: good; nearly done", None),
        ('{"rating": 4}', 4),
        ("very good", 5),
        ("6", None),
        ("0", None),
        ("3.5", None),
        ("4 or 5", None),
        ("", None),
        ('{"rating": 9}', None),
    ],
)
def test_a_rating_in_words(text, level):
    found = judge("rating", lambda r: reply(text), [FRAMES], "rating")
    assert found.value.label == level and found.value.outcome == (SKIP if level is None else ANSWER)


def test_two_ratings_make_a_preference_and_equal_levels_a_tie():
    def levels(*said: Reply):
        return judge("rating", in_turn(*said), [view(0.1), view(0.9)]).value

    assert levels(reply("2"), reply("4")) == (ANSWER, 1.0, None)
    assert levels(reply("4"), reply("2")) == (ANSWER, 0.0, None)
    assert levels(reply("4"), reply("4")) == (TIE, 0.5, None)
    assert levels(reply("4"), Reply("", "stop", refusal="no")) == (SKIP, None, None)
    # P(above) = .5 (.3 + .2) + .5 * .2, P(equal) = .5 * .5 + .5 * .3
    p = 0.5 * 0.5 + 0.5 * 0.2 + (0.5 * 0.5 + 0.5 * 0.3) / 2
    soft = levels(reply("2", {"2": 0.5, "3": 0.5}), reply("2", {"2": 0.5, "3": 0.3, "4": 0.2}))
    assert soft.label == pytest.approx(p)


# Progress


def percentages(request: Request, form: str = "Frame {i}: {p:.0f}%") -> Reply:
    """How far each shuffled frame is, the reference left out."""
    rows = [form.format(i=i, p=100 * q) for i, q in enumerate(shown(request)[1:], start=1)]
    return Reply("\n".join(rows), "stop")


def test_frames_are_shuffled_and_progress_put_back_in_order():
    ask, requests = asked(percentages)
    found = asyncio.run(make_judge("progress").judge(ask, question("rating"), [FRAMES], TASK))
    assert found.value == (ANSWER, 1.0, None) and found.detail["progress"] == [[0.0, 0.5, 0.25, 0.75, 1.0]]
    assert shown(requests[0])[0] == 0.0 and sorted(shown(requests[0])[1:]) == [0.25, 0.5, 0.75, 1.0]
    assert " s:" not in words(requests[0])  # a time would tell the order
    orders = set()
    for first in range(12):
        ask, requests = asked(percentages)
        again = asyncio.run(make_judge("progress").judge(ask, question("rating", first), [FRAMES], TASK))
        assert again.value == found.value
        orders.add(tuple(shown(requests[0])))
    assert len(orders) > 6  # each question has its own
    ask, requests = asked(percentages)
    values = asyncio.run(make_judge("progress").values(ask, FRAMES, TASK, random.Random(3)))  # type: ignore[attr-defined]
    assert values == [0.0, 0.5, 0.25, 0.75, 1.0]


@pytest.mark.parametrize(
    "form",
    [
        "Frame {i}: {p:.0f}%",
        "**Frame {i}**: {p:.0f} %",
        "- Frame {i}: the robot moves, task completion: {p:.0f}%",
        "{i}: {p:.0f}%",
        '{{"frame": {i}, "progress": {p:.0f}}},',
        '"Frame {i}": "{p:.0f}%",',
        '"frame_{i}": {p:.0f},',
        "{i}. Frame {i}: {p:.0f}%",
        "Frame {i} - {p:.0f} percent",
        "Frame {i}: Description: like frame 1. {p:.0f}%",
        "Frame {i}:\nIt moves.\n{p:.0f}%\n",
        "Frame {i}: {p:.0f}",
    ],
)
def test_percentages_in_many_forms(form):
    found = judge("progress", lambda r: percentages(r, form), [FRAMES], "rating")
    assert found.detail["progress"] == [[0.0, 0.5, 0.25, 0.75, 1.0]]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I see no frames.",
        "All are at 40%.",
        "Frame 1: -5%",
        "Frame 1: 140%",
        "Frame 1: 0.4",
        "Frame 1: between 30% and 40%",
        '{"Frame 1": 0.4}',
        "Frame 9: 40%",
    ],
)
def test_what_says_no_percentage_is_none(text):
    found = judge("progress", lambda r: Reply(text, "stop"), [view(0.0, 0.4)], "rating")
    assert found.value == (SKIP, None, None) and found.detail == {"progress": [None], "outcomes": ["unreadable"]}


def test_a_number_that_was_cut_off_is_none():
    for text in ("Frame 1: 4", '{"Frame 1": 4', '[{"frame": 1, "progress": 4'):
        assert judge("progress", lambda r, t=text: Reply(t, "length"), [view(0.0, 0.4)], "rating").value.outcome == SKIP
    for text in ("Frame 1: 4%\n", '{"Frame 1": 4,', '[{"frame": 1, "progress": 4}, {"fr'):
        assert judge("progress", lambda r, t=text: Reply(t, "length"), [view(0.0, 0.4)], "rating").value.label == 0.04


def test_progress_compares_what_was_gained():
    views = [view(0.0, 0.4), view(0.0, 0.7)]
    assert judge("progress", percentages, views).value.label == pytest.approx(0.5 + (0.7 - 0.4) / 2)
    assert judge("progress", percentages, views, margin=0.2).value == (ANSWER, 1.0, None)
    assert judge("progress", percentages, views[::-1], margin=0.2).value == (ANSWER, 0.0, None)
    assert judge("progress", percentages, views, margin=0.3).value == (TIE, 0.5, None)
    with pytest.raises(UserError, match="vlm.view=frames"):
        judge("progress", percentages, [view(0.4), view(0.7)])


# The probability of True


def test_the_label_is_the_log_odds_of_true():
    listed = {"True": 0.5, " true": 0.1, "False": 0.2, "The": 0.2}
    found = judge("true_probability", lambda r: reply("True", listed), [FRAMES], "rating")
    assert found.value == (ANSWER, pytest.approx(math.log(0.6 / 0.2)), None)
    check_value(question("rating"), found.value)


def test_a_word_that_is_not_listed_counts_as_the_least():
    found = judge("true_probability", lambda r: reply("True", {"True": 0.9, "Yes": 0.01}), [FRAMES], "rating")
    assert found.value.label == pytest.approx(math.log(0.9 / 0.01))
    alone = judge("true_probability", lambda r: reply("True", {"True": 0.9}), [FRAMES], "rating")
    assert alone.value.outcome == SKIP


def test_two_log_odds_make_a_preference():
    def answer(request: Request) -> Reply:
        p = shown(request)[-1]
        return reply("True", {"True": p, "False": 1 - p})

    found = judge("true_probability", answer, [view(0.0, 0.4), view(0.0, 0.8)])
    odds = (0.8 / 0.2) / (0.4 / 0.6)
    assert found.value.label == pytest.approx(odds / (1 + odds))


def test_without_log_probabilities_it_is_a_sentence():
    with pytest.raises(
        UserError, match="needs log-probabilities, which small-vlm does not give: choose vlm.judge=progress"
    ):
        judge("true_probability", lambda r: Reply("True", "stop", model="small-vlm"), [FRAMES], "rating")
    for nothing in (Reply("", "stop"), Reply("", "content_filter")):
        assert judge("true_probability", lambda r, n=nothing: n, [FRAMES], "rating").value.outcome == SKIP


def test_frames_are_shown_with_their_times():
    [request] = make_judge("rating").requests(question("rating"), [view(0.0, 0.1)], TASK)
    assert re.search(r"At 0\.0 s:\s*<picture>\s*At 0\.5 s:\s*<picture>", words(request))
    [request] = make_judge("rating").requests(question("rating"), [view(0.3)], TASK)
    assert " s:" not in words(request) and request.pictures == (picture(0.3),)


PIECES = [
    "1",
    "2",
    "0",
    "?",
    "-",
    ".",
    ":",
    "%",
    "/",
    " ",
    "\n",
    "{",
    "}",
    '"',
    "answer",
    "rating",
    "Frame",
    "True",
    "</think>",
]
PIECES += [
    "<think>",
    "```json\n",
    "[",
    "]",
    ",",
    "case",
    "5",
    "99999999999",
    "é",
    "\0",
    "<|channel|>",
    "first",
    "None",
    "\\boxed",
]


@pytest.mark.parametrize("name", NAMES)
def test_no_reply_at_all_makes_a_judge_fail(name):
    """Made of pieces at random, whole or cut off, with tokens and without: an answer that fits, or a skip."""
    rng, kinds, answered = random.Random(0), make_judge(name).kinds, 0

    def garbage(request: Request) -> Reply:
        pieces = rng.choices(PIECES, k=rng.randrange(8))
        tokens = tuple(token(p, {p: 0.5, rng.choice(PIECES): 0.3}) for p in pieces)
        has_tokens = name == "true_probability" or rng.random() < 0.5
        return Reply("".join(pieces), rng.choice(["stop", "length", "tool_calls"]), tokens if has_tokens else None)

    for _ in range(400):
        kind = rng.choice(kinds)
        found = judge(name, garbage, [view(0.0, 0.5, 1.0)] * (2 if kind == "pair" else 1), kind, tries=1)
        check_value(question(kind), found.value)
        answered += found.value.outcome != SKIP
    assert answered < 400

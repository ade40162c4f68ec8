"""The transcript and the budget: what was paid for stays, and no more is spent than may be."""

import errno
import json
import os
from dataclasses import replace

import pytest

from pbrl.types import UserError
from pbrl.vlm.budget import Budget, BudgetReached, Limits, Price
from pbrl.vlm.messages import Picture, Reply, Request, Token
from pbrl.vlm.transcript import Transcript

PICTURE = Picture(b"\xff\xd8 one")
REQUEST = Request(("Which?", PICTURE), 5, top=3, more={"a": 1, "b": 2})
REPLY = Reply("2", "stop", (Token("2", -0.1, (("2", -0.1), ("1", -2.4))),), None, 310, 1, 0.5, "m")


def test_a_reply_comes_back_as_it_was(tmp_path):
    Transcript(tmp_path).add(REQUEST, "m", REPLY)
    found = Transcript(tmp_path).find(REQUEST, "m")
    assert found == replace(REPLY, is_kept=True)
    assert (tmp_path / "pictures" / f"{PICTURE.id}.jpeg").read_bytes() == PICTURE.data


def test_what_makes_another_request(tmp_path):
    kept = Transcript(tmp_path)
    kept.add(REQUEST, "m", REPLY)
    others = [
        replace(REQUEST, parts=("Which one?", PICTURE)),
        replace(REQUEST, parts=("Which?", Picture(b"\xff\xd8 two"))),
        replace(REQUEST, parts=(PICTURE, "Which?")),
        replace(REQUEST, temperature=0.5),
        replace(REQUEST, max_tokens=6),
        replace(REQUEST, top=0),
        replace(REQUEST, attempt=1),
        replace(REQUEST, more={"a": 2}),
    ]
    assert all(kept.find(other, "m") is None for other in others) and kept.find(REQUEST, "n") is None
    assert kept.find(replace(REQUEST, more={"b": 2, "a": 1}), "m") is not None, "the order of keys means nothing"


def test_a_line_that_was_cut_off_costs_that_reply_alone(tmp_path):
    kept = Transcript(tmp_path)
    kept.add(REQUEST, "m", REPLY)
    with kept.file.open("ab") as file:
        file.write(b'{"key": "half')
    again = Transcript(tmp_path)
    again.add(replace(REQUEST, attempt=1), "m", REPLY)
    last = Transcript(tmp_path)
    assert last.find(REQUEST, "m") and last.find(replace(REQUEST, attempt=1), "m") and last.cut_off == 1
    assert len(last.rows()) == 2


def test_two_programs_write_to_one_file(tmp_path):
    one, other = Transcript(tmp_path), Transcript(tmp_path)
    for i in range(20):
        (one, other)[i % 2].add(replace(REQUEST, attempt=i), "m", REPLY)
    one.refresh()
    assert all(one.find(replace(REQUEST, attempt=i), "m") for i in range(20)) and one.cut_off == 0


def test_a_full_disk_is_a_sentence_and_loses_nothing(tmp_path, monkeypatch):
    kept = Transcript(tmp_path)
    kept.add(REQUEST, "m", REPLY)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(UserError, match="free some space"):
            kept.add(replace(REQUEST, attempt=1), "m", REPLY)
    assert kept.find(replace(REQUEST, attempt=1), "m") is None, "what is not on the disk is not used"
    kept.add(replace(REQUEST, attempt=2), "m", REPLY)
    assert [json.loads(line)["request"]["attempt"] for line in kept.file.read_text().splitlines()] == [0, 2]


def test_a_budget_by_hand():
    budget = Budget(Limits(), Price(2.0, 10.0), picture_tokens=300)
    assert budget.estimate(Request(("a" * 400, PICTURE, PICTURE), 50)) == (100 + 600, 50)
    budget.settle(budget.reserve(REQUEST), REPLY)
    assert budget.tokens == 311 and budget.cost == pytest.approx((310 * 2 + 1 * 10) / 1e6)
    assert budget.reserved == [0.0, 0.0] and budget.requests == 1
    budget.settle(budget.reserve(REQUEST), None)
    assert budget.tokens == 311 and budget.requests == 1, "nothing is counted for a request without a reply"


def test_what_is_under_way_counts_before_it_is_paid():
    budget = Budget(Limits(tokens=1000), Price(None, None), picture_tokens=300)
    asked = Request(("", PICTURE), 100)  # 400 at most
    first, second = budget.reserve(asked), budget.reserve(asked)
    with pytest.raises(BudgetReached, match="vlm.budget.tokens=1000"):
        budget.reserve(asked)
    budget.settle(first, replace(REPLY, prompt_tokens=200, reply_tokens=0))  # it was cheaper than it could be
    third = budget.reserve(asked)
    budget.settle(second, REPLY)
    budget.settle(third, REPLY)
    assert budget.tokens <= 1000


def test_money_needs_a_price():
    with pytest.raises(UserError, match=r"vlm\.price\.input"):
        Budget(Limits(money=1.0), Price(None, 2.0), picture_tokens=1)
    budget = Budget(Limits(money=0.001), Price(1.0, 1.0), picture_tokens=600)
    budget.reserve(Request((PICTURE,), 100))
    with pytest.raises(BudgetReached, match=r"vlm\.budget\.money"):
        budget.reserve(Request((PICTURE,), 400))


def test_questions_are_counted_but_for_those_that_cost_nothing():
    budget = Budget(Limits(questions=2), Price(None, None), picture_tokens=1)
    budget.begin_question()
    budget.begin_question()
    with pytest.raises(BudgetReached):
        budget.begin_question()
    budget.return_question()
    budget.begin_question()

"""Transcripts in the formats of providers and servers, written by hand from their documentation, end in an answer, a
skip or a sentence.

A file of formats/ has for each case a judge, the response as it comes over the wire, and what it ends in: the `label`
of the answer, `skip` and why, `error` with words of the judge's sentence, or `no_reply` with words of why it is none.
"""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from pbrl.feedback.kinds import SKIP
from pbrl.feedback.questions import check_value
from pbrl.types import UserError
from pbrl.vlm.client import read_reply
from pbrl.vlm.judging import judge_names, make_judge
from pbrl.vlm.messages import Reply, Request
from pbrl.vlm.transcript import Transcript
from tests.vlm.scripted import TASK, asked, picture, question, view

FILES = sorted(Path(__file__).parent.joinpath("formats").glob("*.json"))
CASES = {f"{file.stem}: {name}": case for file in FILES for name, case in json.loads(file.read_text())["cases"].items()}
ENDS = ("label", "skip", "error", "no_reply")
ANSWERING = [name for name, case in CASES.items() if "no_reply" not in case]


def judge_reply(case: dict[str, Any], reply: Reply) -> Any:
    """What the judge makes of a reply to all that it asks, but for the first stage of a pair."""
    kind = "pair" if case["judge"].startswith("pair") else "rating"
    settings = {"swap": False} if kind == "pair" else {}
    is_first_stage = (lambda request: bool(request.pictures)) if case["judge"] == "pair" else (lambda request: False)
    ask, _ = asked(lambda request: Reply("Both were seen.", "stop") if is_first_stage(request) else reply)
    views = [view(0.1, 0.9)] * (2 if kind == "pair" else 1)
    return question(kind), asyncio.run(make_judge(case["judge"], **settings).judge(ask, question(kind), views, TASK))


def check_end(case: dict[str, Any], reply: Reply) -> None:
    if "error" in case:
        with pytest.raises(UserError, match=case["error"]):
            judge_reply(case, reply)
        return
    about, found = judge_reply(case, reply)
    if "skip" in case:
        assert found.value == (SKIP, None, None) and found.detail["outcomes"] == [case["skip"]]
    else:
        assert found.value.label == pytest.approx(case["label"]) and found.detail["outcomes"] == ["said"]
    check_value(about, found.value)
    json.dumps(found.detail, allow_nan=False)


def test_all_cases_say_how_they_end():
    assert len(CASES) >= 30 and all(sum(end in case for end in ENDS) == 1 for case in CASES.values())
    assert {end for case in CASES.values() for end in ENDS if end in case} == set(ENDS)
    assert {case["judge"] for case in CASES.values()} == set(judge_names())


@pytest.mark.parametrize("name", CASES)
def test_a_transcript_ends_in_an_answer_a_skip_or_a_sentence(name):
    case = CASES[name]
    if "no_reply" in case:
        with pytest.raises(ValueError, match=case["no_reply"]):  # which the client asks again
            read_reply(case["response"])
    else:
        check_end(case, read_reply(case["response"]))


@pytest.mark.parametrize("name", ANSWERING)
def test_it_ends_the_same_out_of_the_transcript(name, tmp_path):
    request = Request(("?", picture(0.5)), 8)
    Transcript(tmp_path).add(request, "m", read_reply(CASES[name]["response"]))
    line = (tmp_path / "transcript.jsonl").read_text()
    json.loads(line, parse_constant=pytest.fail)  # as any reader of JSON can read it
    kept = Transcript(tmp_path).find(request, "m")
    assert kept is not None and kept.is_kept
    check_end(CASES[name], kept)

"""The simulated judge errs as its profile says, says the same again, and is a server that the client can use."""

import asyncio
import json
import random

import pytest
from scipy.stats import binom

from benchmarks import simulated_judge
from benchmarks.simulated_answers import Part, Profile, respond
from pbrl.vlm.client import Client, NoReply, Server
from pbrl.vlm.messages import Picture, Request

COUNT = 2000
ENDS = {"one token": "Answer with the digit 1 or 2 alone.", "single": "End with a line …", "prose": "Compare them."}


def pair(first: str, second: str, end: str = ENDS["one token"]) -> list[Part]:
    return [Part("Case 1:\n"), Part(picture=first), Part("Case 2:\n"), Part(picture=second), Part(end)]


def questions(seed: int = 0) -> tuple[list[tuple[str, str]], dict[str, float]]:
    """Pairs of pictures, the better one first in half of them, with values at least 1 apart."""
    draw = random.Random(seed)
    pairs, values = [], {}
    for i in range(COUNT):
        low, gap = draw.uniform(0, 5), draw.uniform(1, 5)
        names = (f"{i}a", f"{i}b")
        values |= dict(zip(names, (low, low + gap) if i % 2 else (low + gap, low), strict=True))
        pairs.append(names)
    return pairs, values


def is_within(count: int, p: float) -> bool:
    """Whether so many of COUNT is no surprise, at one in a million."""
    return binom.ppf(5e-7, COUNT, p) <= count <= binom.isf(5e-7, COUNT, p)


@pytest.mark.parametrize("error", [0.0, 0.1, 0.3, 1.0])
def test_share_of_wrong_answers(error):
    pairs, values = questions()
    replies = [respond(Profile(error=error), pair(*names), values).text for names in pairs]
    wrong = sum((reply == "2") != (i % 2 == 1) for i, reply in enumerate(replies))
    assert is_within(wrong, error)


def test_mistakes_are_the_same_in_both_orders():
    pairs, values = questions()
    profile = Profile(error=0.3)
    for a, b in pairs[:200]:
        p, q = (respond(profile, pair(*names), values).top["2"] for names in ((a, b), (b, a)))
        assert p == pytest.approx(1 - q)


def test_pairs_that_are_alike_are_a_coin():
    values = {f"{i}{side}": 0.0 if side == "a" else 1e-6 for i in range(COUNT) for side in "ab"}
    profile = Profile(error=0.1, closeness=1.0)
    wrong = sum(respond(profile, pair(f"{i}a", f"{i}b"), values).text == "1" for i in range(COUNT))
    assert is_within(wrong, 0.5)


@pytest.mark.parametrize("end", ENDS.values())
def test_position_bias(end):
    pairs, values = questions()
    profile = Profile(first=0.2)
    replies = [respond(profile, pair(*names, end), values) for names in pairs]
    if replies[0].top:
        assert sum(reply.top["1"] for reply in replies) / COUNT == pytest.approx(0.7, abs=0.01)
    else:
        assert is_within(sum("in case 1." in reply.text for reply in replies), 0.7)


def test_verdict_repeats_the_prose():
    pairs, values = questions()
    for names in pairs[:50]:
        prose = respond(Profile(error=0.3), pair(*names, ENDS["prose"]), values).text
        choice = respond(Profile(error=0.3), [Part(f'What they wrote:\n"""\n{prose}\n"""\nAnswer …')], values).text
        assert choice == ("1" if "in case 1." in prose else "2")


def test_ties_refusals_and_unreadable_replies():
    pairs, values = questions()
    assert respond(Profile(tie=100.0), pair(*pairs[0], ENDS["single"]), values).text.endswith("\n0")
    assert respond(Profile(tie=100.0), pair(*pairs[0]), values).top == {"1": 0.5, "2": 0.5}
    replies = [respond(Profile(refuse=0.2, malformed=0.5), pair(*names), values) for names in pairs]
    refused = sum(reply.refusal is not None for reply in replies)
    assert is_within(refused, 0.2)
    assert is_within(sum(reply.refusal is None and reply.text not in ("1", "2") for reply in replies), 0.8 * 0.5)


def test_replies_repeat_and_depend_on_the_seed():
    pairs, values = questions()
    profile = Profile(error=0.3, first=0.1, refuse=0.1, malformed=0.1)
    said, again, other = (
        [respond(own, pair(*names), values) for names in pairs[:200]]
        for own in (profile, Profile(**vars(profile)), Profile(**{**vars(profile), "seed": 1}))
    )
    assert said == again != other


def test_levels_percentages_and_truth():
    values = {"low": 0.0, "middle": 5.0, "high": 10.0}
    level = "Answer with the digit of the level alone"
    for name, digit in (("low", "1"), ("middle", "3"), ("high", "5")):
        said = respond(Profile(), [Part(picture=name), Part(level)], values)
        assert said.text == digit and sum(said.top.values()) == pytest.approx(1)
    parts = [Part("reference"), Part(picture="low"), Part("in random order"), Part("Frame 1:"), Part(picture="high"),
             Part("Frame 2:"), Part(picture="middle"), Part("such as\nFrame 1: 35%")]  # fmt: skip
    assert respond(Profile(), parts, values).text == "Frame 1: 100%\nFrame 2: 50%"
    truth = [Part(picture="high"), Part(picture="middle"), Part("Answer with one word alone, True or False.")]
    assert respond(Profile(), truth, values).top["True"] == pytest.approx(0.5)
    assert respond(Profile(error=1.0), [Part(picture="high"), truth[-1]], values).text == "False"


def test_what_it_does_not_know_is_refused():
    with pytest.raises(ValueError, match="no judge"):
        respond(Profile(), [Part(picture="a"), Part("Draw me a sheep.")], {"a": 1.0})


# As a server


PICTURES = [Picture(b"\xff\xd8" + bytes([i])) for i in range(20)]


def make_request(first: Picture, second: Picture, top: int = 20) -> Request:
    return Request(("Case 1:", first, "Case 2:", second, ENDS["one token"]), 8, top=top)


def write_key(path, pictures=PICTURES):
    path.write_text("".join(json.dumps({"picture": p.id, "value": i}) + "\n" for i, p in enumerate(pictures)))


def complete(base_url: str, requests: list[Request], **more):
    settings = {"retries": 3, "backoff_s": 0.01, **more}
    server = Server(base_url, None, None, True, True, concurrency=4, timeout_s=20, **settings)

    async def work():
        client = Client(server)
        await client.check()
        try:
            return await asyncio.gather(*(client.complete(r) for r in requests), return_exceptions=True)
        finally:
            await client.close()

    return asyncio.run(work())


def test_client_gets_replies_with_log_probabilities(tmp_path):
    write_key(tmp_path / "key.jsonl", PICTURES[:10])
    judge = simulated_judge.start(tmp_path / "key.jsonl", error=0.0, tie=0.5)
    try:
        (reply,) = complete(judge.base_url, [make_request(PICTURES[1], PICTURES[4])])
        assert (reply.text, reply.finish, reply.model) == ("2", "stop", "simulated-judge-tie-0.5")
        assert dict(reply.tokens[0].top).keys() == {"1", "2"} and reply.prompt_tokens > 600
        write_key(tmp_path / "key.jsonl")  # the file has grown
        (reply,) = complete(judge.base_url, [make_request(PICTURES[15], PICTURES[4], top=0)])
        assert reply.text == "1" and reply.tokens is None
        (error,) = complete(judge.base_url, [make_request(Picture(b"\xff\xd8?"), PICTURES[4])])
        assert "has no picture" in str(error)
        assert judge.counts() | {"prompt_tokens": 0, "reply_tokens": 0} == {
            "requests": 3, "answered": 2, "repeated": 0, "failed": 0, "dropped": 0, "refused": 0, "prompt_tokens": 0,
            "reply_tokens": 0}  # fmt: skip
    finally:
        judge.stop()


def test_failures_pass_when_the_request_comes_again(tmp_path):
    write_key(tmp_path / "key.jsonl")
    judge = simulated_judge.start(tmp_path / "key.jsonl", fail=0.4, drop=0.4)
    try:
        requests = [make_request(a, b) for a in PICTURES[:10] for b in PICTURES[10:]]
        replies = complete(judge.base_url, requests)
        assert [reply.text for reply in replies] == ["2"] * len(requests)
        counts = judge.counts()
        assert counts["answered"] == len(requests) and counts["repeated"] == 0
        assert counts["failed"] > 10 and counts["dropped"] > 10
        assert counts["requests"] == counts["answered"] + counts["failed"] + counts["dropped"]
    finally:
        judge.stop()


def test_slow_replies_run_into_the_time_out(tmp_path):
    write_key(tmp_path / "key.jsonl")
    judge = simulated_judge.start(tmp_path / "key.jsonl", slow=1.0, slow_s=5.0)
    try:
        server = Server(judge.base_url, None, None, True, True, 4, timeout_s=0.2, retries=0, backoff_s=0.0)

        async def work():
            client = Client(server)
            client.model = simulated_judge.MODEL
            with pytest.raises(NoReply):
                await client.complete(make_request(*PICTURES[:2]))
            await client.close()

        asyncio.run(work())
    finally:
        judge.stop()

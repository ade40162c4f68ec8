"""Each way of judging end to end: clips of the point world, the client, the simulated judge's server, and the store.

The judge knows the true reward, the point's nearness; so what each answer must be is known by hand.
"""

import math

import pytest

from pbrl.feedback.store.store import Store
from pbrl.vlm.settings import Settings
from tests.parts import config
from tests.vlm.labelling import ask, run, serve

LOW, HIGH = -1.0, 2.0  # what the judge takes for 0 and for 100 %
COUNT = 6
FRAMES = 3
ORDERED = ["rating", "progress", "true_probability"]


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    with serve(tmp_path_factory.mktemp("key"), low=LOW, high=HIGH) as judge:
        yield judge


@pytest.fixture
def label(data, judge, tmp_path):
    """Asks questions of a kind and has them answered: (clips, answer's value) of each, and the labeller."""

    def work(kind: str, **more):
        store = Store(f"sqlite:///{tmp_path / 'a.sqlite'}")
        asked = ask(store, data[1], COUNT, kind=kind)
        own = {"base_url": judge[0].base_url, "answer_key": str(judge[1]), "cache": str(tmp_path / "cache"),
               "size": 256, "frames": FRAMES, "view": "frames", "task": "go home", "backoff_s": 0.01}  # fmt: skip
        labeller = run(store, data, Settings.parse({**config()["vlm"], **own, **more}))
        questions = store.questions(asked)
        assert labeller.error is None and not store.has_missing(asked)
        return [(questions[a.question].clips, a.value) for a in store.answers(asked)], labeller

    return work


def rewards(table, clip) -> list[float]:
    """The true reward of the steps that are shown."""
    row = table.row(clip)
    return [float(table.reward[row + step]) for step in (0, 2 if clip.length == 4 else 1, clip.length - 1)]


def share(value: float) -> float:
    return min(max((value - LOW) / (HIGH - LOW), 0.0), 1.0)


def level(values: list[float]) -> float:
    """The expected level of a judge whose levels are a normal distribution of width 1/2 about the share."""
    at = share(sum(values) / len(values))
    odds = {k: math.exp(-0.5 * (((k - 1) / 4 - at) * 4 / 0.5) ** 2) for k in range(1, 6)}
    return sum(k * odd for k, odd in odds.items()) / sum(odds.values())


def expected(name: str, values: list[float]) -> float:
    """The label of a clip."""
    if name == "rating":
        return level(values)
    p = share(values[-1])
    return round(100 * p) / 100 if name == "progress" else math.log(p) - math.log(1 - p)


@pytest.mark.parametrize("name", ORDERED)
def test_ratings_by_hand(name, data, label):
    answers, labeller = label("rating", judge=name)
    for (clip,), value in answers:
        assert value.label == pytest.approx(expected(name, rewards(data[1], clip)), abs=2e-3)
    assert len(answers) == COUNT == labeller.budget.requests and len({value.label for _, value in answers}) > 1


@pytest.mark.parametrize("name", [*ORDERED, "pair", "pair_logprob"])
def test_pairs_by_hand(name, data, label):
    answers, labeller = label("pair", judge=name)
    for clips, value in answers:
        first, second = (rewards(data[1], clip) for clip in clips)
        if name == "rating":
            assert (value.label - 0.5) * (level(second) - level(first)) > 0
        elif name == "progress":
            gain = expected(name, second) - expected(name, first)
            assert value.label == pytest.approx(0.5 + gain / 2)
        elif name == "true_probability":
            odds = expected(name, second) - expected(name, first)
            assert value.label == pytest.approx(1 / (1 + math.exp(-odds)), abs=1e-3)
        else:
            gap = (sum(second) - sum(first)) / FRAMES
            assert value.label == (float(gap > 0) if name == "pair" else pytest.approx(1 / (1 + math.exp(-gap))))
    assert len(answers) == COUNT and labeller.budget.requests == {"pair": 4}.get(name, 2) * COUNT

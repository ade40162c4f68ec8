"""A run that a model answers, killed and resumed; and one that goes on before all answers are there."""

import subprocess
import time
from pathlib import Path

import pytest

from benchmarks import simulated_judge
from pbrl.configs import compose_config
from pbrl.feedback.asking import Asking
from pbrl.feedback.kinds import ANSWER, Value
from pbrl.feedback.sources.context import Context
from pbrl.feedback.sources.vlm import VLM
from pbrl.feedback.store.answers import Answer
from pbrl.feedback.store.leases import lease
from pbrl.feedback.store.store import Store
from pbrl.settings import Query
from pbrl.vlm.settings import Settings
from tests.feedback.sources.test_routed import Run
from tests.feedback.sources.test_routed import flags as routed_flags
from tests.forks import Program
from tests.parts import config
from tests.training.test_loop import BASE, assert_same, flags, outcome, train_flags
from tests.vlm.labelling import draw, write

IN_FLIGHT = 2
ANSWERS = 24
SMALL = [
    "algo=iql", "algo.hidden=[16]", "reward=ensemble", "reward.hidden=[16]", "reward.steps=40", "query.kind=pair",
    "query.rounds=2", f"query.count={ANSWERS}", "query.length=1", "steps=80", "eval_every=40", "checkpoint_every=10",
    "data.episodes=10", "eval_episodes=2", "final_episodes=2",
    "compare=false", "feedback=vlm", "vlm.judge=pair_logprob", "vlm.view=frame", "vlm.size=32",
    "vlm.task=home", f"vlm.concurrency={IN_FLIGHT}",
]  # fmt: skip


@pytest.fixture
def judge(tmp_path):
    (tmp_path / "key.jsonl").touch()
    running = simulated_judge.start(tmp_path / "key.jsonl", latency_s=0.03, error=0.2)
    yield running
    running.stop()


@pytest.mark.slow
def test_killed_and_resumed_is_uninterrupted(tmp_path, judge):
    """In both rounds of questions and in between: weights, answers and log are the same, and none is paid for twice."""
    both = tmp_path / "whole", tmp_path / "killed"
    for folder in both:
        (folder / "cache").mkdir(parents=True)
        (folder / "cache" / "views").symlink_to(tmp_path / "views")
        (folder / "data").symlink_to(tmp_path / "data")
    (tmp_path / "views").mkdir(), (tmp_path / "data").mkdir()

    def words(folder: Path) -> list[str]:
        reached = [f"vlm.base_url={judge.base_url}", f"vlm.answer_key={tmp_path / 'key.jsonl'}"]
        return flags(folder, *SMALL, *reached, f"vlm.cache={folder / 'cache'}", base=BASE)

    train_flags(words(both[0]))
    whole = judge.counts()["answered"]
    assert whole == 2 * ANSWERS
    kills = 0
    metrics = both[1] / "run" / "metrics.jsonl"
    for is_time in (
        lambda: judge.counts()["answered"] >= whole + 9,
        lambda: "reward" in (metrics.read_text() if metrics.exists() else ""),
        lambda: judge.counts()["answered"] >= whole + ANSWERS + 9 + IN_FLIGHT,
    ):
        process = Program(["train.py", *words(both[1])], stdout=subprocess.DEVNULL)
        while process.poll() is None and not is_time():
            time.sleep(0.005)
        if process.poll() is None:
            process.kill(), process.wait()
            kills += 1
    train_flags(words(both[1]))
    assert kills == 3
    paid = judge.counts()["answered"] - whole
    lost = 2 * 2 * IN_FLIGHT  # at two of the kills: requests that were under way, and replies that were being written
    assert whole <= paid <= whole + lost
    assert_same(outcome(both[0]), outcome(both[1]))
    answers = [
        {a.uid: (a.question, a.rater, a.value) for a in Store(f"sqlite:///{f / 'run' / 'answers.sqlite'}").answers()}
        for f in both
    ]
    assert answers[0] == answers[1] and len(answers[0]) == ANSWERS


def test_training_goes_on_at_a_minimum_and_learns_from_the_rest(tmp_path, judge):
    source, table = write(tmp_path / "point")
    own = {"base_url": judge.base_url, "answer_key": str(tmp_path / "key.jsonl"), "cache": str(tmp_path / "cache")}
    given = {"judge": "pair_logprob", "view": "frame", "size": 32, "task": "home", "concurrency": 1, **own}
    parsed = Settings.parse({**config()["vlm"], **given})
    draw(source, table, parsed, table.clips(table.segment_starts(1).numpy(), 1))
    model = VLM(vlm={**config()["vlm"], **given}, minimum=2)
    query = Query(**{**config("query.kind=pair")["query"], "count": 20, "rounds": 1, "length": 1})
    store = Store(f"sqlite:///{tmp_path / 'a.sqlite'}")
    model.start(Context(store, table, query, tmp_path, source=source))
    try:
        asking = Asking(table=table, query=query, source=model, store=store)
        first = asking.ask(0, None)["answered"]
        assert 2 <= first < 20
        until = time.monotonic() + 60
        while store.has_missing(asking.questions) and time.monotonic() < until:
            time.sleep(0.02)
        assert asking.refresh()["answered"] == 20 == asking.labels.size and asking.refresh() == {}
    finally:
        model.stop()
    counts = judge.counts()
    assert counts["answered"] == model.labeller.budget.requests <= 40 and counts["repeated"] == 0  # type: ignore[union-attr]


def test_a_minimum_of_people_beside_the_model(tmp_path, judge):
    """Of the questions handed on, one answer lets the training go on; the other comes later, and is learnt from."""
    (tmp_path / "point").mkdir()
    data = write(tmp_path / "point" / "data")
    seen = Settings.parse(compose_config(*routed_flags(tmp_path, (judge, tmp_path / "key.jsonl")))["vlm"])
    draw(*data, seen, data[1].clips(data[1].segment_starts(1).numpy(), 1))
    people = ["feedback@feedback.person=people", "feedback.person.minimum=1", "feedback.person.serve=false"]
    with Run(tmp_path, data, (judge, tmp_path / "key.jsonl"), *people, count=10) as run:
        run.source.person.pause_s = 0.01  # type: ignore[attr-defined]
        run.store.add_rater("ada", "human")
        answer = run.source.person.answer

        def answer_one(questions) -> None:
            (one,) = lease(run.store, "ada", 1)
            run.store.append([Answer(f"ada-{one.id}"[:36], one.id, "ada", Value(ANSWER, 1.0))])
            answer(questions)

        run.source.person.answer = answer_one  # type: ignore[method-assign]
        run.asking.ask(0, None)
        assert run.asking.labels.size == 10 and len(run.by(model=True)) == 10 and len(run.by(model=False)) == 1
        (late,) = lease(run.store, "ada", 9)
        before = dict(zip(run.asking.labels.question, run.asking.labels.value, strict=True))
        run.store.append([Answer(f"ada-{late.id}"[:36], late.id, "ada", Value(ANSWER, 1.0))])
        run.asking.refresh()
        after = dict(zip(run.asking.labels.question, run.asking.labels.value, strict=True))
        assert after[late.id] > max(0.5, before[late.id]) and set(after) == set(before), "the person is believed"

"""A model as a rater, end to end: the point world, the real client, and a simulated judge that fails as it is told."""

import asyncio
import shlex
import subprocess
import time
from pathlib import Path

import pytest

from benchmarks import simulated_judge
from pbrl.data.table import Table
from pbrl.feedback.store.leases import lease
from pbrl.feedback.store.store import Store
from pbrl.types import UserError
from pbrl.vlm.labeller import Labeller
from pbrl.vlm.settings import Settings
from tests import forks
from tests.parts import config
from tests.vlm.labelling import COUNT, ask, run, serve, write


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    with serve(tmp_path_factory.mktemp("key")) as judge:
        yield judge


@pytest.fixture
def flaky(tmp_path):
    with serve(tmp_path, fail=0.15, drop=0.05) as judge:
        yield judge


def settings(server, tmp_path: Path, **more) -> Settings:
    running, key = server
    own = {"base_url": running.base_url, "answer_key": str(key), "cache": str(tmp_path / "cache"), "size": 32}
    given = {"judge": "pair_logprob", "view": "frame", "concurrency": 4, "backoff_s": 0.01, "task": "go home"}
    return Settings.parse({**config()["vlm"], **own, **given, **more})


def right(store: Store, table: Table, asked: list[str]) -> list[bool]:
    """Whether each answer prefers the clip whose last step has the higher true reward."""
    found = []
    questions = store.questions(asked)
    for answer in store.answers(asked):
        first, second = (float(table.reward[table.row(c) + c.length - 1]) for c in questions[answer.question].clips)
        assert answer.value is not None and answer.value.label is not None
        found.append((answer.value.label > 0.5) == (second > first))
    return found


def test_questions_are_answered_by_what_the_pictures_show(data, judge, tmp_path):
    store = Store(f"sqlite:///{tmp_path / 'a.sqlite'}")
    asked = ask(store, data[1])
    labeller = run(store, data, settings(judge, tmp_path), drawn=False)
    assert labeller.pictures.drawn == 2 * COUNT
    assert labeller.error is None and all(right(store, data[1], asked)) and len(store.answers(asked)) == COUNT
    answer = store.answers(asked)[0]
    assert answer.rater == labeller.rater and answer.value and answer.value.detail
    kept = answer.value.detail["vlm"]
    assert len(kept["orders"]) == 2 and kept["tokens"][0] > 0 and kept["cost"] is None
    assert labeller.budget.requests == 2 * COUNT, "both orders"
    assert not store.has_missing(asked) and not lease(store, labeller.rater, 5)


def test_what_was_paid_is_not_paid_again_and_can_be_replayed(data, judge, tmp_path):
    first, again = (Store(f"sqlite:///{tmp_path / name}.sqlite") for name in "ab")
    asked = ask(first, data[1])
    ask(again, data[1])
    run(first, data, settings(judge, tmp_path))
    before = judge[0].counts()["requests"]
    replayed = run(again, data, settings(judge, tmp_path, base_url="http://127.0.0.1:1/v1", replay=True,
                                         model=simulated_judge.MODEL))  # fmt: skip
    assert replayed.budget.requests == 0 and replayed.pictures.drawn == 0 and judge[0].counts()["requests"] == before
    values = [[(a.uid, a.value) for a in store.answers(asked)] for store in (first, again)]
    assert values[0] == values[1]


def test_a_replay_without_a_reply_is_a_sentence(data, judge, tmp_path):
    store = Store(f"sqlite:///{tmp_path / 'm.sqlite'}")
    ask(store, data[1])
    labeller = run(store, data, settings(judge, tmp_path, replay=True, model="m"))
    assert isinstance(labeller.error, UserError) and "has no reply" in str(labeller.error)


def test_a_server_that_fails_one_in_five_times(data, flaky, tmp_path):
    store = Store(f"sqlite:///{tmp_path / 'a.sqlite'}")
    asked = ask(store, data[1], 30)
    labeller = run(store, data, settings(flaky, tmp_path, retries=20))
    counts = flaky[0].counts()
    assert labeller.error is None and len(store.answers(asked)) == 30 and all(right(store, data[1], asked))
    assert counts["failed"] > 0 and counts["repeated"] == 0, "no answer was paid for twice"


@pytest.mark.parametrize(("limit", "most"), [({"questions": 5}, 5), ({"tokens": 3000}, 11)])
def test_a_budget_ends_it_and_more_goes_on(data, judge, tmp_path, limit, most):
    store = Store(f"sqlite:///{tmp_path / 'a.sqlite'}")
    asked = ask(store, data[1])
    budget = {"questions": None, "tokens": None, "money": None}
    labeller = run(store, data, settings(judge, tmp_path, budget={**budget, **limit}))
    given = len(store.answers(asked))
    assert labeller.error is None and labeller.ended and "is reached" in labeller.ended
    assert 0 < given <= most and labeller.budget.tokens <= limit.get("tokens", 10**9)
    run(store, data, settings(judge, tmp_path))
    assert len(store.answers(asked)) == COUNT


def test_other_prompts_views_and_models_are_other_raters(data, judge, tmp_path):
    names = set()
    for more in ({}, {"size": 48}, {"judge": "pair"}, {"swap": False}, {"view": "ends"}, {"task": "go away"}):
        labeller = Labeller(
            Store(f"sqlite:///{tmp_path / 'm.sqlite'}"),
            data[1],
            settings(judge, tmp_path, **more),
            data[0],
            instruction="",
        )
        asyncio.run(labeller.begin())
        names.add(labeller.rater)
    assert len(names) == 6


def test_beside_people(data, judge, tmp_path):
    """Of two answers that are wanted the model gives one; a question that is with a person is left alone."""
    store = Store(f"sqlite:///{tmp_path / 'a.sqlite'}")
    store.add_rater("ada", "human")
    both = ask(store, data[1], wanted=2)
    run(store, data, settings(judge, tmp_path))
    assert len(store.answers(both)) == COUNT and store.has_missing(both)
    alone = Store(f"sqlite:///{tmp_path / 'b.sqlite'}")
    alone.add_rater("ada", "human")
    asked = ask(alone, data[1])
    hers = {one.id for one in lease(alone, "ada", 4)}
    run(alone, data, settings(judge, tmp_path))
    assert {a.question for a in alone.answers(asked)} == set(asked) - hers


def test_questions_of_a_kind_that_it_does_not_answer_are_left(data, judge, tmp_path):
    store = Store(f"sqlite:///{tmp_path / 'm.sqlite'}")
    asked = ask(store, data[1], kind="rating")
    labeller = run(store, data, settings(judge, tmp_path))
    assert labeller.error is None and not store.answers(asked)


def test_no_server_is_a_sentence(data, judge, tmp_path):
    labeller = Labeller(Store(f"sqlite:///{tmp_path / 'm.sqlite'}"), data[1], settings(judge, tmp_path, base_url="http://127.0.0.1:1/v1"),
                        data[0], instruction="")  # fmt: skip
    with pytest.raises(UserError, match="nothing answers at"):
        asyncio.run(labeller.begin())


def test_a_model_that_is_not_there(data, judge, tmp_path):
    labeller = Labeller(
        Store(f"sqlite:///{tmp_path / 'm.sqlite'}"),
        data[1],
        settings(judge, tmp_path, model="other"),
        data[0],
        instruction="",
    )
    with pytest.raises(UserError, match=f"no such model, but {simulated_judge.MODEL}"):
        asyncio.run(labeller.begin())


def test_killed_in_the_middle_and_started_again(tmp_path):
    """The command, killed by SIGKILL, then the same command: each question once, nothing paid twice."""
    write(tmp_path / "point")
    store = f"sqlite:///{tmp_path / 'a.sqlite'}"
    with serve(tmp_path, latency_s=0.1) as (running, key):
        words = ["-m", "pbrl.label.vlm", "env=tests/point", f"data.path={tmp_path / 'point'}", "data=file",
                 "vlm.task=home", f"vlm.base_url={running.base_url}", "vlm.judge=pair_logprob", "vlm.size=32",
                 "vlm.view=frame", f"vlm.cache={tmp_path / 'cache'}", f"vlm.answer_key={key}", "query.length=4",
                 "query.count=40", "vlm.concurrency=2", f"store={store}", f"data_dir={tmp_path}",
                 "hydra.searchpath=[tests/configs]"]  # fmt: skip
        first = forks.Program(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        until = time.monotonic() + 60
        while running.counts()["answered"] < 12 and time.monotonic() < until and first.poll() is None:
            time.sleep(0.05)
        first.kill()
        first.communicate()
        given = len(Store(store).answers())
        again = forks.run(words, capture_output=True, text=True, timeout=120)
        assert again.returncode == 0, again.stdout + again.stderr
        counts = running.counts()
        assert 0 <= given < 40 and len(Store(store).answers()) == 40
        assert counts["answered"] - 80 <= 2 * 2, "two requests were under way, and their answers came to nobody"
        learn = shlex.split(again.stdout.rstrip().splitlines()[-1])  # the command that it says learns from them
        assert learn[:2] == ["python", "train.py"]
        words = [*learn[1:], "only=answers", f"run={tmp_path / 'run'}"]
        learned = forks.run(words, capture_output=True)
        assert learned.returncode == 0 and b"40 answered" in learned.stdout, learned.stdout + learned.stderr

"""A run asks people: it waits, says where, takes up answers and retractions, and asks anew where it is least sure."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from uuid import uuid4

import numpy as np
import pytest
import yaml

from pbrl.feedback.asking import Asking
from pbrl.feedback.questions import KINDS, Value
from pbrl.feedback.sources.people import People
from pbrl.feedback.store.answers import Answer
from pbrl.feedback.store.leases import lease
from pbrl.feedback.store.store import Store
from pbrl.settings import Query
from pbrl.types import UserError
from tests import forks, toy
from tests.feedback.examples import value
from tests.feedback.page.page import post
from tests.training.test_loop import BASE

PEOPLE = [
    "feedback=people", "query.kind=pair", "query.count=20", "algo=iql", "reward=ensemble", "reward.steps=40",
    "reward.hidden=[16]", "algo.hidden=[16]", "compare=false", "feedback.port=8300",
]  # fmt: skip


def asking_people(tmp_path, kind="pair", minimum=4, **options):
    """A run's questions to people; here they answer at once, in a thread of their own."""
    query = Query(kind=kind, count=8, rounds=2, length=8, span=2, strategy="uniform", candidates=1, per_list=1,
                  held_out=0.25, seed=0)  # fmt: skip
    store = Store(f"sqlite:///{tmp_path / 'answers.sqlite'}")
    store.add_rater("ada", "human")
    settings = dict(wanted=1, text=None, better="is better", strength=False, strengths=None, serve=False, port=0,
                    rater="ada")  # fmt: skip
    source = People(minimum=minimum, **{**settings, **options})
    source.store, source.pause_s = store, 0.01
    return Asking(table=toy.table(10), query=query, source=source, store=store), store


def answer(store: Store, question: str, label: float | None, detail: dict | None = None) -> str:
    uid = uuid4().hex
    store.append([Answer(uid, question, "ada", value(label)._replace(detail=detail))])
    return uid


def retract(store: Store, question: str, uid: str) -> None:
    store.append([Answer(uuid4().hex, question, "ada", kind="retract", supersedes=uid)])


def first_round(asking: Asking) -> tuple[threading.Thread, list[dict]]:
    """Asks in a thread; returns it, and where it puts what it finds, once the questions are asked."""
    found: list[dict] = []
    thread = threading.Thread(target=lambda: found.append(asking.ask(0, None)))
    thread.start()
    while len(asking.questions) < 4:
        time.sleep(0.01)
    return thread, found


def test_a_round_waits_reads_later_answers_and_drops_retracted_ones(tmp_path):
    asking, store = asking_people(tmp_path, minimum=2)
    thread, found = first_round(asking)
    first, *others = asking.questions
    uid = answer(store, first, 1.0)
    time.sleep(0.1)
    assert thread.is_alive(), "one answer is not enough"
    answer(store, others[0], None)
    time.sleep(0.1)
    assert thread.is_alive(), "nor is not being able to tell"
    answer(store, others[1], 0.5)
    thread.join(5)
    assert found[0]["answered"] == 2 and found[0]["skipped"] == 1
    assert asking.labels.size == 2 and asking.refresh() == {}
    retract(store, first, uid)
    assert asking.refresh()["answered"] == 1 and asking.refresh() == {}
    answer(store, first, 0.0)
    assert asking.refresh()["answered"] == 2
    assert sorted(asking.labels.value.tolist()) == [0.0, 0.5] and asking.labels.raters == ("ada",)


def test_the_next_round_asks_anew_instead(tmp_path):
    asking, store = asking_people(tmp_path, minimum=1)
    threading.Timer(0.2, lambda: answer(store, asking.questions[0], 1.0)).start()
    asking.ask(0, None)
    threading.Timer(0.2, lambda: answer(store, asking.questions[4], 0.0)).start()
    asking.ask(1, None)
    leased = [one.id for one in lease(store, "ada", 9)]
    assert leased == asking.questions[5:], "those of the round before are asked no more"
    assert asking.labels.size == 2


def test_a_round_ends_when_all_are_answered_though_some_could_not_tell(tmp_path):
    asking, store = asking_people(tmp_path, minimum=None)
    thread, found = first_round(asking)
    for i, question in enumerate(asking.questions):
        answer(store, question, None if i else 1.0)
    thread.join(5)
    assert found[0]["answered"] == 1 and found[0]["skipped"] == 3


def test_questions_are_put_in_the_words_of_the_settings(tmp_path):
    asking, store = asking_people(tmp_path, minimum=1, text="Which is gentler?", better="is gentler", wanted=2)
    thread, _ = first_round(asking)
    answer(store, asking.questions[0], 1.0)
    thread.join(5)
    asked = store.questions(asking.questions)[asking.questions[0]]
    assert asked.wording == {"text": "Which is gentler?", "better": "is gentler", "strength": False}
    assert (asked.wanted, asked.rater_kind) == (2, "human")
    assert all(People.kinds) and set(People.kinds) == set(KINDS)


def test_marked_spans_become_pieces(tmp_path):
    asking, store = asking_people(tmp_path, kind="spans", minimum=1)
    spans = {"spans": [{"start": 1, "end": 4, "good": True}, {"start": 5, "end": 7, "good": False}], "marks": []}
    thread, found = first_round(asking)
    store.append([Answer(uuid4().hex, asking.questions[0], "ada", Value("answer", None, spans))])
    thread.join(5)
    assert found[0]["answered"] == 1
    (clip,) = store.questions(asking.questions[:1])[asking.questions[0]].clips
    row = asking.table.row(clip)
    assert (asking.labels.starts[:, 0] - row).tolist() == [1, 3, 5] and asking.labels.value.tolist() == [1, 1, 0]
    assert asking.labels.length == 2 and set(asking.labels.question) == {asking.questions[0]}


def test_rankings_become_lists_as_they_come(tmp_path):
    asking, store = asking_people(tmp_path, "ranking", minimum=2)
    thread, found = first_round(asking)

    def rank(question, tiers):
        uid = uuid4().hex
        outcome = "tie" if len(tiers) == 1 else "answer"
        store.append([Answer(uid, question, "ada", Value(outcome, None, {"tiers": tiers}))])
        return uid

    uid = rank(asking.questions[0], [[3], [0, 2], [1]])
    rank(asking.questions[1], [[0], [1], [2], [3]])
    thread.join(5)
    assert found[0]["answered"] == 2
    ranks = dict(zip(asking.labels.starts[:, 0].tolist(), asking.labels.value.tolist(), strict=True))
    clips = store.questions(asking.questions)[asking.questions[0]].clips
    assert [ranks[asking.table.row(clip)] for clip in clips] == [1, 0, 1, 2], "ranks, 0 the worst"
    assert asking.labels.group.tolist() == [0] * 4 + [1] * 4, "two lists"
    retract(store, asking.questions[0], uid)
    assert asking.refresh()["answered"] == 1 and asking.labels.size == 4


def waiting(tmp_path, monkeypatch, pages):
    """A run that waits, and the pages that are opened for it one after another, each another process."""
    asking, store = asking_people(tmp_path, minimum=1)
    source, opened = asking.source, []

    def open_page(flags):
        opened.append(flags)
        return subprocess.Popen([sys.executable, "-c", pages[len(opened) - 1]]), "at http://localhost:8123/"

    monkeypatch.setattr("pbrl.feedback.sources.people.open_page", open_page)
    source.flags = ["run=x", "port=8000"]
    source.page, source.where = open_page(source.flags)
    return asking, store, opened


def test_a_page_that_ends_is_opened_again_where_it_was(tmp_path, monkeypatch):
    asking, store, opened = waiting(tmp_path, monkeypatch, ["exit(3)", "import time; time.sleep(60)"])
    thread, found = first_round(asking)
    while len(opened) < 2:
        time.sleep(0.01)
    answer(store, asking.questions[0], 1.0)
    thread.join(5)
    asking.source.stop()
    assert found[0]["answered"] == 1 and opened == [["run=x", "port=8000"], ["run=x", "port=8123"]]


def test_a_page_that_goes_on_ending_ends_the_run_in_a_sentence(tmp_path, monkeypatch):
    asking, _, opened = waiting(tmp_path, monkeypatch, ["exit(3)"] * 4)
    with pytest.raises(UserError, match=r"exit status 3.*no answer is lost"):
        asking.ask(0, None)
    assert len(opened) == 1 + People.restarts


def start(folder, *extra: str) -> tuple[subprocess.Popen, str]:
    """A run that asks people, and the address it says."""
    command = [
        "train.py",
        *BASE,
        *PEOPLE,
        f"run={folder / 'run'}",
        f"data_dir={folder / 'data'}",
        *extra,
    ]
    process = forks.Program(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(r"answers (http\S+)", line):
            return process, found[1]
    raise AssertionError("it said no address")


def annotate(at: str, store: Store, stop, pause_s: float = 0.0, mistake: float = 0.0) -> int:
    """Answers by what clips show, as a person at the page would; returns how often."""
    n, chance = 0, np.random.default_rng(0)
    rows = truth(store)
    while not stop():
        try:
            status, got = post(at + "api/next", {"n": 3})
        except OSError:
            return n
        for question in got["questions"] if status == 200 else []:
            starts = [rows(store.clips([path[7:-4]])[path[7:-4]]) for path in question["clips"]]
            label = bool(starts[1] > starts[0]) ^ bool(chance.random() < mistake)
            choice = {"choice": "second" if label else "first"}
            sent = {"uid": uuid4().hex, "question": question["question"], "kind": "answer", "value": choice}
            assert post(at + "api/answer", sent)[0] == 200
            n += 1
            time.sleep(pause_s)
        time.sleep(0.02)
    return n


def truth(store: Store):
    """The true return of a clip."""
    from pathlib import Path

    from pbrl.data import collect
    from pbrl.data.table import Table

    folder = Path(store.url.removeprefix("sqlite:///")).parent
    run = yaml.safe_load((folder / "config.yaml").read_text())
    source = {"folder": Path(run["data_dir"]), "seed": run["data_seed"], "workers": 0}
    table = Table(collect.load_dataset(run["env"], run["data"], **source)[0])
    return lambda clip: float(table.reward[table.row(clip) :][: clip.length].sum())


@pytest.mark.slow
def test_a_run_learns_from_the_page_and_goes_on_after_a_kill(tmp_path):
    """It waits with no answers; killed while it waits, it goes on; its page goes when it goes."""
    process, at = start(tmp_path, "query.rounds=2", "query.strategy=disagreement", "feedback.minimum=6")
    store = Store(f"sqlite:///{tmp_path / 'run/answers.sqlite'}")
    time.sleep(0.5)
    assert process.poll() is None and store.counts()["answered"] == 0 and store.counts()["asked"] == 10
    process.send_signal(signal.SIGKILL)
    process.wait()
    for _ in range(100):
        try:
            urllib.request.urlopen(at).close()
            time.sleep(0.1)
        except OSError:
            break
    else:
        raise AssertionError("the page outlived its run")
    process, at = start(tmp_path, "query.rounds=2", "query.strategy=disagreement", "feedback.minimum=6")
    annotate(at, store, lambda: process.poll() is not None)
    assert process.wait(60) == 0
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["answers"]["asked"] == 20 and result["answers"]["answered"] >= 12
    log = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    accuracies = [line["label_accuracy"] for line in log if "label_accuracy" in line]
    assert accuracies and set(accuracies) == {1.0}
    assert store.find_miscounted() == []


def test_queries_that_people_cannot_answer(tmp_path):
    from tests.training.test_loop import train

    with pytest.raises(UserError, match="3 to 5 clips"):
        train(tmp_path, *PEOPLE, "query.kind=ranking", "query.clips=9")
    with pytest.raises(UserError, match="at least 1"):
        train(tmp_path, *PEOPLE, "feedback.wanted=0")
    assert not os.listdir(tmp_path)

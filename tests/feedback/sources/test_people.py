"""A run asks people: it waits, says where, hears what they say and take back, and asks anew where it is least sure."""

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
import torch
import yaml

from pbrl.feedback.asking import Interview
from pbrl.feedback.store import leases
from pbrl.feedback.store.events import Told
from pbrl.feedback.store.leases import lease
from pbrl.feedback.store.store import Store
from pbrl.settings import Query
from pbrl.training.batches import Preferences
from pbrl.types import UserError
from tests import toy
from tests.feedback.page.page import post
from tests.training.test_loop import BASE

HUMAN = [
    "feedback=human", "query.kind=pair", "query.count=20", "algo=iql", "reward=ensemble", "reward.steps=40",
    "reward.hidden=[16]", "algo.hidden=[16]", "compare=false", "feedback.port=8300",
]  # fmt: skip


class People:
    """What an interview knows of people: here they answer at once, in a thread of their own."""

    minimum, wanted, clips, pause_s, where, needs_value, sureness = 4, 1, 4, 0.01, "here", False, None

    def wording(self, kind):
        return {"text": "Which?"}


def interview(tmp_path, kind="pair", **options):
    table = toy.table(10)
    ask = Query(kind=kind, count=8, rounds=2, length=8, span=2, strategy="uniform", candidates=1, per_list=1,
                held_out=0.25, seed=0)  # fmt: skip
    preferences = Preferences(table, kind=kind, length=ask.learnt_length, held_out=0.25, seed=0)
    store = Store(f"sqlite:///{tmp_path / 'answers.sqlite'}")
    store.add_rater("ada", "human")
    teacher = People()
    vars(teacher).update(options)
    return Interview(
        table=table, dataset="toy", ask=ask, teacher=teacher, store=store, preferences=preferences
    ), store  # fmt: skip


def say(store: Store, question: str, label: float | None, **more) -> str:
    outcome = "skip" if label is None else "tie" if label == 0.5 else "answer"
    told = Told(uuid4().hex, question, "ada", **{"outcome": outcome, "label": label, **more})
    store.append([told])
    return told.uid


def test_a_round_waits_hears_later_answers_and_forgets_what_is_taken_back(tmp_path):
    asking, store = interview(tmp_path, minimum=2)
    found: list[dict] = []
    thread = threading.Thread(target=lambda: found.append(asking.round(0, None)))
    thread.start()
    while len(asking.questions) < 4:
        time.sleep(0.01)
    first, *others = asking.questions
    uid = say(store, first, 1.0)
    time.sleep(0.1)
    assert thread.is_alive(), "one answer is not enough"
    say(store, others[0], None)
    time.sleep(0.1)
    assert thread.is_alive(), "nor is not being able to tell"
    say(store, others[1], 0.5)
    thread.join(5)
    assert found[0]["answered"] == 2 and found[0]["skipped"] == 1
    both = len(asking.preferences.train.label) + len(asking.preferences.test.label)
    assert both == 2 and asking.hear() == {}
    store.append([Told("r", first, "ada", kind="retract", supersedes=uid)])
    assert asking.hear()["answered"] == 1 and asking.hear() == {}
    say(store, first, 0.0)
    assert asking.hear()["answered"] == 2
    labels = torch.cat([asking.preferences.train.label, asking.preferences.test.label])
    assert sorted(labels.tolist()) == [0.0, 0.5]


def test_the_next_round_asks_anew_instead(tmp_path):
    asking, store = interview(tmp_path, minimum=1)
    threading.Timer(0.2, lambda: say(store, asking.questions[0], 1.0)).start()
    asking.round(0, None)
    threading.Timer(0.2, lambda: say(store, asking.questions[4], 0.0)).start()
    asking.round(1, None)
    leased = [k.question for k in lease(store, "ada", 9)]
    assert leased == asking.questions[5:], "those of the round before are asked no more"
    assert len(asking.preferences.train.label) + len(asking.preferences.test.label) == 2


def test_marked_spans_are_heard_as_pieces(tmp_path):
    asking, store = interview(tmp_path, kind="spans", minimum=1)
    spans = {"spans": [{"start": 1, "end": 4, "good": True}, {"start": 5, "end": 7, "good": False}], "marks": []}
    threading.Timer(0.2, lambda: say(store, asking.questions[0], None, detail=spans, outcome="answer")).start()
    assert asking.round(0, None)["answered"] == 1
    (clip,) = store.answers(asking.questions[:1]).starts
    kept = [torch.cat(parts) for parts in zip(asking.preferences.train, asking.preferences.test, strict=True)]
    assert (kept[0][:, 0] - int(clip[0])).tolist() == [1, 3, 5] and kept[1].tolist() == [1, 1, 0]


def test_which_answers_are_held_out_does_not_change_when_more_come(tmp_path):
    asking, store = interview(tmp_path)
    ids = store.ask(dataset="toy", length=8, kind="pair", strategy="uniform", round_=0,
                    starts=np.arange(200).reshape(100, 2) % 20)  # fmt: skip
    asking.questions = ids
    for question in ids[:50]:
        say(store, question, 1.0)
    asking.hear()
    before = {tuple(s) for s in asking.preferences.test.starts.tolist()}
    for question in ids[50:]:
        say(store, question, 1.0)
    asking.hear()
    after = {tuple(s) for s in asking.preferences.test.starts.tolist()}
    assert before <= after and 10 <= len(asking.preferences.test.label) <= 40


def test_rankings_become_lists_as_they_come(tmp_path):
    asking, store = interview(tmp_path, "ranking", minimum=2)
    found: list[dict] = []
    thread = threading.Thread(target=lambda: found.append(asking.round(0, None)))
    thread.start()
    while len(asking.questions) < 4:
        time.sleep(0.01)

    def rank(question, tiers):
        outcome = "tie" if len(tiers) == 1 else "answer"
        uid = uuid4().hex
        store.append([Told(uid, question, "ada", outcome=outcome, detail={"tiers": tiers})])
        return uid

    uid = rank(asking.questions[0], [[3], [0, 2], [1]])
    rank(asking.questions[1], [[0], [1], [2], [3]])
    thread.join(5)
    assert found[0]["answered"] == 2
    both = [torch.cat(parts) for parts in zip(asking.preferences.train, asking.preferences.test, strict=True)]
    starts = dict(zip(both[0][:, 0].tolist(), both[1].tolist(), strict=True))
    clips = [store.places([clip])[clip][0] for clip in leases.asked(store, asking.questions[0]).clips]
    assert [starts[row] for row in clips] == [1, 0, 1, 2], "ranks, 0 the worst"
    assert sorted(both[2].tolist()) == [0] * 4 + [1] * 4, "two lists"
    store.append([Told("r", asking.questions[0], "ada", kind="retract", supersedes=uid)])
    assert asking.hear()["answered"] == 1
    assert len(asking.preferences.train.label) + len(asking.preferences.test.label) == 4


def start(folder, *extra: str) -> tuple[subprocess.Popen, str]:
    """A run that asks people, and the address it says."""
    command = [
        sys.executable,
        "train.py",
        *BASE,
        *HUMAN,
        f"run={folder / 'run'}",
        f"data_dir={folder / 'data'}",
        *extra,
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(r"answers (http\S+)", line):
            return process, found[1]
    raise AssertionError("it said no address")


def annotate(at: str, store: Store, stop, pause_s: float = 0.0, mistake: float = 0.0) -> int:
    """Answers by what clips show, as somebody at the page would; returns how often."""
    n, chance = 0, np.random.default_rng(0)
    rows = truth(store)
    while not stop():
        try:
            status, got = post(at + "api/next", {"n": 3})
        except OSError:
            return n
        for question in got["questions"] if status == 200 else []:
            clips = [path[7:-4] for path in question["clips"]]
            starts = [store.places([clip])[clip][0] for clip in clips]
            worth = [rows(start) for start in starts]
            label = worth[1] > worth[0]
            label = bool(label) ^ bool(chance.random() < mistake)
            said = {"choice": "second" if label else "first"}
            told = {"uid": uuid4().hex, "question": question["question"], "kind": "answer", "said": said}
            assert post(at + "api/tell", told)[0] == 200
            n += 1
            time.sleep(pause_s)
        time.sleep(0.02)
    return n


def truth(store: Store):
    """The true return of the segment at a row."""
    from pathlib import Path

    from pbrl import collect
    from pbrl.data.table import Table

    folder = Path(store.url.removeprefix("sqlite:///")).parent
    made = yaml.safe_load((folder / "config.yaml").read_text())
    episodes, _ = collect.dataset(
        made["env"], made["data"], folder=Path(made["data_dir"]), seed=made["data_seed"], workers=0
    )
    reward = Table(episodes).reward
    return lambda row: float(reward[row : row + made["query"]["length"]].sum())


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
    assert store.miscounted() == []


def test_what_people_cannot_be_asked(tmp_path):
    from tests.training.test_loop import train

    with pytest.raises(UserError, match="3 to 5 clips"):
        train(tmp_path, *HUMAN, "query.kind=ranking", "feedback.clips=9")
    with pytest.raises(UserError, match="at least 1"):
        train(tmp_path, *HUMAN, "feedback.wanted=0")
    assert not os.listdir(tmp_path)

"""How many questions are left for a rater: kept up by events, the same as counted in the store."""

import random
from itertools import count

import numpy as np
import pytest

from pbrl.feedback.store import progress
from pbrl.feedback.store.answers import Answer
from pbrl.feedback.store.leases import Wish, find_open, lease_each, release
from pbrl.feedback.store.progress import Progress
from pbrl.feedback.store.store import Store
from tests.feedback.examples import dataset, questions, value

RATERS = ("ada", "bob", "eve")


@pytest.fixture
def store(tmp_path) -> Store:
    made = Store(f"sqlite:///{tmp_path / 'answers.sqlite'}")
    for rater in RATERS:
        made.add_rater(rater, "human")
    return made


def ask(store: Store, n: int, first: int = 0, **options) -> None:
    clips = first + np.arange(2 * n).reshape(n, 2)
    store.ask(questions(clips, **options), dataset(store))


def find_left(store: Store, rater: str) -> int:
    """The number, counted in the store question by question."""
    found = (find_open(store, rater, "human", dataset=dataset(store), purpose=p) for p in ("learn", "gold", "repeat"))
    return sum(map(len, found))


@pytest.mark.parametrize("few", [0, 10**6], ids=["kept", "counted"])
@pytest.mark.parametrize("seed", range(3))
def test_what_is_left_is_kept_as_it_would_be_counted(store, monkeypatch, few, seed):
    monkeypatch.setattr(progress, "FEW", few)
    monkeypatch.setattr(progress, "LONG_S", 0.0)  # each count is kept for 500 times as long
    ask(store, 12, wanted=1)
    ask(store, 12, first=30, wanted=2)
    ask(store, 2, first=60, purpose="practice", expected=1.0)
    ask(store, 2, first=70, rater_kind="vlm")
    chance, uids, at = random.Random(seed), (f"{i:032x}" for i in count()), Progress(store, dataset(store))
    for _ in range(60):
        rater = chance.choice(RATERS)
        (handed,) = lease_each(store, [Wish(rater, chance.randint(1, 4), {"dataset": dataset(store)}, "practice")])
        at.catch_up()
        assert at.count_left(rater, handed) == find_left(store, rater), "with some in the rater's hands"
        release(store, rater)  # what others hold is not known to the kept number
        at.recount_at = 0.0
        events = []
        for one in handed.leased:
            kind = chance.choice(["answer", "answer", "pass", "nothing"])
            if kind != "nothing":
                given = value(1.0) if kind == "answer" else None
                events.append(Answer(next(uids), one.id, rater, given, kind))
        standing = at.records[rater].standing
        if standing and chance.random() < 0.4:
            question, uid = chance.choice(sorted(standing.items()))
            events.append(Answer(next(uids), question, rater, kind="retract", supersedes=uid))
        store.append(events)
        at.catch_up()
        for other in RATERS:
            assert at.count_left(other) == find_left(store, other)


def test_many_answers_of_a_rater_do_not_make_her_count_dearer(store, monkeypatch):
    ask(store, 100)
    at, looked = Progress(store, dataset(store)), []
    monkeypatch.setattr(progress, "LONG_S", 0.0)
    handed = lease_each(store, [Wish("ada", 5, {"dataset": dataset(store)})])[0]
    assert at.count_left("ada") == 95
    monkeypatch.setattr(Progress, "_count", lambda *_: looked.append(1))
    store.append([Answer(f"{i:032x}", one.id, "ada", value(1.0)) for i, one in enumerate(handed.leased)])
    at.catch_up()
    assert [at.count_left(rater) for rater in RATERS] == [95] * 3 and not looked, "nothing was looked up"

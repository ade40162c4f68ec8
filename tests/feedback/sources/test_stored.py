"""What people have said, in each of the forms in which learners take it."""

import numpy as np
import pytest
import torch
from pbrl.feedback.store.events import Told

from pbrl.feedback.asking import Interview
from pbrl.feedback.sources.stored import Kept
from pbrl.feedback.store.store import Store
from pbrl.settings import Query
from pbrl.training.batches import Preferences
from pbrl.types import UserError
from tests import toy

PLAIN = dict(author=None, count=None, weigh=False, attribute=None, sureness=None)


def query(**options) -> Query:
    plain = dict(kind="pair", count=9, rounds=1, length=8, span=2, strategy="uniform", candidates=1, per_list=1,
                 held_out=0.0, seed=0)  # fmt: skip
    return Query(**{**plain, **options})


@pytest.fixture
def store(tmp_path) -> Store:
    store = Store(f"sqlite:///{tmp_path / 'answers.sqlite'}")
    store.add_rater("ada", "human")
    return store


def told(store: Store, kind: str, starts, *details: dict) -> None:
    ids = store.ask(dataset="abc", length=8, kind=kind, strategy="uniform", round_=0, starts=np.array(starts))
    store.append(
        [
            Told(f"{kind}{i}", q, "ada", outcome="answer", detail=d)
            for i, (q, d) in enumerate(zip(ids, details, strict=True))
        ]
    )


def test_rankings_become_lists(store):
    told(store, "ranking", [[0, 5, 9], [20, 3, 1]], {"tiers": [[2], [0, 1]]}, {"tiers": [[1], [0], [2]]})
    found = Kept(**PLAIN).recall(store, "abc", query(kind="ranking"))
    assert found.starts[:, 0].tolist() == [9, 0, 5, 3, 20, 1] and found.label.tolist() == [1, 0, 0, 2, 1, 0]
    table = toy.table(4)
    preferences = Preferences(table, kind="ranking", length=8, held_out=0.0, seed=0)
    interview = Interview(table=table, dataset="abc", ask=query(kind="ranking"), teacher=Kept(**PLAIN), store=store,
                          preferences=preferences)  # fmt: skip
    interview.round(0, None)
    assert preferences.train.group.tolist() == [0, 0, 0, 1, 1, 1] and preferences.shortest == 3
    assert len(Kept(**PLAIN | {"count": 1}).recall(store, "abc", query(kind="ranking")).label) == 3


def test_how_much_better_is_how_sure(store):
    ids = store.ask(
        dataset="abc", length=8, kind="pair", strategy="uniform", round_=0, starts=np.arange(10).reshape(5, 2)
    )
    said = [(1.0, {"strength": 1}), (0.0, {"strength": 2}), (1.0, {"strength": 3}), (0.0, None), (0.5, {"note": "?"})]
    store.append([
        Told(str(i), q, "ada", outcome="tie" if label == 0.5 else "answer", label=label, detail=detail)
        for i, (q, (label, detail)) in enumerate(zip(ids, said, strict=True))
    ])  # fmt: skip
    sure = PLAIN | {"sureness": [0.7, 0.9, 1.0]}
    assert Kept(**sure).recall(store, "abc", query()).label.tolist() == pytest.approx([0.7, 0.1, 1.0, 0.0, 0.5])
    assert Kept(**PLAIN).recall(store, "abc", query()).label.tolist() == [1.0, 0.0, 1.0, 0.0, 0.5]
    assert Kept(**sure | {"weigh": True}).sureness is None
    with pytest.raises(UserError, match="3 numbers above a half"):
        Kept(**PLAIN | {"sureness": [0.3, 0.9, 1.0]})


def test_spans_become_rated_pieces(store):
    good, bad = {"start": 0, "end": 4, "good": True}, {"start": 5, "end": 6, "good": False}
    short = {"start": 0, "end": 0, "good": True}
    told(store, "spans", [[10], [40], [50]], {"spans": [good, bad], "marks": []},
         {"spans": [short], "marks": [{"frame": 3, "name": "contact"}]}, {"spans": [bad], "marks": []})  # fmt: skip
    ask, table = query(kind="spans"), toy.table(4)
    preferences = Preferences(table, kind="spans", length=ask.learnt_length, held_out=0.0, seed=0)
    interview = Interview(table=table, dataset="abc", ask=ask, teacher=Kept(**PLAIN), store=store,
                          preferences=preferences)  # fmt: skip
    interview.round(0, None)
    assert preferences.train.starts[:, 0].tolist() == [10, 12, 15, 55] and preferences.train.label.tolist() == [
        1,
        1,
        0,
        0,
    ]
    batch = preferences.sample(200, torch.Generator().manual_seed(0))
    assert batch.obs.shape[:3] == (200, 2, 2)
    marked = {tuple(table.obs[row].tolist()): row < 14 for row in (10, 12, 15, 55)}
    first, second = ([marked[tuple(obs.tolist())] for obs in batch.obs[:, i, 0]] for i in (0, 1))
    assert batch.label.tolist() == [0.5 + 0.5 * (b - a) for a, b in zip(first, second, strict=True)]
    with pytest.raises(UserError, match="query.span=9 lies between"):
        query(kind="spans", span=9)


def test_one_attribute_of_several(store):
    told(store, "attributes", [[0, 5], [3, 1], [7, 2]], {"attributes": {"fast": 1.0, "high": 0.0}},
         {"attributes": {"fast": 0.5, "high": None}}, {"attributes": {"high": 1.0}})  # fmt: skip
    fast = Kept(**PLAIN | {"attribute": "fast"}).recall(store, "abc", query())
    assert fast.starts.tolist() == [[0, 5], [3, 1]] and fast.outcome.tolist() == ["answer", "tie"]
    high = Kept(**PLAIN | {"attribute": "high"}).recall(store, "abc", query())
    assert high.outcome.tolist() == ["answer", "skip", "answer"] and high.label[[0, 2]].tolist() == [0.0, 1.0]
    with pytest.raises(UserError, match=r"no answers of feedback.attribute=soft.*3 × attributes of 8 steps"):
        Kept(**PLAIN | {"attribute": "soft"}).recall(store, "abc", query())


def test_what_does_not_go_together(store):
    with pytest.raises(UserError, match="comparisons"):
        Kept(**PLAIN | {"weigh": True}).recall(store, "abc", query(kind="rating"))
    with pytest.raises(UserError, match="leave feedback.attribute out"):
        Kept(**PLAIN | {"weigh": True, "attribute": "fast"})
    with pytest.raises(UserError, match="holds no answers"):
        Kept(**PLAIN).recall(store, "abc", query(kind="ranking"))

"""Rankings: sorted by comparisons, with ties together and what cannot be compared left out."""

import math
from itertools import chain, repeat

import numpy as np
import pytest

from pbrl.feedback.asking import Interview, Ranking
from pbrl.feedback.sources.scripted import Teacher
from pbrl.feedback.store.store import Store
from pbrl.settings import Query
from pbrl.training.batches import Preferences
from tests import toy

RIGHT = {"judge": "return", "discount": 0.99, "beta": math.inf, "gamma": 1.0, "mistake": 0.0, "skip": 0.0, "equal": 0.0}


def compare(a: float, b: float) -> float:
    """How a teacher answers who skips 13 and cannot tell apart numbers with the same tens."""
    return math.nan if b == 13 else 0.5 * (1 + np.sign(b // 10 - a // 10))


def test_a_ranking_is_sorted_and_ties_share_a_group():
    numbers = [50, 20, 80, 23, 13, 60, 10, 88, 51, 30]
    ranking, asked = Ranking(chain(iter(numbers), repeat(999))), 0
    while ranking.new != 999:
        a, b = ranking.question()
        assert a in chain(*ranking.groups) and b == ranking.new
        ranking.hear(compare(a, b))
        asked += 1
    assert [sorted(group) for group in ranking.groups] == [[10], [20, 23], [30], [50, 51], [60], [80, 88]]
    assert asked <= 8 * 3 + 1  # bisection among at most seven groups; the skip costs one


@pytest.mark.parametrize("count,lists", [(100, 4), (101, 5), (10, 1)])
def test_lists_are_asked_for_by_pairs_that_the_store_keeps(tmp_path, count, lists):
    table = toy.table(40)
    ask = Query(kind="ranking", count=count, rounds=1, length=8, span=2, strategy="uniform", candidates=1, per_list=25,
                held_out=0.0, seed=0)  # fmt: skip
    teacher = Teacher(**RIGHT, seed=0)
    teacher.author = "perfect"
    preferences = Preferences(table, kind="ranking", length=8, held_out=0.0, seed=0)
    store = Store(f"sqlite:///{tmp_path / 'answers.sqlite'}")
    interview = Interview(table=table, dataset="toy", ask=ask, teacher=teacher, store=store, preferences=preferences)
    found = interview.round(0, None)
    assert found["asked"] == found["answered"] == count == store.counts()["asked"] and found["label_accuracy"] == 1.0
    starts, rank, group = preferences.train
    assert preferences.lists == lists == len(group.unique())
    returns = table.reward[table.segment_rows(starts[:, 0], 8)].sum(-1)
    for one in group.unique():
        in_order = returns[group == one][rank[group == one].argsort(stable=True)]
        assert (in_order.diff() >= -1e-5).all()
    pairs = sum(n * (n - 1) / 2 for n in group.bincount().tolist())
    assert pairs > count or count == 10  # a list orders more pairs than were compared

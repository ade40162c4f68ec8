"""A run's questions: rankings by comparisons, labels from the store alone, and exactly the same after a kill."""

import math
from itertools import chain

import numpy as np
import pytest

from pbrl.data.table import Table
from pbrl.feedback.asking import Asking
from pbrl.feedback.labels import Labels, Selection, split
from pbrl.feedback.questions import Question
from pbrl.feedback.rankings import Ranking, replay
from pbrl.feedback.sources.scripted import Teacher
from pbrl.feedback.store.answers import Answer
from pbrl.feedback.store.store import Store
from pbrl.settings import Query
from tests import toy
from tests.feedback.examples import value

PLAIN = dict(kind="pair", count=20, rounds=1, length=8, span=2, strategy="uniform", candidates=1, per_list=25,
             held_out=0.0, seed=0)  # fmt: skip
DIALS = dict(criterion="return", discount=0.99, beta=math.inf, gamma=1.0, mistake=0.0, skip=0.0, equal=0.0, seed=0,
             reference=None)  # fmt: skip


def query(**changes) -> Query:
    return Query(**{**PLAIN, **changes})  # type: ignore[arg-type]


def teacher(store: Store, table: Table, **dials) -> Teacher:
    source = Teacher(**{**DIALS, **dials})  # type: ignore[arg-type]
    source.store, source.table = store, table
    store.add_rater(source.rater, "script")
    return source


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(f"sqlite:///{tmp_path / 'answers.sqlite'}")


def is_same(a: Labels, b: Labels) -> bool:
    return a[6:] == b[6:] and all(np.array_equal(x, y) for x, y in zip(a[:6], b[:6], strict=True))


def compare(a: float, b: float) -> float:
    """How a teacher answers that skips 13 and ties numbers with the same tens."""
    return math.nan if b == 13 else 0.5 * (1 + np.sign(b // 10 - a // 10))


def test_a_ranking_is_sorted_and_ties_share_a_group():
    first, *numbers = [50, 20, 80, 23, 13, 60, 10, 88, 51, 30]
    ranking, asked = Ranking(first), []
    for number in numbers:
        ranking.place(number)
        while ranking.new is not None:
            pair = ranking.middle(), ranking.new
            assert pair[0] in chain(*ranking.groups) and pair[1] == number
            asked.append((pair, compare(*pair)))
            ranking.compare(asked[-1][1])
    assert [sorted(group) for group in ranking.groups] == [[10], [20, 23], [30], [50, 51], [60], [80, 88]]
    assert len(asked) <= 8 * 3 + 1  # bisection among at most seven groups; the skip costs one
    pairs, labels = zip(*asked, strict=True)
    assert replay(pairs, labels).groups == ranking.groups, "the comparisons alone say how the list is"


@pytest.mark.parametrize("count,lists", [(100, 4), (101, 5), (10, 1)])
def test_lists_are_asked_for_by_pairs_that_the_store_keeps(store, count, lists):
    table = toy.table(40)
    source = teacher(store, table)
    asking = Asking(table=table, query=query(kind="ranking", count=count), source=source, store=store)
    found = asking.ask(0, None)
    assert found["asked"] == found["answered"] == count == store.counts(kind="pair")["asked"]
    assert found["label_accuracy"] == 1.0
    starts, rank, group = asking.labels[:3]
    assert lists == len(np.unique(group)) and (np.diff(group) >= 0).all()
    returns = np.array([float(table.reward[row : row + 8].sum()) for row in starts[:, 0]])
    for one in np.unique(group):
        in_order = returns[group == one][rank[group == one].argsort(kind="stable")]
        assert (np.diff(in_order) >= -1e-5).all()
    pairs = sum(n * (n - 1) / 2 for n in np.bincount(group))
    assert pairs > count or count == 10  # a list orders more pairs than were compared
    train, test = split(asking.labels, 0.3)
    assert set(train.group) == set(group) and test.size > 0, "a part of each list is held out, not whole lists"


@pytest.mark.parametrize("kind", ["pair", "rating", "ranking"])
@pytest.mark.parametrize("noise", [{}, {"skip": 0.9}])
def test_labels_are_what_the_teacher_answered(store, kind, noise):
    """Three rounds; then another reader of the same store finds the same, with the teacher's name."""
    table = toy.table(40)
    source = teacher(store, table, **noise)
    asking = Asking(table=table, query=query(kind=kind, count=60, rounds=3), source=source, store=store)
    for round_ in range(3):
        found = asking.ask(round_, None)
    assert found["asked"] == 60 and found["answered"] + found["skipped"] == 60
    assert (found["skipped"] > 0) == bool(noise) and asking.labels.size > 10
    assert asking.labels.raters == (source.rater,) and set(asking.labels.rater) == {0}
    assert asking.refresh() == {}
    other = Asking(table=table, query=asking.query, source=source, store=Store(store.url))
    other.load_state_dict(asking.state_dict())
    assert is_same(other.labels, asking.labels) and other.counts == asking.counts


def test_nothing_but_ties_is_said(store, capsys):
    """A teacher to whom returns less than a million apart are equal."""
    table = toy.table(40)
    for equal, said in ((0.0, False), (1e6, True)):
        Asking(table=table, query=query(), source=teacher(store, table, equal=equal), store=store).ask(0, None)
        assert ("all 20 answers are ties: nothing is preferred" in capsys.readouterr().out) == said


def test_asking_again_asks_and_answers_the_same(store):
    """As a run does that was killed between asking and saving."""
    table = toy.table(40)
    for _ in range(2):
        source = teacher(store, table, mistake=0.3)
        asking = Asking(table=table, query=query(), source=source, store=store)
        asking.ask(0, None)
    assert store.counts()["asked"] == 20 == store.last() and store.find_miscounted() == []


def test_a_run_that_goes_on_reads_what_it_had_read(store):
    """Raters answer, change and take back while it is away: it takes that up when it looks, not before."""
    table = toy.table(40)
    asking = Asking(table=table, query=query(), source=People(store), store=store)
    store.add_rater("ada", "human")
    asking.ask(0, None)
    ids = asking.questions
    store.append([Answer(f"1{q}", q, "ada", value(1.0)) for q in ids[:10]])
    assert asking.refresh()["answered"] == 10 and asking.refresh() == {}
    state, before = asking.state_dict(), asking.labels
    store.append([Answer("r", ids[0], "ada", kind="retract", supersedes=f"1{ids[0]}")])
    store.append([Answer(f"2{q}", q, "ada", value(0.0)) for q in ids[5:15]])
    uninterrupted = asking.refresh()
    resumed = Asking(table=table, query=query(), source=People(store), store=Store(store.url))
    resumed.load_state_dict(state)
    assert is_same(resumed.labels, before) and resumed.counts["answered"] == 10
    assert resumed.refresh() == uninterrupted and uninterrupted["answered"] == 14
    assert is_same(resumed.labels, asking.labels)


class People:
    """A source whose raters answer when they do."""

    kinds = ("pair",)
    selection = Selection()

    def __init__(self, store: Store):
        self.store = store

    def form(self, question: Question) -> Question:
        return question

    def answer(self, questions) -> None:
        pass


def test_a_table_that_grows_keeps_its_labels(store):
    episodes = toy.episodes(40)
    table = Table(episodes[:30], capacity=2000)
    source = teacher(store, table)
    asking = Asking(table=table, query=query(count=40, rounds=2), source=source, store=store)
    asking.ask(0, None)
    before = asking.labels
    for episode in episodes[30:]:
        table.append(episode)
    asking.ask(1, None)
    assert asking.labels.size == 40 and is_same(asking.labels.take(np.arange(40) < 20), before)
    assert asking.labels.starts[20:].max() > before.starts.max(), "and asks about what is new"


def test_which_labels_are_held_out_is_up_to_the_question_alone(store):
    table = toy.table(40)
    asking = Asking(table=table, query=query(count=200), source=teacher(store, table), store=store)
    asking.ask(0, None)
    train, test = split(asking.labels, 0.25)
    assert 30 <= test.size <= 70 and train.size + test.size == 200
    some = split(asking.labels.take(np.arange(200) % 3 == 0), 0.25)[1]
    assert set(some.question) <= set(test.question) and split(asking.labels, 0.0)[1].size == 0

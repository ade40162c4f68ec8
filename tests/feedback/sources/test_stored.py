"""Stored answers, in each of the forms in which learners take them."""

import numpy as np
import pytest
import torch

from pbrl.data.table import Table
from pbrl.feedback.asking import Asking
from pbrl.feedback.questions import Question, Value
from pbrl.feedback.read import read
from pbrl.feedback.sources.context import Context
from pbrl.feedback.sources.stored import Stored
from pbrl.feedback.store.answers import Answer
from pbrl.feedback.store.store import Store
from pbrl.settings import Query
from pbrl.training.batches import Data
from pbrl.types import Clip, UserError
from tests import toy
from tests.feedback.examples import EPISODE, questions, value

PLAIN = dict(rater=None, count=None, aggregate=False, attribute=None, strengths=None)


def query(**options) -> Query:
    plain = dict(kind="pair", count=9, rounds=1, length=8, span=2, strategy="uniform", candidates=1, per_list=1,
                 held_out=0.0, seed=0)  # fmt: skip
    return Query(**{**plain, **options})


@pytest.fixture(scope="module")
def table() -> Table:
    """Four episodes of thirty steps; the first is called what the examples call theirs."""
    table = toy.table(4)
    table.ids[0] = EPISODE
    table._place = {own: i for i, own in enumerate(table.ids)}
    return table


@pytest.fixture
def store(tmp_path) -> Store:
    store = Store(f"sqlite:///{tmp_path / 'answers.sqlite'}")
    store.add_rater("ada", "human")
    return store


def answer_all(store: Store, kind: str, starts, *values: Value) -> list[str]:
    """Answers of ada to questions about clips of eight steps of the first episode."""
    ids = store.ask(questions(starts, kind=kind, length=8))
    store.append([Answer(f"{kind}{i}", q, "ada", v) for i, (q, v) in enumerate(zip(ids, values, strict=True))])
    return ids


def detail(**more) -> Value:
    return Value("answer", None, more)


def labels(store: Store, table: Table, query: Query, **settings):
    return read(store, table, query, Stored(**{**PLAIN, **settings}).selection)[0]


def ask(store: Store, table: Table, query: Query, **settings) -> Asking:
    """What a run does."""
    source = Stored(**{**PLAIN, **settings})
    source.check(query, toy.Point())
    source.start(Context(store, table, query, data_dir=None))  # type: ignore[arg-type]
    asking = Asking(table=table, query=query, source=source, store=store)
    asking.ask(0, None)
    return asking


def test_rankings_become_lists(store, table):
    answer_all(store, "ranking", [[0, 5, 9], [20, 3, 1]], detail(tiers=[[2], [0, 1]]), detail(tiers=[[1], [0], [2]]))
    asking = ask(store, table, query(kind="ranking"))
    assert asking.labels.starts[:, 0].tolist() == [9, 0, 5, 3, 20, 1]
    assert asking.labels.value.tolist() == [1, 0, 0, 2, 1, 0] and asking.labels.group.tolist() == [0, 0, 0, 1, 1, 1]
    assert asking.counts == {"asked": 2, "answered": 2, "ties": 0, "skipped": 0}
    assert labels(store, table, query(kind="ranking"), count=1).size == 3


def test_strength_of_a_preference_becomes_its_probability(store, table):
    given = [(1.0, {"strength": 1}), (0.0, {"strength": 2}), (1.0, {"strength": 3}), (0.0, None), (0.5, {"note": "?"})]
    answer_all(
        store, "pair", np.arange(10).reshape(5, 2), *(value(label)._replace(detail=more) for label, more in given)
    )
    found = labels(store, table, query(), strengths=[0.7, 0.9, 1.0])
    assert found.value.tolist() == pytest.approx([0.7, 0.1, 1.0, 0.0, 0.5])
    assert labels(store, table, query()).value.tolist() == [1.0, 0.0, 1.0, 0.0, 0.5]
    assert Stored(**PLAIN | {"aggregate": True, "strengths": [0.7, 0.9, 1.0]}).selection.strengths is None
    with pytest.raises(UserError, match="3 numbers above a half"):
        Stored(**PLAIN | {"strengths": [0.3, 0.9, 1.0]})


def test_labels_keep_rater_and_confidence_to_the_batch(store, table):
    store.add_rater("seer", "vlm")
    ids = store.ask(questions([[0, 5], [9, 3], [7, 2]], length=8, wanted=2))
    store.append([Answer(f"a{q}", q, "ada", value(1.0)) for q in ids])
    store.append([Answer(f"s{q}", q, "seer", Value("answer", 0.8), confidence=0.25) for q in ids[:2]])
    found = labels(store, table, query())
    assert found.raters == ("ada", "seer") and found.rater.tolist() == [0, 1, 0, 1, 0]
    assert found.confidence.tolist() == [1, 0.25, 1, 0.25, 1] and found.value.tolist() == [1, 0.8, 1, 0.8, 1]
    data = Data(table, torch.Generator().manual_seed(0))
    data.set_labels(found)
    batch = data.comparisons(100)
    assert set(zip(batch.rater.tolist(), batch.confidence.tolist(), strict=True)) == {(0, 1.0), (1, 0.25)}
    assert labels(store, table, query(), rater="seer").raters == ("seer",)


def test_spans_become_rated_pieces(store, table):
    good, bad = {"start": 0, "end": 4, "good": True}, {"start": 5, "end": 6, "good": False}
    short, long = {"start": 0, "end": 0, "good": True}, {"start": 4, "end": 8, "good": False}
    mark = {"frame": 3, "name": "contact"}
    given = [([good, bad], []), ([short], [mark]), ([bad], []), ([long], [])]
    values = (detail(spans=spans, marks=marks) for spans, marks in given)
    answer_all(store, "spans", [[0], [10], [15], [20]], *values)
    found = ask(store, table, query(kind="spans")).labels
    assert found.starts[:, 0].tolist() == [0, 2, 5, 20, 24, 26] and found.value.tolist() == [1, 1, 0, 0, 0, 0]
    assert found.length == 2, "and no piece goes beyond the clip, whose last frame follows its last step"
    data = Data(table, torch.Generator().manual_seed(0))
    data.set_labels(found)
    batch = data.comparisons(200)
    assert batch.segments.action.shape[:3] == (200, 2, 2)
    is_good = {tuple(table.obs[row].tolist()): row < 4 for row in found.starts[:, 0]}
    state = batch.segments.obs.state[:, :, 0]
    first, second = ([is_good[tuple(obs.tolist())] for obs in state[:, i]] for i in (0, 1))
    assert batch.label.tolist() == [0.5 + 0.5 * (int(b) - int(a)) for a, b in zip(first, second, strict=True)]
    with pytest.raises(UserError, match="query.span=9 lies between"):
        query(kind="spans", span=9)


def test_one_attribute_of_several(store, table):
    answer_all(store, "attributes", [[0, 5], [3, 1], [7, 2]], detail(attributes={"fast": 1.0, "high": 0.0}),
         detail(attributes={"fast": 0.5, "high": None}), detail(attributes={"high": 1.0}))  # fmt: skip
    fast = labels(store, table, query(), attribute="fast")
    assert fast.starts.tolist() == [[0, 5], [3, 1]] and fast.value.tolist() == [1.0, 0.5]
    high = labels(store, table, query(), attribute="high")
    assert high.starts.tolist() == [[0, 5], [7, 2]] and high.value.tolist() == [0.0, 1.0]
    with pytest.raises(UserError, match=r"no answers of feedback.attribute=soft.*3 × attributes of 8 steps"):
        ask(store, table, query(), attribute="soft")


def test_answers_about_other_episodes_are_ignored_and_later_ones_taken_up(store, table):
    answer_all(store, "pair", [[0, 5], [9, 3]], value(1.0), value(0.0))
    elsewhere = Question("pair", (Clip("elsewhere", 0, 8), Clip(EPISODE, 1, 8)), position=7)
    store.append([Answer("x", store.ask([elsewhere])[0], "ada", value(1.0))])
    asking = ask(store, table, query())
    assert asking.labels.starts.tolist() == [[0, 5], [9, 3]] and asking.counts["asked"] == 2
    store.append([Answer("y", store.ask([elsewhere])[0], "ada", value(0.0))])
    assert asking.refresh() == {}, "nothing that concerns the run"
    question = asking.labels.question[0]
    store.append([Answer("z", question, "ada", kind="retract", supersedes="pair0")])
    assert asking.refresh()["answered"] == 1 and asking.labels.starts.tolist() == [[9, 3]]


def test_incompatible_settings(store, table):
    with pytest.raises(UserError, match="comparisons"):
        Stored(**PLAIN | {"aggregate": True}).check(query(kind="rating"), toy.Point())
    with pytest.raises(UserError, match="leave feedback.attribute out"):
        Stored(**PLAIN | {"aggregate": True, "attribute": "fast"})
    with pytest.raises(UserError, match="leave feedback.rater out"):
        Stored(**PLAIN | {"aggregate": True, "rater": "ada"})
    with pytest.raises(UserError, match="holds no answers"):
        ask(store, table, query(kind="ranking"))

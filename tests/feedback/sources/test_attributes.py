"""Answers about attributes: of a scripted teacher, against what is measured, and of people, from a file."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import pbrl
from pbrl.data.measured import mean_over, measure_table
from pbrl.data.rollout import RolloutWorkers
from pbrl.data.table import Table
from pbrl.feedback.asking import Asking
from pbrl.feedback.importing import import_files
from pbrl.feedback.kinds import KINDS
from pbrl.feedback.questions import Question, Value, parse_answer
from pbrl.feedback.read import read
from pbrl.feedback.sources.context import Context
from pbrl.feedback.sources.people import People
from pbrl.feedback.sources.scripted import Teacher
from pbrl.feedback.sources.stored import Stored
from pbrl.feedback.store.answers import Answer
from pbrl.feedback.store.store import Store
from pbrl.settings import Query
from pbrl.types import UserError
from tests import toy
from tests.feedback.sources.test_scripted import PLAIN

LENGTH = 10
NAMES = ["speed", "right", "turn"]
POINT = {"_target_": "tests.toy.Point"}


def query(*names: str, count: int = 200) -> Query:
    return Query(kind="attributes", count=count, rounds=1, length=LENGTH, span=2, strategy="uniform", candidates=1,
                 per_list=1, held_out=0.0, seed=0, attributes=names or NAMES)  # fmt: skip


@pytest.fixture(scope="module")
def table() -> Table:
    return toy.table(40)


@pytest.fixture(scope="module")
def measured(table, tmp_path_factory):
    return measure_table(table, RolloutWorkers(POINT, 0), tmp_path_factory.mktemp("measured"))


def ask(table: Table, folder: Path, wanted: Query | None = None, **dials) -> Asking:
    """What a run does with a scripted teacher."""
    wanted, source, store = wanted or query(), Teacher(**{**PLAIN, **dials}), Store(f"sqlite:///{folder / 'a.sqlite'}")
    source.check(wanted, toy.Point())
    source.start(Context(store, table, wanted, data_dir=folder, workers=RolloutWorkers(POINT, 0)))
    asking = Asking(table=table, query=wanted, source=source, store=store)
    asking.ask(0, None)
    return asking


def gaps(measured, starts: np.ndarray) -> np.ndarray:
    """By how much the second of each pair has more of each attribute: [Q, M]."""
    rows = starts[..., None] + np.arange(LENGTH)
    mean = np.stack([np.array([[np.nanmean(x) if (~np.isnan(x)).any() else np.nan for x in pair] for pair in
                               measured[name][rows]]) for name in NAMES], -1)  # fmt: skip
    return mean[:, 1] - mean[:, 0]


def test_what_is_measured_of_a_table_is_what_happened(table, measured):
    for first, steps in zip(table.first, table.steps, strict=True):
        place = table.state[first : first + steps + 1]
        np.testing.assert_allclose(measured["right"][first : first + steps], place[1:, 0])
        np.testing.assert_allclose(
            measured["speed"][first : first + steps], 10 * np.linalg.norm(np.diff(place, axis=0), axis=1)
        )
        assert np.isnan(measured["right"][first + steps])


def test_what_was_measured_is_kept_by_episode(table, measured, tmp_path):
    workers = RolloutWorkers(POINT, 0)
    half = Table(toy.episodes(20))
    measure_table(half, workers, tmp_path)
    asked = []
    original = workers.map
    workers.map = lambda function, shares: asked.extend(shares) or original(function, shares)
    again = measure_table(table, workers, tmp_path)
    assert sum(map(len, asked)) == 20, "the other half alone"
    for name in NAMES:
        np.testing.assert_array_equal(again[name], measured[name])
    table = Table([episode._replace(state=None) for episode in toy.episodes(10)])
    with pytest.raises(UserError, match="no.*simulator states|measured from simulator states"):
        measure_table(table, workers, tmp_path)


def test_the_mean_over_a_clip_is_over_the_steps_that_have_one():
    values = np.array([1.0, np.nan, 3.0, np.nan, np.nan, 5.0])
    rows = np.array([[0, 1, 2], [3, 4, 5], [1, 3, 4]])
    np.testing.assert_array_equal(mean_over(values, rows), [2.0, 5.0, np.nan])
    np.testing.assert_allclose(mean_over(values, rows, np.array([0.25, 0.5, 1.0]))[0], (0.25 + 3) / 1.25)


def test_a_perfect_teacher_answers_by_what_is_measured(table, measured, tmp_path):
    asking = ask(table, tmp_path)
    gap = gaps(measured, asking.labels.starts)
    unknown = np.isnan(gap)
    assert 0 < unknown[:, 2].mean() < 1 and not unknown[:, :2].any()
    np.testing.assert_array_equal(np.isnan(asking.labels.value), unknown)
    np.testing.assert_array_equal(asking.labels.value[~unknown], 0.5 * (1 + np.sign(gap[~unknown])))
    assert asking.counts == {"asked": 200, "answered": 200, "ties": 0, "skipped": 0}
    asked = asking.store.questions(asking.questions)
    assert all(question.wording["attributes"] == NAMES for question in asked.values())


def test_where_nothing_can_be_told_the_question_is_skipped(table, measured, tmp_path):
    asking = ask(table, tmp_path, query("turn"))
    every = [(x.value.outcome, x.value.detail) for x in asking.store.answers(asking.questions)]
    skips = [outcome == "skip" and not detail for outcome, detail in every]
    assert 0 < sum(skips) == asking.counts["skipped"] and asking.labels.size == 200 - sum(skips)
    assert not np.isnan(asking.labels.value).any() and asking.labels.value.shape[1] == 1


def test_ties_are_within_a_threshold_in_standard_deviations(table, measured, tmp_path):
    asking = ask(table, tmp_path, equal=0.5)
    gap = gaps(measured, asking.labels.starts)
    apart = table.separate_starts(LENGTH).numpy()[:, None] + np.arange(LENGTH)
    for i, name in enumerate(NAMES):
        spread = np.nanstd(mean_over(measured[name], apart))
        known = ~np.isnan(gap[:, i])
        close = np.abs(gap[known, i]) < 0.5 * spread
        assert close.any() and not close.all()
        np.testing.assert_array_equal(asking.labels.value[known, i] == 0.5, close)


def test_mistakes_and_boltzmann_errors_are_of_each_attribute_by_itself(table, measured, tmp_path):
    (tmp_path / "b").mkdir()
    wrong = ask(table, tmp_path, query(count=1500), mistake=0.2)
    right = 0.5 * (1 + np.sign(gaps(measured, wrong.labels.starts)))
    flipped = (wrong.labels.value != right)[:, :2]
    np.testing.assert_allclose(flipped.mean(0), 0.2, atol=0.04)
    assert flipped.all(1).mean() == pytest.approx(0.04, abs=0.02)
    soft = ask(table, tmp_path / "b", query(count=1500), beta=1.0)
    gap = gaps(measured, soft.labels.starts)[:, 1]
    apart = table.separate_starts(LENGTH).numpy()[:, None] + np.arange(LENGTH)
    p = 1 / (1 + np.exp(-gap / np.nanstd(mean_over(measured["right"], apart))))
    for low in (0.0, 0.3, 0.7):
        some = (p >= low) & (p < low + 0.3)
        assert soft.labels.value[some, 1].mean() == pytest.approx(p[some].mean(), abs=0.1)


def test_a_teacher_without_an_environment(table, tmp_path):
    with pytest.raises(UserError, match="measured by an environment"):
        Teacher(**PLAIN).start(Context(Store("sqlite://"), table, query(), data_dir=tmp_path))


# People


SAID = [{"faster": "second", "higher": "cant_tell"}, {"faster": "equal", "higher": "first"}, {"higher": "second"},
        {"faster": "cant_tell", "higher": "cant_tell"}]  # fmt: skip
LABELS = [[1.0, np.nan], [0.5, 0.0], [np.nan, 1.0]]


@pytest.fixture
def answered(table, tmp_path) -> Store:
    """A store that took a file of answers, as the page sends them."""
    clips = table.clips(np.arange(8), LENGTH)
    lines = []
    for i, said in enumerate(SAID):
        pair = clips[2 * i : 2 * i + 2]
        value = parse_answer(Question("attributes", tuple(pair)), {"attributes": said})
        lines.append({"question_kind": "attributes", "rater_name": "ada", "episodes": [c.episode for c in pair],
                      "firsts": [c.first for c in pair], "lengths": [c.length for c in pair],
                      "question_position": i, "event_outcome": value.outcome,
                      "event_detail": json.dumps(value.detail)})  # fmt: skip
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    store = Store(f"sqlite:///{tmp_path / 'people.sqlite'}")
    assert import_files(store, [tmp_path / "answers.jsonl"]).rows == 4
    return store


def stored() -> Stored:
    return Stored(rater=None, count=None, aggregate=False, attribute=None, strengths=None)


def test_answers_from_a_file_leave_open_what_a_rater_could_not_tell(table, answered, tmp_path):
    wanted = query("faster", "higher")
    stored().start(Context(answered, table, wanted, data_dir=tmp_path))
    labels, _ = read(answered, table, wanted, stored().selection)
    np.testing.assert_array_equal(labels.value, LABELS)
    assert labels.starts.tolist() == [[0, 1], [2, 3], [4, 5]] and labels.attributes == ("faster", "higher")
    one, _ = read(answered, table, query("higher"), stored().selection)
    np.testing.assert_array_equal(one.value[:, 0], [0.0, 1.0])


def test_from_a_program(answered, table):
    """Stored answers, learnt from with nothing but a table and a store."""
    store = {"kind": "attributes", "length": LENGTH, "store": answered.address}
    found = pbrl.ask(table, "stored", attributes=["faster", "higher"], **store)
    assert found.attributes == ("faster", "higher") and found.size == 3
    own = {"attributes": ["faster", "higher"], "context": LENGTH, "steps": 2, "width": 16, "layers": 1}
    view = table.view()
    view.relabel(pbrl.train_reward(view, found, "attributes", **own))
    assert view.labels["attributes"].shape == (table.row_count, 2) and "attributes" not in table.labels
    with pytest.raises(UserError, match="for reward=attributes"):
        pbrl.train_reward(view, found, "ensemble", steps=2)
    with pytest.raises(UserError, match="there is none: start train.py"):
        pbrl.ask(table, "perfect", kind="attributes", length=LENGTH, attributes=["speed"])


@pytest.mark.parametrize("names", [("faster", "softer"), ("softer", "calmer")])
def test_an_attribute_that_nobody_labelled_is_named_beside_those_that_are(table, answered, tmp_path, names):
    missing = ", ".join(name for name in names if name != "faster")
    with pytest.raises(UserError, match=f"more {missing}; there are answers about faster, higher: choose query.attri"):
        stored().start(Context(answered, table, query(*names), data_dir=tmp_path))


def test_people_are_asked_about_the_attributes_of_the_query(table):
    people = People(minimum=None, wanted=1, text=None, better="", strength=False, strengths=None, serve=False, port=1,
                    rater="me")  # fmt: skip
    people.start(Context(Store("sqlite://"), table, query("calm", "high"), data_dir=Path()))
    wording = people.form(Question("attributes", tuple(table.clips(np.arange(2), LENGTH)))).wording
    assert wording == {"text": KINDS["attributes"].text, "attributes": ["calm", "high"]}


def test_labels_that_did_not_change_are_known_though_some_are_open(table, tmp_path):
    asking = ask(table, tmp_path)
    store = asking.store
    store.add_rater("eve", "human")  # an event that changes no label
    before = asking.event
    other = store.ask([Question("rating", (table.clips(np.arange(1), 3)[0],))])
    store.append([Answer("x", other[0], "eve", Value("answer", 3.0))])
    assert asking.refresh() == {} and asking.event > before


# Triplets by attributes


def test_triplets_are_answered_by_the_distance_over_all_attributes(table, measured, tmp_path):
    """Against means of what is measured, each over its own standard deviation in the data."""
    names = ["speed", "right"]
    wanted = replace(query(*names), kind="triplet")
    asking = ask(table, tmp_path, wanted)
    labels = asking.labels
    assert labels.kind == "triplet" and labels.size == 200 and labels.starts.shape == (200, 3)
    apart = table.separate_starts(LENGTH).numpy()
    mean = {name: lambda starts, name=name: measured[name][starts[..., None] + np.arange(LENGTH)].mean(-1)
            for name in names}  # fmt: skip
    place = np.stack([mean[name](labels.starts) / mean[name](apart).std() for name in names], -1)  # [Q, 3, 2]
    second, third = (np.linalg.norm(place[:, i] - place[:, 0], axis=-1) for i in (1, 2))
    np.testing.assert_array_equal(labels.value, np.where(third == second, 0.5, third < second))
    assert 0.3 < labels.value.mean() < 0.7
    (text,) = {asked.wording["text"] for asked in asking.store.questions(asking.questions).values()}
    assert text == "Which clip is more like the first in speed and right?"
    assert np.isnan(asking.ask(0, None)["label_accuracy"]), "the return says nothing of these"


def test_a_triplet_by_what_a_segment_has_none_of_is_skipped(table, tmp_path):
    asking = ask(table, tmp_path, replace(query("turn"), kind="triplet"))
    assert 0 < asking.counts["skipped"] < 200 == asking.counts["asked"]


def test_people_are_told_in_what_clips_shall_be_alike(table, tmp_path):
    people = People(minimum=1, wanted=1, text=None, better="", strength=False, strengths=None, serve=False, port=1,
                    rater="me")  # fmt: skip
    people.start(Context(Store("sqlite://"), table, replace(query("speed"), kind="triplet"), data_dir=tmp_path))
    (clip,) = table.clips(np.array([0]), LENGTH)
    assert people.form(Question("triplet", (clip, clip, clip))).wording["text"].endswith("the first in speed?")

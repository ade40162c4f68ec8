"""Scripted teachers against the formulas of B-Pref and CPL."""

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from sqlalchemy import select

from pbrl.configs import compose_config
from pbrl.data.table import Table
from pbrl.feedback.questions import Question
from pbrl.feedback.sources.scripted import Teacher, chance
from pbrl.feedback.store.schema import RaterRow
from pbrl.feedback.store.store import Store
from pbrl.types import UserError
from tests import toy

PLAIN = dict(criterion="return", discount=0.99, beta=float("inf"), gamma=1.0, mistake=0.0, skip=0.0, equal=0.0, seed=0,
             reference=None)  # fmt: skip
REGRET = dict(criterion="regret", reference={"policy": None, "steps": 5, "samples": 1, "noise": 0.0})
LENGTH = 10


def teacher(**dials) -> Teacher:
    return Teacher(**{**PLAIN, **dials})


@pytest.fixture(scope="module")
def table() -> Table:
    return toy.table(200)


@pytest.fixture(scope="module")
def starts(table):
    places = table.segment_starts(LENGTH)
    return places[torch.randint(len(places), (4000, 2), generator=torch.Generator().manual_seed(0))]


def uniform(starts, seed=0):
    """The random numbers that decide what is by chance."""
    return np.random.default_rng(seed).random((len(starts), 2))


def gaps(table, starts):
    returns = table.reward[table.segment_rows(starts, LENGTH)].sum(-1).double().numpy()
    return returns[:, 1] - returns[:, 0]


def test_a_perfect_teacher_is_right(table, starts):
    label, outcome = teacher().label(table, starts, LENGTH, uniform(starts))
    gap = gaps(table, starts)
    assert np.array_equal(label[gap != 0] > 0.5, gap[gap != 0] > 0)
    assert (label[gap == 0] == 0.5).all() and (outcome[gap == 0] == "tie").all()


def test_a_boltzmann_teacher_errs_as_often_as_its_formula_says(table, starts):
    beta = 0.3
    label, _ = teacher(beta=beta).label(table, starts, LENGTH, uniform(starts))
    p = 1 / (1 + np.exp(-beta * gaps(table, starts)))
    for low in np.arange(0, 1, 0.25):
        some = (p >= low) & (p < low + 0.25)
        assert label[some].mean() == pytest.approx(p[some].mean(), abs=4 * 0.5 / some.sum() ** 0.5)


def test_mistakes_are_as_frequent_as_configured(table, starts):
    right, _ = teacher().label(table, starts, LENGTH, uniform(starts))
    label, _ = teacher(mistake=0.1).label(table, starts, LENGTH, uniform(starts))
    assert (label != right).mean() == pytest.approx(0.1, abs=0.02)


def test_a_myopic_teacher_weighs_the_end(table, starts):
    reward = table.reward[table.segment_rows(starts, LENGTH)].double().numpy()
    expected = (reward * 0.5 ** np.arange(LENGTH - 1, -1, -1)).sum(-1)
    np.testing.assert_allclose(teacher(gamma=0.5).scores(table, starts, LENGTH), expected)


@pytest.mark.parametrize("part", [0, 1, 5])
def test_thresholds_use_epsilon_once_in_every_round(table, starts, part):
    """B-Pref's released code squares it from the second session on: ties and skips become ten times too rare."""
    starts = starts[500 * part : 500 * part + 1500]
    scale = abs(table.returns.sum() / table.steps.sum()) * LENGTH
    _, outcome = teacher(equal=0.1).label(table, starts, LENGTH, uniform(starts))
    np.testing.assert_array_equal(outcome == "tie", (np.abs(gaps(table, starts)) < 0.1 * scale))


def test_skipping_needs_both_to_be_bad(table, starts):
    scale = table.returns.sum() / table.steps.sum() * LENGTH
    label, outcome = teacher(skip=0.9).label(table, starts, LENGTH, uniform(starts))
    best = table.reward[table.segment_rows(starts, LENGTH)].sum(-1).double().numpy().max(1)
    np.testing.assert_array_equal(outcome == "skip", best < 0.9 * scale)
    assert 0 < (outcome == "skip").mean() < 1 and np.isnan(label[outcome == "skip"]).all()


def test_regret_is_zero_for_the_reference_policy_itself(tmp_path):
    """Under its own value, what the reference policy does costs nothing; anything else costs something."""
    from pbrl.data.behaviours import Behaviour, Random
    from pbrl.data.rollout import RolloutWorkers, rollout
    from pbrl.feedback.sources.reference import Reference

    def regret(behaviour):
        table = Table(rollout([toy.Point()], behaviour, range(5)))
        workers = RolloutWorkers({"_target_": "tests.toy.Point", "horizon": 1000, "goal_radius": 0.0}, 0)  # no success
        reference = Reference(table, workers, dataset="", folder=tmp_path, discount=0.99, policy=None, steps=300)
        source = teacher(**REGRET)
        source.value = reference.values
        return source.scores(table, table.segment_starts(LENGTH)[:, None], LENGTH)

    assert np.abs(regret(Behaviour())).max() < 1e-3
    assert regret(Random()).max() < -0.05


def test_a_rating_may_be_skipped(table, starts):
    rated = starts[:, :1]
    score = teacher().scores(table, rated, LENGTH)[:, 0]
    label, outcome = teacher(skip=0.9).label(table, rated, LENGTH, uniform(rated))
    low = score < 0.9 * teacher().scale(table, LENGTH)
    assert 0 < low.mean() < 1 and ((outcome == "skip") == low).all()
    assert np.isnan(label[low]).all() and (label[~low] == score[~low]).all()


def test_a_regret_teacher_skips_where_nothing_can_be_lost(table, starts):
    source = teacher(**REGRET, skip=0.5)
    source.value = lambda rows: np.where(rows % 7 < 3, 0.0, 10.0)  # hopeless rows
    _, outcome = source.label(table, starts, LENGTH, uniform(starts))
    hopeless = (starts.numpy() % 7 < 3).all(1)
    assert 0 < hopeless.mean() < 1 and ((outcome == "skip") == hopeless).all()


def test_answers_are_seeded_by_the_question_and_the_teacher(table, tmp_path):
    """Whatever is asked beside a question, and in whatever order: and other dials are another rater."""
    store = Store(f"sqlite:///{tmp_path / 'answers.sqlite'}")
    places = table.segment_starts(LENGTH).numpy()[::7][:120]
    clips = table.clips(places, LENGTH)
    ids = store.ask(
        [Question("pair", pair, position=i) for i, pair in enumerate(zip(clips[::2], clips[1::2], strict=True))]
    )

    def answers(order, **dials):
        source = teacher(mistake=0.5, **dials)
        source.store, source.table = store, table
        store.add_rater(source.rater, "script", source.dials)
        source.answer(order)
        kept = {a.question: a.value.label for a in store.answers(rater=source.rater)}
        return [kept[question] for question in ids], source.rater

    one, rater = answers(ids)
    kept = store.last()
    assert answers(ids[::-1]) == (one, rater) and store.last() == kept, "nor is anything kept twice"
    other, another = answers(ids, seed=1)
    assert other != one and another != rater
    with store.reading() as connection:
        (about,) = connection.execute(select(RaterRow.about).where(RaterRow.name == rater)).scalars()
    assert about["mistake"] == 0.5 and about["beta"] == "inf"


def test_random_numbers_of_questions_are_uniform():
    found = chance(3, [str(i) for i in range(4000)])
    assert found.shape == (4000, 2) and (found >= 0).all() and (found < 1).all()
    np.testing.assert_allclose(np.quantile(found, [0.1, 0.5, 0.9], axis=0).T, [[0.1, 0.5, 0.9]] * 2, atol=0.03)
    assert abs(np.corrcoef(found.T)[0, 1]) < 0.05
    assert np.array_equal(chance(3, ["7"]), found[7:8]) and not np.array_equal(chance(4, ["7"]), found[7:8])


@pytest.mark.parametrize("name", ["perfect", "boltzmann", "myopic", "mistake", "skip", "equal"])
def test_the_six_of_bpref(name, table, starts):
    label, outcome = instantiate(compose_config(f"feedback={name}")["feedback"]).label(
        table, starts, LENGTH, uniform(starts)
    )
    assert len(label) == len(starts) and np.isin(label[outcome == "answer"], [0, 1]).all()


def test_impossible_dials():
    with pytest.raises(UserError, match="mistake"):
        teacher(mistake=1.5)
    with pytest.raises(UserError, match="regret"):
        teacher(criterion="mood")

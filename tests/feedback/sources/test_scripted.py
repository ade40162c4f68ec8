"""Scripted teachers against the formulas of B-Pref and CPL."""

import numpy as np
import pytest
import torch
from hydra.utils import instantiate

from pbrl.data.table import Table
from pbrl.feedback.sources.scripted import Teacher
from pbrl.types import UserError
from tests import toy
from tests.parts import config

PLAIN = dict(judge="return", discount=0.99, beta=float("inf"), gamma=1.0, mistake=0.0, skip=0.0, equal=0.0, seed=0)
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


def gaps(table, starts):
    returns = table.reward[table.segment_rows(starts, LENGTH)].sum(-1).double().numpy()
    return returns[:, 1] - returns[:, 0]


def test_a_perfect_teacher_is_right(table, starts):
    label, outcome = teacher().answer(table, starts, LENGTH, 0)
    gap = gaps(table, starts)
    assert np.array_equal(label[gap != 0] > 0.5, gap[gap != 0] > 0)
    assert (label[gap == 0] == 0.5).all() and (outcome[gap == 0] == "tie").all()


def test_a_boltzmann_teacher_errs_as_often_as_its_formula_says(table, starts):
    beta = 0.3
    label, _ = teacher(beta=beta).answer(table, starts, LENGTH, 0)
    p = 1 / (1 + np.exp(-beta * gaps(table, starts)))
    for low in np.arange(0, 1, 0.25):
        some = (p >= low) & (p < low + 0.25)
        assert label[some].mean() == pytest.approx(p[some].mean(), abs=4 * 0.5 / some.sum() ** 0.5)


def test_mistakes_are_as_frequent_as_said(table, starts):
    right, _ = teacher().answer(table, starts, LENGTH, 0)
    label, _ = teacher(mistake=0.1).answer(table, starts, LENGTH, 0)
    assert (label != right).mean() == pytest.approx(0.1, abs=0.02)


def test_a_myopic_teacher_weighs_the_end(table, starts):
    reward = table.reward[table.segment_rows(starts, LENGTH)].double().numpy()
    expected = (reward * 0.5 ** np.arange(LENGTH - 1, -1, -1)).sum(-1)
    np.testing.assert_allclose(teacher(gamma=0.5).scores(table, starts, LENGTH), expected)


@pytest.mark.parametrize("round_", [0, 1, 5])
def test_thresholds_use_epsilon_once_in_every_round(table, starts, round_):
    """B-Pref's released code squares it from the second session on: ties and skips become ten times too rare."""
    scale = abs(table.returns.sum() / table.steps.sum()) * LENGTH
    _, outcome = teacher(equal=0.1).answer(table, starts, LENGTH, round_)
    np.testing.assert_array_equal(outcome == "tie", (np.abs(gaps(table, starts)) < 0.1 * scale))


def test_skipping_needs_both_to_be_bad(table, starts):
    scale = table.returns.sum() / table.steps.sum() * LENGTH
    label, outcome = teacher(skip=0.9).answer(table, starts, LENGTH, 0)
    best = table.reward[table.segment_rows(starts, LENGTH)].sum(-1).double().numpy().max(1)
    np.testing.assert_array_equal(outcome == "skip", best < 0.9 * scale)
    assert 0 < (outcome == "skip").mean() < 1 and np.isnan(label[outcome == "skip"]).all()


def test_regret_is_zero_for_the_reference_policy_itself(tmp_path):
    """Under its own value, what the reference policy does costs nothing; anything else costs something."""
    from pbrl.data.behaviours import Behaviour, Random
    from pbrl.data.rollout import Players, rollout
    from pbrl.feedback.sources.reference import Reference

    def regret(behaviour):
        table = Table(rollout([toy.Point()], behaviour, range(5)))
        players = Players({"_target_": "tests.toy.Point", "horizon": 1000, "near": 0.0}, 0)  # no success ends it
        reference = Reference(table, players, dataset="", folder=tmp_path, discount=0.99, policy=None, steps=300)
        judge = teacher(judge="regret")
        judge.value = reference.values
        return judge.scores(table, table.segment_starts(LENGTH)[:, None], LENGTH)

    assert np.abs(regret(Behaviour())).max() < 1e-3
    assert regret(Random()).max() < -0.05


def test_a_rating_may_be_skipped(table, starts):
    rated = starts[:, :1]
    score = teacher().scores(table, rated, LENGTH)[:, 0]
    label, outcome = teacher(skip=0.9).answer(table, rated, LENGTH, 0)
    low = score < 0.9 * teacher().scale(table, LENGTH)
    assert 0 < low.mean() < 1 and ((outcome == "skip") == low).all()
    assert np.isnan(label[low]).all() and (label[~low] == score[~low]).all()


def test_a_regret_teacher_skips_where_nothing_can_be_lost(table, starts):
    judge = teacher(judge="regret", skip=0.5)
    judge.value = lambda rows: np.where(rows % 7 < 3, 0.0, 10.0)  # hopeless rows
    _, outcome = judge.answer(table, starts, LENGTH, 0)
    hopeless = (starts.numpy() % 7 < 3).all(1)
    assert 0 < hopeless.mean() < 1 and ((outcome == "skip") == hopeless).all()


def test_answers_are_seeded(table, starts):
    a, _ = teacher(beta=0.5).answer(table, starts, LENGTH, 0)
    b, _ = teacher(beta=0.5).answer(table, starts, LENGTH, 0)
    c, _ = teacher(beta=0.5).answer(table, starts, LENGTH, 1)
    d, _ = teacher(beta=0.5, seed=1).answer(table, starts, LENGTH, 0)
    assert np.array_equal(a, b) and not np.array_equal(a, c) and not np.array_equal(a, d)


@pytest.mark.parametrize("name", ["perfect", "boltzmann", "myopic", "mistake", "skip", "equal"])
def test_the_six_of_bpref(name, table, starts):
    label, outcome = instantiate(config(f"feedback={name}")["feedback"]).answer(table, starts, LENGTH, 0)
    assert len(label) == len(starts) and np.isin(label[outcome == "answer"], [0, 1]).all()


def test_impossible_dials():
    with pytest.raises(UserError, match="mistake"):
        teacher(mistake=1.5)
    with pytest.raises(UserError, match="regret"):
        teacher(judge="mood")

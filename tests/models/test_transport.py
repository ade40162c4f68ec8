"""Optimal transport: against exact solvers and closed forms, its gradient, and that it knows the time."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from pbrl.models import transport as module
from pbrl.models.transport import Transport
from pbrl.types import UserError

PLAIN = {"band": 1.0, "order": 0.0}


def costs(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).uniform(size=shape))


def assigned(cost: torch.Tensor) -> float:
    row, column = linear_sum_assignment(cost.numpy())
    return float(cost.numpy()[row, column].mean())


@pytest.fixture
def converged(monkeypatch):
    """Iterations until nothing changes."""
    monkeypatch.setattr(module, "TURNS", 100)


@pytest.mark.parametrize("gamma", [300.0, math.inf])
def test_a_sharp_plan_is_the_assignment(gamma, converged):
    cost = costs(3, 9, 9)
    found = (Transport(gamma=gamma, **PLAIN).plan(cost) * cost).sum((-2, -1))
    for one, total in zip(cost, found, strict=True):
        assert total.item() == pytest.approx(assigned(one), rel=0.01 if gamma < math.inf else 1e-9)


@pytest.mark.parametrize("shape", [(6, 6), (5, 8), (9, 4)])
def test_the_exact_plan_is_that_of_pot(shape):
    ot = pytest.importorskip("ot")
    cost = costs(*shape)
    plan = Transport(gamma=math.inf, **PLAIN).plan(cost)
    expected = ot.emd([], [], cost.numpy())
    np.testing.assert_allclose(plan.numpy(), expected, atol=1e-9)


def test_the_entropic_plan_is_that_of_pot(converged):
    """With POT's `reg` of 1 / gamma: KL to the uniform plan and entropy differ by a constant."""
    ot = pytest.importorskip("ot")
    cost = costs(5, 7)
    plan = Transport(gamma=8.0, **PLAIN).plan(cost)
    np.testing.assert_allclose(plan.numpy(), ot.sinkhorn([], [], cost.numpy(), 1 / 8, stopThr=1e-13), atol=1e-9)


def test_a_two_by_two_plan_in_closed_form():
    """Of costs 0 and c off the diagonal, a share 1 / (1 + exp(-gamma c)) stays on it."""
    cost = torch.tensor([[0.0, 0.7], [0.7, 0.0]], dtype=torch.float64)
    plan = Transport(gamma=3.0, **PLAIN).plan(cost)
    on = 0.5 / (1 + math.exp(-3 * 0.7))
    torch.testing.assert_close(plan, torch.tensor([[on, 0.5 - on], [0.5 - on, on]], dtype=torch.float64))


@pytest.mark.parametrize("gamma", [0.0, 1.0, 20.0])
def test_marginals_hold(gamma, monkeypatch):
    """Of videos of any lengths: a padded one has the plan that it has alone."""
    cost = costs(4, 12, 10).float()
    rows, columns = torch.ones(4, 12), torch.ones(4, 10)
    rows[1, 7:], columns[2, 5:], rows[3, 4:], columns[3, 9:] = 0, 0, 0, 0
    measure = Transport(gamma=gamma, band=0.4)
    plan = measure.plan(cost, rows, columns)
    torch.testing.assert_close(plan.sum(1), columns / columns.sum(1, keepdim=True), rtol=1e-5, atol=1e-7)
    gap = (plan.sum(2) - rows / rows.sum(1, keepdim=True)).abs().sum(1)
    assert gap.max() < 0.2, gap
    monkeypatch.setattr(module, "TURNS", 500)
    plan = measure.plan(cost, rows, columns)
    torch.testing.assert_close(plan.sum(2), rows / rows.sum(1, keepdim=True), rtol=0.01, atol=1e-5)
    alone = measure.plan(cost[3, :4, :9])
    torch.testing.assert_close(plan[3, :4, :9], alone, rtol=1e-4, atol=1e-6)
    if not gamma:
        torch.testing.assert_close(Transport(gamma=0.0, **PLAIN).plan(cost[0]), torch.full((12, 10), 1 / 120))


@pytest.mark.parametrize("gamma", [1e4, 1e8])
@pytest.mark.parametrize("band", [1.0, 0.2])
def test_no_gamma_overflows(gamma, band):
    cost = (100 * costs(2, 20, 17).float()).requires_grad_()
    plan = Transport(gamma=gamma, band=band).plan(cost)
    (grad,) = torch.autograd.grad((plan * cost).sum(), cost)
    assert torch.isfinite(plan).all() and torch.isfinite(grad).all()
    torch.testing.assert_close(plan.sum(1), torch.full((2, 17), 1 / 17), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("time", [PLAIN, {"band": 0.4}, {"band": 1.0, "order": 0.3}])
def test_the_gradient_through_the_plan_is_that_of_finite_differences(time, converged):
    measure, cost = Transport(gamma=4.0, **time), costs(1, 3, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda c: (measure.plan(c) * c).sum((-2, -1)), cost)


def test_the_gradient_past_the_plan_is_that_of_the_whole_minimum(converged):
    """min <P, C> + KL(P || Q) / gamma, by the envelope theorem."""
    a, b = costs(1, 4, 3).requires_grad_(), costs(1, 5, 3, seed=1)
    measure = Transport(gamma=6.0, **PLAIN, through_plan=False)
    (found,) = torch.autograd.grad(-measure.similarity(a, b).sum(), a)

    def minimum(a: torch.Tensor) -> torch.Tensor:
        cost = measure.cost(a, b)
        plan = measure.plan(cost).clamp(min=1e-300)
        return ((plan * cost) + plan * (20 * plan).log() / 6.0).sum()

    def differences(i: int) -> float:
        step = torch.zeros(12, dtype=torch.float64)
        step[i] = 1e-6
        return ((minimum(a + step.view(1, 4, 3)) - minimum(a - step.view(1, 4, 3))) / 2e-6).item()

    with torch.no_grad():
        expected = torch.tensor([differences(i) for i in range(12)], dtype=torch.float64).view(1, 4, 3)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def test_a_wide_band_is_no_band_and_a_narrow_one_is_the_diagonal(converged):
    cost = costs(3, 8, 8)
    torch.testing.assert_close(Transport(band=0.999).plan(cost), Transport(**PLAIN).plan(cost))
    wide = Transport(band=1.0, order=1e4).plan(cost)
    torch.testing.assert_close(wide, Transport(**PLAIN).plan(cost))
    narrow = Transport(band=1.0, order=0.02).plan(cost)
    torch.testing.assert_close(narrow, torch.eye(8, dtype=torch.float64).expand(3, 8, 8) / 8, rtol=0, atol=1e-4)
    banded = Transport(band=0.25).plan(cost)
    apart = (torch.arange(8)[:, None] - torch.arange(8)).abs() > 2
    assert (banded[:, apart] == 0).all() and (banded[:, ~apart] > 0).all()


def walks(n: int, frames: int = 45, size: int = 32) -> torch.Tensor:
    """Embedded videos of one task: the same way through 32 dimensions, each time a little otherwise."""
    random = np.random.default_rng(0)
    way = random.normal(size=(frames, size)).cumsum(0) / frames**0.5
    noise = random.normal(size=(n, frames, size)).cumsum(1) * 0.2 / frames**0.5
    return torch.from_numpy(way + noise + 1.5 * random.normal(size=size)).float()


def test_a_reversed_video_scores_lower_and_with_the_released_settings_it_does_not():
    expert, *others = walks(9)
    others = torch.stack(others)
    effect = {}
    for name, measure in {"ours": Transport(), "released": Transport("cosine", 1.0, **PLAIN)}.items():
        right = measure.similarity(others, expert[None])
        wrong = measure.similarity(others.flip(1), expert[None])
        effect[name] = ((right - wrong) / right.abs()).mean().item()
    assert abs(effect["released"]) < 0.01, effect
    assert effect["ours"] > 0.5, effect


def test_frames_pay_what_the_similarity_is():
    a, b = walks(2)
    paid = Transport().matched(a, b)
    assert paid.shape == (45,) and -paid.sum() == Transport().similarity(a, b)
    assert Transport("cosine").similarity(3 * a, b).item() == pytest.approx(Transport("cosine").similarity(a, b).item())


@pytest.mark.parametrize(
    "wrong", [{"band": 0.0}, {"band": 1.5}, {"gamma": -1.0}, {"gamma": math.nan}, {"metric": "l1"}]
)
def test_settings_that_are_none(wrong):
    with pytest.raises(UserError, match=f"reward.{next(iter(wrong))}="):
        Transport(**wrong)

"""What benchmarks make of their runs."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.aggregate import interval, iqm, profile
from benchmarks.aligndiff import area
from benchmarks.told import Clone, Told, Transformer
from benchmarks.usual_diffusion import DiT, ReleasedUNet, UNet, copy_weights
from pbrl.models.diffusion.denoiser import Denoiser
from pbrl.models.diffusion.process import EDM
from pbrl.training.batches import Data
from pbrl.types import Observation
from tests.parts import LENGTH, build, made_up_data


def test_the_interquartile_mean_leaves_out_a_quarter_at_each_end():
    scores = np.array([[0.0, 10.0, 20.0, 30.0], [40.0, 50.0, 60.0, 1000.0]])
    assert iqm(scores) == pytest.approx((20 + 30 + 40 + 50) / 4)


def test_seeds_are_resampled_within_their_task():
    apart = np.array([[0.0, 0.0, 0.0], [100.0, 100.0, 100.0]])  # seeds agree: nothing to be unsure of
    assert interval(apart) == (iqm(apart), iqm(apart))
    low, high = interval(np.array([[0.0, 50.0, 100.0], [10.0, 40.0, 90.0]]))
    assert low < iqm(np.array([[0.0, 50.0, 100.0], [10.0, 40.0, 90.0]])) < high


def test_a_profile_falls_from_one_to_nothing():
    found = profile(np.array([[10.0, 20.0], [30.0, 40.0]]), np.array([0.0, 15.0, 30.0, 40.0]))
    assert found.tolist() == [1.0, 0.75, 0.25, 0.0]


def test_the_area_is_the_share_of_thresholds_that_lie_above_the_error():
    """AlignDiff's: 90 fall from 1 as exp(-4.6 i / 89), ten more in equal steps to 0, which no error lies below."""
    assert area(np.zeros(7)) == pytest.approx(0.99)
    assert area(np.ones(3)) == 0 and area(np.full(3, 1.7)) == 0
    for error in (0.5, 0.1, 0.02):
        above = math.ceil(89 * -math.log(error) / 4.6)  # i = 0 … above - 1
        assert area(np.full(5, error)) == pytest.approx(above / 100)
    small = 0.5 * math.exp(-4.6)  # below the 90 and five of the ten: 1, 8/9, … 5/9 of the last of the 90
    assert area(np.full(5, small)) == pytest.approx(0.95)
    assert area(np.array([0.5, 0.1])) == pytest.approx((area(np.array([0.5])) + area(np.array([0.1]))) / 2)


class Line(torch.nn.Module):
    """Acts as fast as is asked for."""

    context = 1

    def forward(self, state, action, told):
        speed = told @ torch.arange(told.shape[-1]).float() / (told.shape[-1] - 1)  # [N, K]
        return speed[..., None].expand(*speed.shape, 2)


class Moves(torch.nn.Module):
    """An action moves the first two numbers of a state."""

    def forward(self, both):
        return torch.nn.functional.pad(both[:, 5:], (0, 3))


@pytest.fixture
def told() -> Any:
    """Told how fast to be, of a planner that knows one attribute."""
    planner = build("algo/aligndiff", reward=build("reward/attributes", attributes=["fast"])).policy
    policy = Told(planner, Line(), candidates=64)  # type: ignore[arg-type]
    policy.change = Moves()  # type: ignore[assignment]
    policy.error.fill_(0.3)
    return policy


def test_a_policy_of_one_step_imagines_where_its_actions_lead(told):
    told.set_targets({"fast": 0.5})
    told.act(Observation(torch.zeros(1, 5)))
    futures = told.imagine(64, LENGTH, noise=1.0)
    state, action = futures[..., :5], futures[..., 5:]
    torch.testing.assert_close(state[:, 0], told.states[-1].expand(64, -1))
    torch.testing.assert_close(state[:, 1:, :2], state[:, :1, :2] + action[:, :-1].cumsum(1))
    assert abs(action.mean() - 0.5) < 0.05 and abs(action.std() - 0.3) < 0.05 and action.abs().max() <= 1


def test_the_future_that_is_read_as_nearest_is_begun(told):
    told.planner.strength = lambda plans: plans[:, 0, 5:6]  # of the first action
    told.set_targets({"fast": 0.4})
    obs = Observation(torch.zeros(1, 5))
    chosen = torch.cat([told.act(obs) for _ in range(told.planner.queue.execute)])
    assert told.queue.is_empty() and abs(chosen[0, 0] - 0.4) < 0.02 and not torch.equal(chosen[0], chosen[1])
    told.candidates = 1
    told.reset()
    torch.testing.assert_close(told.act(obs), torch.full((1, 2), 0.4))


@pytest.mark.parametrize("network", [Clone, Transformer])
def test_told_policies_learn_what_their_data_do(network):
    """All actions are alike, so that the error falls to nothing."""
    table = copy.deepcopy(made_up_data("attributes").table)
    table.action[:] = torch.tensor([0.5, -0.2])
    planner = build("algo/aligndiff").policy
    policy = Told(planner, network(planner), candidates=1)
    policy.train_on(Data(table, torch.Generator().manual_seed(0)), 100, "learning")
    found = [policy.act(Observation(torch.randn(1, 5))) for _ in range(5)]
    torch.testing.assert_close(torch.cat(found), torch.tensor([[0.5, -0.2]]).expand(5, 2), atol=0.15, rtol=0.0)
    assert policy.error.max() < 0.6 and len(policy.states) == network.context


@pytest.mark.parametrize("network", ["unet", "dit"])
def test_the_usual_way_computes_what_our_denoiser_does(network):
    """Else the two rates in `benchmarks.diffusion_speed` were of different work."""
    sizes, width, horizon = (5, 3), 16, 16
    ours = Denoiser(EDM(), 4, sizes, network=network, horizon=horizon, width=width, layers=2, heads=4)
    for parameter in ours.parameters():  # many begin at zero
        torch.nn.init.normal_(parameter, std=0.3)
    usual = (
        UNet(4, sizes, width=width, layers=2)
        if network == "unet"
        else DiT(4, sizes, horizon=horizon, width=width, layers=2, heads=4)
    )
    copy_weights(ours, usual)
    x, time, told = torch.randn(6, horizon, 4), 1000 * torch.rand(6), tuple(torch.randn(6, size) for size in sizes)
    torch.testing.assert_close(usual(x, time, told), ours.network(x, ours.conditions(time, told, None)))


def test_the_released_network_has_as_many_parameters_as_was_counted():
    """65.8 million, of Diffusion Policy's network for the state of Push-T: 2 actions, twice 20 numbers observed."""
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in ReleasedUNet(2, 40).parameters())
    assert round(count / 1e6, 1) == 65.8

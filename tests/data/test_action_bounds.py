"""What the numbers of actions mean: bounds that are stated, or the environment's."""

import numpy as np
import pytest

from pbrl.data import collect, episodes
from pbrl.data.action_bounds import ActionUnits, Bounds
from pbrl.types import UserError
from tests.data.foreign import d4rl_arrays, write_d4rl

TORQUE = Bounds(np.full(2, -3.0), np.full(2, 3.0), "the environment's bounds")


def read(tmp_path, actions, **known):
    arrays = d4rl_arrays() | {"actions": actions}
    return episodes.read_dataset(write_d4rl(tmp_path / "a.hdf5", arrays), ActionUnits(**known))


def raw(scale: float) -> np.ndarray:
    return scale * d4rl_arrays()["actions"]


def test_torques_are_scaled_by_the_environments_bounds(tmp_path):
    data = read(tmp_path, raw(2.9), environment=lambda: TORQUE)
    np.testing.assert_allclose(np.concatenate([e.action for e in data.episodes]), raw(2.9) / 3, atol=1e-6)
    assert data.bounds == TORQUE and not data.clipped


def test_actions_that_fit_both_are_a_question(tmp_path):
    with pytest.raises(UserError, match=r"Then data.action_low=-1 data.action_high=1;.*Then data.action_low=-3 data"):
        read(tmp_path, raw(0.9), environment=lambda: TORQUE)
    stated = read(tmp_path, raw(0.9), environment=lambda: TORQUE, low=-3, high=3)
    np.testing.assert_allclose(stated.episodes[0].action, raw(0.3)[:40], atol=1e-6)


def test_actions_beyond_the_environments_bounds_are_scaled_already(tmp_path):
    small = Bounds(np.full(2, -0.4), np.full(2, 0.4), "the environment's bounds")
    assert np.array_equal(read(tmp_path, raw(1), environment=lambda: small).episodes[0].action, raw(1)[:40])


@pytest.mark.parametrize("environment", [None, TORQUE])
def test_degrees_are_refused_with_the_range_found(tmp_path, environment):
    degrees = raw(90)
    low, high = (f"[{x[0]:.4g}, {x[1]:.4g}]" for x in (degrees.min(0), degrees.max(0)))
    with pytest.raises(UserError, match="State which actions are -1 and 1: data.action_low") as error:
        read(tmp_path, degrees, environment=lambda: environment)
    assert f"[{low}, {high}]" in str(error.value) and "episode 0 (from row 0), step 0" in str(error.value)


def test_an_agent_that_the_environment_clipped(tmp_path):
    actions = raw(1)
    actions[::10] = 1.7
    with pytest.raises(UserError, match=r"0.1 of the numbers are beyond \[-1, 1\].*data.clip_actions=true"):
        read(tmp_path, actions)
    data = read(tmp_path, actions, clip=True)
    assert data.clipped == 30 and (data.episodes[0].action[::10] == 1).all()


@pytest.mark.parametrize(
    "low, high", [(-1, None), (1, -1), ([-1, -1, -1], 1), ("a", "b"), (-np.inf, np.inf), (None, 2)]
)
def test_bounds_that_are_none(tmp_path, low, high):
    with pytest.raises(UserError, match="data.action_low=.*both are a number, or a list of 2"):
        read(tmp_path, raw(1), low=low, high=high)


def test_whole_numbers_with_stated_bounds(tmp_path):
    """Motor commands of a servo, from 1000 to 2000 microseconds."""
    ticks = np.array([[1000, 1500], [2000, 1250]] * 75)
    read_back = read(tmp_path, ticks, low=1000, high=2000).episodes[0].action
    assert read_back[:2].tolist() == [[-1, 0], [1, -0.5]]


def test_settings_ask_the_environment(tmp_path):
    """The inverted pendulum's torques are between -3 and 3."""
    write_d4rl(tmp_path / "a.hdf5", d4rl_arrays() | {"actions": raw(2.9)[:, :1]})
    env = {"_target_": "sim.gym.Gym", "task": "inverted-pendulum"}
    data = {"name": "file", "path": str(tmp_path / "a.hdf5"), "action_low": None, "action_high": None}
    found, _ = collect.load_inspected(env, data, folder=tmp_path, seed=0, workers=0)
    assert str(found.bounds) == "[-3, 3]"
    np.testing.assert_allclose(found.episodes[0].action, raw(2.9)[:40, :1] / 3, atol=1e-6)

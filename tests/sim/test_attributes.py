"""What environments measure of behaviour: on states made by hand, and on real ones."""

from typing import Any

import numpy as np
import pytest

from pbrl.configs import compose_config
from pbrl.data.rollout import make_environment
from sim.attributes import measure_hand, strides

NAMES = ["dm_control/walker-walk", "dm_control/humanoid-walk", "gym/hopper", "franka/lift", "franka/place"]


def make(name: str) -> Any:
    return make_environment(compose_config(f"env={name}")["env"])


def states_of(env, count: int, change) -> np.ndarray:
    """`count` states of an episode, each as `change` makes it of the first one."""
    env.reset(seed=3)
    qpos, qvel = env.data.qpos.copy(), env.data.qvel.copy()
    found = []
    for t in range(count):
        env.data.qpos[:], env.data.qvel[:] = qpos, qvel
        change(env.data, t)
        found.append(env.save_state())
    return np.stack(found)


def joint(env, data, name: str):
    """A view [1] of its position."""
    place = int(env.model.joint(name).qposadr[0])
    return data.qpos[place : place + 1]


def play(env, steps: int) -> tuple[np.ndarray, np.ndarray, list[dict]]:
    """States, observations and infos of an episode of random actions that are held for five steps."""
    random = np.random.default_rng(0)
    obs, _ = env.reset(seed=3)
    states, seen, infos, action = [env.save_state()], [obs], [], np.zeros(env.action_space.shape)
    for t in range(steps):
        if t % 5 == 0:
            action = random.uniform(-1, 1, env.action_space.shape)
        obs, _, _, _, info = env.step(action)
        for kept, new in ((states, env.save_state()), (seen, obs), (infos, info)):
            kept.append(new)
    return np.stack(states), np.stack(seen), infos


@pytest.mark.parametrize("name", NAMES)
def test_all_that_is_named_is_measured_and_nothing_is_disturbed(name):
    env = make(name)
    states, seen, _ = play(env, 12)
    found = env.measure(3, states)
    assert tuple(found) == env.attributes and {x.shape for x in found.values()} == {(12,)}
    assert all(np.isfinite(found[key]).all() for key in found if key != "stride")
    np.testing.assert_array_equal(env.restore(3, states[7], 7), seen[7])
    env.reset(seed=4)
    again = env.measure(3, states)
    for key in found:
        np.testing.assert_array_equal(again[key], found[key])


@pytest.mark.parametrize("name", ["dm_control/walker-walk", "gym/hopper"])
def test_a_body_that_is_carried_along_at_a_metre_a_second_has_that_speed(name):
    env = make(name)

    def carry(data, t):
        joint(env, data, "rootx")[:] = t / env.control_hz

    found = env.measure(3, states_of(env, 6, carry))
    np.testing.assert_allclose(found["speed"], 1.0, rtol=1e-9)
    np.testing.assert_allclose(found["gentleness"], 0.0)
    assert np.isnan(found["stride"]).all()


def test_a_humanoid_may_go_in_any_direction():
    env = make("dm_control/humanoid-walk")

    def carry(data, t):
        data.qpos[:3] = [-0.3 * t / env.control_hz, 0.4 * t / env.control_hz, 3.0]

    found = env.measure(3, states_of(env, 4, carry))
    np.testing.assert_allclose(found["speed"], 0.5, rtol=1e-9)
    np.testing.assert_allclose(found["height"], 3.0)
    assert not found["contact"].any()


def test_a_hopper_that_is_lifted_is_as_high_and_off_the_ground():
    env = make("gym/hopper")

    def lift(data, t):
        joint(env, data, "rootz")[:] = 1.25 + 0.1 * t

    found = env.measure(3, states_of(env, 5, lift))
    np.testing.assert_allclose(found["height"], 1.25 + 0.1 * np.arange(1, 5))
    np.testing.assert_array_equal(found["contact"], 0.0)
    env.reset(seed=3)
    stands = states_of(env, 2, lambda data, t: joint(env, data, "rootz").fill(1.18))
    np.testing.assert_array_equal(env.measure(3, stands)["contact"], 1.0)


def test_gentleness_is_the_joints_acceleration():
    env = make("dm_control/walker-walk")  # six joints, one of which goes faster by 0.3 rad/s in each step

    def push(data, t):
        data.qvel[env.model.joint("left_knee").dofadr] = 0.3 * t
        data.qvel[env.model.joint("rootx").dofadr] = 9 * t  # is no joint

    found = env.measure(3, states_of(env, 4, push))
    np.testing.assert_allclose(found["gentleness"], -0.3 * env.control_hz / np.sqrt(6))


def test_strides_are_from_touchdown_to_touchdown_of_the_same_foot():
    """At 20 Hz a foot is in the air if it was off the ground in the step before."""
    contact = np.array([[1, 1, 0, 0, 1, 1, 0, 1, 0, 1], [0, 0, 1, 1, 1, 1, 1, 0, 0, 1]], bool).T
    place = np.zeros((10, 2, 3))
    place[:, 0, 0], place[:, 1, 0], place[:, 1, 1] = 0.1 * np.arange(10), 0.3 * np.arange(10), 0.4 * np.arange(10)
    found = strides(place, contact, 20.0)  # touchdowns at 4, 7, 9 and at 2, 9
    expected = [np.nan] * 6 + [0.3, np.nan, (0.2 + 0.5 * 7) / 2]
    np.testing.assert_allclose(found, expected)
    slow = strides(place, contact, 40.0)  # two steps in the air are needed: touchdowns at 4 and at 2, 9
    np.testing.assert_allclose(slow, [np.nan] * 8 + [0.5 * 7])


def test_a_hand():
    position = np.array([[0, 0, 0.1], [0.03, 0.04, 0.1], [0.03, 0.04, 0.3]])
    velocity = np.array([[1.0, 0, 0], [1.0, 0.1, 0], [1.0, 0.1, -0.2]])
    found = measure_hand(position, velocity, 20.0)
    np.testing.assert_allclose(found["speed"], [1.0, 4.0])
    np.testing.assert_allclose(found["height"], [0.1, 0.3])
    np.testing.assert_allclose(found["gentleness"], [-2.0, -4.0])


def test_a_hand_over_the_table_is_measured_as_it_was_when_it_played():
    env = make("franka/place")
    states, seen, infos = play(env, 30)
    found = env.measure(3, states)
    middle = np.linalg.norm((seen[1:, 3:6] + seen[:-1, 3:6]) / 2, axis=1)  # m/s
    np.testing.assert_allclose(found["height"], seen[1:, 2], rtol=1e-5)
    np.testing.assert_allclose(found["clearance"], [info["clearance"] for info in infos], atol=1e-9)
    assert np.corrcoef(found["speed"], middle)[0, 1] > 0.95 and abs((found["speed"] - middle).mean()) < 0.03

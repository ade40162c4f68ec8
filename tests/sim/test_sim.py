"""Every simulator behind the one interface: seeded, restorable to the bit, re-rendered to the pixel."""

import os
import subprocess
import sys

import numpy as np
import pytest

from pbrl.types import UserError
from sim import backend, dm_control, franka, gym, metaworld

SOME = ["metaworld/drawer-open", "metaworld/bin-picking", "metaworld/door-open", "dm_control/walker-walk",
        "dm_control/finger-turn_hard", "gym/hopper", "gym/ant", "franka/clutter", "franka/group"]  # fmt: skip
ALL = (
    [f"metaworld/{t}" for t in metaworld.TASKS]
    + [f"dm_control/{t}" for t in dm_control.TASKS]
    + [f"gym/{t}" for t in gym.TASKS]
    + [f"franka/{t}" for t in franka.TASKS]
)
STALE_REWARD = ("gym/ant", "gym/humanoid", "gym/humanoid-standup")  # their first reward reads positions one substep old


def make(name: str):
    simulator, task = name.split("/")
    if simulator == "metaworld":
        return metaworld.MetaWorld(task, horizon=250, goal_visible=True)
    if simulator == "franka":
        return franka.Franka(task, robot="panda", control="cartesian", horizon=160, style={}, preference={})
    return dm_control.DmControl(task, action_repeat=1) if simulator == "dm_control" else gym.Gym(task)


def check_restoring(name: str, pictures: bool) -> None:
    """Plays 30 random actions, another episode, then goes on from the middle of the first: everything is as it was."""
    env = make(name)
    actions = np.random.default_rng(0).uniform(-1, 1, (30, *env.action_space.shape))
    first, _ = env.reset(seed=7)
    assert first.dtype == np.float32 and first.shape == env.observation_space.shape
    states, steps, frame = [env.save_state()], [], None
    for i, action in enumerate(actions):
        steps.append(env.step(action))
        states.append(env.save_state())
        if i == 14 and pictures:
            frame = env.render(84, 84)
            assert np.array_equal(env.save_state(), states[-1])  # looking changes nothing
        if steps[-1][2]:
            break
    env.reset(seed=8)
    env.step(actions[0])
    middle = min(15, len(steps) - 1)
    env.restore(7, states[middle], middle)
    if frame is not None:
        assert np.array_equal(env.render(84, 84), frame) and frame.std() > 5
    for i in range(middle, len(steps)):
        obs, reward, terminated, truncated, info = env.step(actions[i])
        assert np.array_equal(obs, steps[i][0]) and (terminated, truncated) == steps[i][2:4]
        assert reward == steps[i][1] or (name in STALE_REWARD and i == middle)
        assert np.array_equal(env.save_state(), states[i + 1]) and info == steps[i][4]
    again, _ = env.reset(seed=7)
    assert np.array_equal(again, first)
    fresh = make(name)
    assert np.array_equal(fresh.reset(seed=7)[0], first)  # an episode depends on its seed alone
    env.close()


@pytest.mark.parametrize("name", SOME)
def test_restored_and_rendered_again(name):
    check_restoring(name, pictures=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in ALL if n not in SOME])
def test_every_task_is_restored(name):
    check_restoring(name, pictures=False)


@pytest.mark.parametrize("name", ["metaworld/drawer-open", "dm_control/walker-walk", "gym/hopper"])
def test_size_camera_and_preset(name):
    env = make(name)
    env.reset(seed=0)
    assert env.render(width=96, height=64).shape == (64, 96, 3)
    assert not np.array_equal(env.render(fast=False), env.render(fast=True))
    with pytest.raises(ValueError, match="no camera"):
        env.render(camera="selfie")
    env.close()


def test_cameras_that_hang_upside_down_are_turned():
    env = make("metaworld/drawer-open")
    env.reset(seed=0)
    frame = env.render(camera="corner2").astype(float)
    assert frame[:40].std() < frame[-120:].std()  # the empty wall is above, the robot's table below
    env.close()


def test_actions_are_clipped_and_scaled():
    env = make("gym/humanoid")  # its own bounds are ±0.4
    env.reset(seed=0)
    env.step(np.full(env.action_space.shape, 3.0))
    assert np.allclose(env.data.ctrl, 0.4)


def test_success_is_reported_where_there_is_one():
    env = make("metaworld/button-press")
    assert env.reset(seed=0)[1] == {"success": False}
    expert = env.expert()
    assert any(env.step(expert.act(env.full_obs))[4]["success"] for _ in range(200))
    env = make("gym/hopper")
    assert "success" not in env.reset(seed=0)[1] and "success" not in env.step(env.action_space.sample())[4]


def test_a_hidden_goal_is_hidden_from_the_policy_only():
    env = metaworld.MetaWorld("reach", horizon=100, goal_visible=False)
    obs, _ = env.reset(seed=0)
    assert not obs[-3:].any() and env.full_obs[-3:].any()


def test_the_horizon_truncates():
    env = metaworld.MetaWorld("reach", horizon=3, goal_visible=True)
    env.reset(seed=0)
    assert [env.step(np.zeros(4))[3] for _ in range(3)] == [False, False, True]


@pytest.mark.parametrize("name", ["metaworld/juggle", "dm_control/dog-bark", "gym/pony", "franka/juggle"])
def test_unknown_tasks(name):
    with pytest.raises(UserError, match="no .*task"):
        make(name)


def test_too_long_a_horizon():
    with pytest.raises(UserError, match="1 to 500 steps"):
        metaworld.MetaWorld("reach", horizon=900, goal_visible=True)


def test_without_a_renderer_the_error_names_what_to_install():
    code = "import sim, sim.gym; env = sim.gym.Gym('hopper'); env.reset(seed=0); env.step([0, 0, 0]); env.render()"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "MUJOCO_GL": "disabled"}, capture_output=True, text=True
    )
    assert done.returncode != 0 and "apt-get install libegl1" in done.stderr


def test_the_probe_renders(tmp_path, monkeypatch):
    assert backend.probe(("nonsense", "egl", "osmesa")) in ("egl", "osmesa")
    with pytest.raises(backend.RendererMissing, match="libosmesa6"):
        backend.probe(("nonsense",))

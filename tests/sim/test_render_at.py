"""Frames of stored states: the same to the pixel as a fresh environment's, without what takes long."""

from typing import Any

import mujoco
import numpy as np
import pytest

from pbrl.data.rollout import make_environment
from sim import render
from sim.looks import LIMIT, Looks
from sim.render import make_renderer
from sim.simulation import PHYSICS
from tests.parts import config

NAMES = (
    "metaworld/drawer-open", "gym/hopper", "dm_control/reacher-hard", "tabletop/push",
    "dm_control/quadruped-escape",  # each episode has a terrain of its own
)  # fmt: skip
PICKED = [(0, 0), (1, 2), (0, 2), (1, 0), (0, 1)]  # episode and step


def make(name: str, *flags: str) -> Any:
    return make_environment(config(f"env={name}", *flags)["env"])


def play(env: Any, episodes: int, steps: int = 2) -> list[list[np.ndarray]]:
    """States of episodes of random actions, by seed and step."""
    random, states = np.random.default_rng(0), []
    for seed in range(episodes):
        env.reset(seed=seed)
        states.append([env.save_state()])
        for _ in range(steps):
            for _ in range(4):
                env.step(random.uniform(-1, 1, env.action_space.shape))
            states[-1].append(env.save_state())
    return states


@pytest.mark.parametrize("name", NAMES)
def test_a_frame_is_what_a_fresh_environment_restores(name):
    env = make(name)
    states = play(env, 2)
    found = [env.render_at(seed, states[seed][t], t, width=64, height=48) for seed, t in PICKED]
    for seed in range(2):  # one that has seen nothing else
        fresh = make(name)
        for (_, t), frame in ((pick, frame) for pick, frame in zip(PICKED, found, strict=True) if pick[0] == seed):
            fresh.restore(seed, states[seed][t], t)
            np.testing.assert_array_equal(frame, fresh.render(64, 48))
            assert frame.std() > 5
        fresh.close()
    env.close()


def test_an_episode_is_reset_once(monkeypatch):
    env, resets = make("metaworld/drawer-open"), []
    states = play(env, 2, 1)
    own = env._reset
    monkeypatch.setattr(env, "_reset", lambda seed: resets.append(seed) or own(seed))
    for _ in range(3):
        for seed in (0, 1):
            env.render_at(seed, states[seed][1], 1, width=32, height=32)
    assert resets == [0, 1]
    env.close()


@pytest.mark.parametrize("name", ["metaworld/drawer-open", "dm_control/reacher-hard", "tabletop/push"])
def test_looking_leaves_episodes_as_they_are(name):
    """An episode that is restored after others were looked at goes on to the bit."""
    env = make(name)
    states = play(env, 3, 1)
    for seed in range(3):
        env.render_at(seed, states[seed][0], width=32, height=32)
    action = np.full(env.action_space.shape, 0.3)
    env.restore(0, states[0][0])
    before = [env.step(action)[:2] for _ in range(3)]
    env.render_at(1, states[1][0], width=32, height=32)  # known: nothing is reset
    env.restore(0, states[0][0])
    after = [env.step(action)[:2] for _ in range(3)]
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        assert one[1] == other[1]
    env.close()


@pytest.mark.parametrize("name", ["metaworld/drawer-open", "metaworld/sweep-into"])
def test_meshes_that_are_not_drawn_change_no_pixel(name, monkeypatch):
    env = make(name, "env.see_through=true")
    states, dropped = play(env, 2, 2), dict.fromkeys(env.cameras, 0)
    own = render.drop_unseen_meshes

    def count(model: Any, data: Any, scene: Any, aspect: float) -> None:
        own(model, data, scene, aspect)
        dropped[camera] += sum(geom.dataid < 0 and geom.type == 7 for geom in scene.geoms[: scene.ngeom])

    monkeypatch.setattr(render, "drop_unseen_meshes", count)
    plain, data = make_renderer(env.model, 80, 48, True), mujoco.MjData(env.model)
    for seed, state in [(seed, state) for seed, of in enumerate(states) for state in of]:
        env.restore(seed, state)
        for camera in env.cameras:
            frame = env.render(80, 48, camera)
            mujoco.mj_setState(env.model, data, state, PHYSICS)
            mujoco.mj_forward(env.model, data)
            plain.update_scene(data, env.viewpoints[camera].to_mujoco() if camera in env.viewpoints else camera)
            for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
                plain.scene.flags[flag] = 0
            whole = plain.render()
            np.testing.assert_array_equal(frame, whole[::-1, ::-1] if camera in env.upside_down else whole, camera)
    assert dropped["gripperPOV"] > 4 * 6 and dropped["closeup"] > 0
    plain.close()
    env.close()


def test_the_oldest_looks_are_forgotten():
    model = mujoco.MjModel.from_xml_string("<mujoco><worldbody><geom size='.3'/></worldbody></mujoco>")
    looks = Looks(model)
    for seed in range(4):
        model.geom_rgba[0] = seed / 4
        looks.bytes += 0 if seed else LIMIT - 40  # as if the rest were in use
        looks.keep(seed)
    assert list(looks.known) == [2, 3] and not looks.put(0) and looks.put(2)
    np.testing.assert_array_equal(model.geom_rgba[0], np.full(4, 0.5, np.float32))

"""Rope and cloth: what their rewards measure, against closed forms; starts; the picker's grasp, restored to the bit."""

import json

import numpy as np
import pytest

from pbrl.data.behaviours import Behaviour, Mixed, Noise, Offset
from pbrl.data.rollout import rollout
from pbrl.types import UserError
from real.agent import read_env
from robots.observations import KEYPOINTS, layout
from sim.tabletop import TASKS, Tabletop
from sim.tabletop.deformables import CLOSED_M, PICK_M, Cloth, Rope, fold, straightness
from sim.tabletop.tasks import TASKS as DEFINITIONS

DEFORMABLE = ("rope", "cloth")
BESIDE = np.array([0, 0, 10.0])  # m: a hand so far away that it adds nothing to the reward


def make_env(task: str, **changes) -> Tabletop:
    return Tabletop(
        task, **{"robot": "panda", "control": "cartesian", "horizon": 160, "style": {}, "preference": {}, **changes}
    )


def observed(points: np.ndarray, hand: np.ndarray = BESIDE) -> np.ndarray:
    return np.concatenate([hand, np.zeros(4), np.ravel(points)])


def grid(side: float = Cloth.side) -> np.ndarray:
    """A flat cloth's keypoints [3, 3, 3]."""
    along = np.linspace(0, side, 3)
    return np.stack([*np.meshgrid(along, along, indexing="ij"), np.full((3, 3), 0.004)], axis=-1)


def play(env: Tabletop, seed: int, steps: int) -> list[tuple]:
    env.reset(seed=seed)
    expert = env.expert()
    return [env.step(expert.act(env.full_obs)) for _ in range(steps)]


def test_straightness_of_a_half_circle_and_of_a_line():
    angles = np.linspace(0, np.pi, 9)
    half = np.stack([np.cos(angles), np.sin(angles), np.zeros(9)], axis=1)
    assert straightness(half) == (pytest.approx(2.0), pytest.approx(1.0))
    line = np.outer(np.arange(5), [0.03, 0.04, 0])
    assert straightness(line) == (pytest.approx(0.2), pytest.approx(0, abs=1e-12))


def test_reward_of_a_rope():
    def along(share: float) -> np.ndarray:
        return np.outer(np.linspace(0, share * Rope.length, 8), [0, 1, 0])

    bent = along(0.97)
    bent[3, 0] = 0.021  # m, out of line
    for points, reward, success in ((along(1.0), 0.9, True), (along(0.5), 0.45, False), (bent, 0.9 * 0.97, False)):
        assert Rope().evaluate(observed(points)) == (pytest.approx(reward), success)
    at_its_end = along(1.0)[-1]
    assert Rope().evaluate(observed(along(1.0), hand=at_its_end))[0] == pytest.approx(1.0)


def test_reward_of_a_cloth():
    flat = grid()
    folded = flat.copy()
    folded[0] = folded[2]
    gaps, area = fold(folded)
    assert gaps == pytest.approx([0, 0]) and area == pytest.approx(Cloth.side**2 / 2)
    assert Cloth().evaluate(observed(flat)) == (pytest.approx(0, abs=1e-9), False)
    for turns in range(4):  # any edge onto the opposite one
        assert Cloth().evaluate(observed(np.rot90(folded, turns))) == (pytest.approx(0.9), True)
    half_way = flat.copy()
    half_way[0] = flat[1]
    assert Cloth().evaluate(observed(half_way)) == (pytest.approx(0.45), False)
    crumpled = folded * 0.5  # corners meet, but nothing is spread: a quarter of the area
    assert Cloth().evaluate(observed(crumpled)) == (pytest.approx(0.9 / 4), False)
    assert not Cloth().evaluate(observed(folded + [0, 0, 0.05]))[1]  # still in the air


@pytest.mark.parametrize("task", DEFORMABLE)
def test_starts_are_at_rest_on_the_table_and_of_full_size(task):
    env, definition = make_env(task), DEFINITIONS[task]
    starts = [env.reset(seed=seed)[0] for seed in range(5)]
    for start in starts:
        points = start[7:].reshape(-1, 3)
        assert len(points) == KEYPOINTS[task] == len(definition.points)
        assert (points[:, 2] < 0.01).all() and (points[:, :2] > [0.3, -0.31]).all()
        assert (points[:, :2] < [0.7, 0.31]).all()
        reward, success = env.definition.evaluate(start)
        assert not success and reward < 0.8
        if task == "cloth":
            np.testing.assert_allclose(np.linalg.norm(points[8] - points[0]), Cloth.side * 2**0.5, rtol=0.01)
        else:
            assert 0.25 < straightness(points)[0] / Rope.length < 0.8
    assert len({start.tobytes() for start in starts}) == 5
    env.reset(seed=0)
    for _ in range(10):
        env.step(np.array([0, 0, 0, -1.0]))
    np.testing.assert_allclose(env.full_obs[7:], starts[0][7:], atol=5e-4)  # m: it had settled


def test_the_gripper_holds_what_is_near_while_it_is_closed():
    env = make_env("rope")
    env.reset(seed=0)
    picks = slice(env.model.equality("pick0").id, env.model.equality("pick0").id + Rope.vertices)
    for near in (0.5 * PICK_M, 1.5 * PICK_M):
        hand = env.data.site("tcp").xpos
        vertex = env.model.body("v3").id
        env.data.xpos[vertex] = hand + [0, 0, near]
        env.definition.grasp(env.data, CLOSED_M - 0.001)
        assert env.data.eq_active[picks].tolist() == [i == 3 and near < PICK_M for i in range(Rope.vertices)]
        env.definition.grasp(env.data, CLOSED_M + 0.001)
        assert not env.data.eq_active[picks].any()


@pytest.mark.parametrize("task, middle, end", [("rope", 62, 80), ("cloth", 62, 70)])
def test_restored_while_it_is_held(task, middle, end):
    """From the state alone, in another simulator too: steps, states and pictures are the same to the bit."""
    env, actions, states, steps = make_env(task), [], [], []
    env.reset(seed=1)
    expert = env.expert()
    for t in range(end):
        states.append(env.save_state())
        if t == middle:
            frame = env.render(84, 84)
            held = env.data.eq_active.copy()
        actions.append(expert.act(env.full_obs))
        steps.append(env.step(actions[-1]))
    assert sum(held) == 2  # the edges, and one vertex
    fresh = make_env(task)
    for other in (env, fresh):
        other.reset(seed=2)
        other.restore(1, states[middle], middle)
        assert np.array_equal(other.render(84, 84), frame) and frame.std() > 5
        for t in range(middle, end):
            assert np.array_equal(other.save_state(), states[t])
            obs, reward, *_, info = other.step(actions[t])
            assert np.array_equal(obs, steps[t][0]) and reward == steps[t][1] and info == steps[t][4]
        other.close()


def test_an_episode_of_the_rope():
    for robot in ("panda", "ur5"):
        steps = play(make_env("rope", robot=robot), seed=3, steps=110)
        assert steps[-1][4]["success"] and steps[-1][1] > 0.85 > steps[0][1]
        assert all(0 <= step[1] <= 1 for step in steps)


def test_an_episode_of_the_cloth():
    steps = play(make_env("cloth"), seed=3, steps=140)
    assert steps[-1][4]["success"] and steps[-1][1] > 0.8 and steps[0][1] < 0.1
    assert all(0 <= step[1] <= 1 for step in steps)


@pytest.mark.slow
@pytest.mark.parametrize("task", DEFORMABLE)
@pytest.mark.parametrize("robot", ["panda", "ur5"])
def test_experts_succeed(task, robot):
    assert np.mean([play(make_env(task, robot=robot), seed, 160)[-1][4]["success"] for seed in range(10)]) >= 0.9


def test_a_policy_without_poses_sees_no_keypoints():
    env = make_env("rope", state="robot")
    obs, _ = env.reset(seed=0)
    assert obs.shape == env.observation_space.shape == (7,) and env.full_obs.shape == (7 + 24,)
    assert make_env("cloth").observation_space.shape == (7 + 27,)
    assert layout(("cube",), True, ("a", "b"))["b"] == slice(17, 20)
    assert layout(("cube",), True, ("a", "b"))["goal"] == slice(20, 23)


@pytest.mark.parametrize("task", DEFORMABLE)
def test_data_recipes_take_them(task):
    """Every keypoint is displaced alike, and a second simulator can be made; each recipe acts differently."""
    env = make_env(task, horizon=12)
    places = env.expert().objects
    assert [(place.start, place.stop) for place in places] == [(7 + 3 * i, 10 + 3 * i) for i in range(KEYPOINTS[task])]
    behaviours = [Behaviour(), Noise(strength=0.5), Offset(strength=0.05, bias=[0.0, 0, 0], hold=None), Mixed()]
    episodes = [rollout([make_env(task, horizon=12)], behaviour, [1])[0] for behaviour in behaviours]
    assert len({episode.action.tobytes() for episode in episodes[:3]}) == 3
    assert all(len(episode.action) == 12 for episode in episodes)


def test_keypoints_are_known_by_task_and_refused_on_an_arm(tmp_path):
    assert {name: len(DEFINITIONS[name].points) for name in TASKS if DEFINITIONS[name].points} == KEYPOINTS
    env = {"_target_": "sim.tabletop.Tabletop", "task": "rope", "robot": "panda", "state": "full"}
    (tmp_path / "config.yaml").write_text(json.dumps({"env": env}))
    with pytest.raises(UserError, match="points of a rope, which nothing measures"):
        read_env(tmp_path)
    (tmp_path / "config.yaml").write_text(json.dumps({"env": {**env, "state": "robot"}}))
    assert read_env(tmp_path)["task"] == "rope"

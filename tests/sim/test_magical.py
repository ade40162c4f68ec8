"""The two-dimensional suite: what its physics does, rewards in closed form, exact states, experts, pictures."""

import itertools

import numpy as np
import pytest

from pbrl.data.behaviours import Mixed, Noise, Offset, Styles
from pbrl.data.collect import load_dataset
from pbrl.data.rollout import rollout
from pbrl.rewards.pictures import load_beside
from pbrl.types import UserError
from sim.magical import Magical, tasks
from sim.magical.picture import AHEAD, CAMERAS, DEBRIS_COLORS, VIEW
from sim.magical.tasks import TASKS, ZONE, Poses, clearance, count_in_zone, distance_left, is_inside, spread
from sim.magical.world import ARENA, COUNT, DEBRIS, EMBODIMENTS, FORCE, OPEN, POSE, STICK_HEIGHT, Command, World
from tests.parts import config

ALL = list(itertools.product(TASKS, EMBODIMENTS))


def make_env(task: str = "sweep-to-top", embodiment: str = "medium-stick", **changes) -> Magical:
    return Magical(task, **{"embodiment": embodiment, "horizon": None, "style": {}, **changes})


def place(places: list[tuple[float, ...]], robot: tuple[float, float, float] = (0.0, -0.8, np.pi / 2)) -> np.ndarray:
    """A stick's state at rest, with the pieces at `places` (x, y, perhaps angle)."""
    state = np.zeros((1 + COUNT, POSE))
    state[0, :3] = robot
    for pose, own in zip(state[1:], places, strict=True):
        pose[: len(own)] = own
    return state.ravel()


def debris(*places: tuple[float, ...]) -> np.ndarray:
    return Poses.of(place(list(places))).debris


# Physics


def test_the_robot_drives_and_turns_as_it_is_told():
    world, state = World("short-stick"), place([(-0.9, 0), (-0.9, 0.5), (-0.9, 1)])
    for _ in range(8):
        state = world.advance(state, Command(speed=0.5, turn=0.0))
    assert state[:3] == pytest.approx([0, -0.3, np.pi / 2], abs=0.03)  # a second at 0.5, less the start
    for _ in range(8):
        state = world.advance(state, Command(speed=0.0, turn=-1.0))
    assert state[2] == pytest.approx(np.pi / 2 - 1.0, abs=0.03)


def test_what_is_swept_stays_where_it_was_left():
    world, state = World("short-stick"), place([(0, 0), (-0.6, 0), (0.6, 0)])
    for _ in range(12):
        state = world.advance(state, Command(0.8, 0.0))
    swept = Poses.of(state).debris.copy()
    front = state[1] + STICK_HEIGHT / 2
    assert swept[0, 1] - DEBRIS / 2 == pytest.approx(front, abs=0.01) and swept[0, 1] > 0.3  # before the stick
    np.testing.assert_array_equal(swept[1:, :2], [(-0.6, 0), (0.6, 0)])  # untouched
    for _ in range(3):  # it still rolls on a little
        state = world.advance(state, Command(-0.8, 0.0))
    left = Poses.of(state).debris.copy()
    for _ in range(10):
        state = world.advance(state, Command(-0.8, 0.0))
    np.testing.assert_allclose(Poses.of(state).debris, left, atol=1e-9)
    assert left[0, 1] == pytest.approx(swept[0, 1], abs=0.06)


def test_it_pushes_three_pieces_and_not_four():
    """Each piece holds with 1.5 at most, and the robot has 5."""
    assert 3 * 1.5 < FORCE < 4 * 1.5
    world, state = World("medium-stick"), place([(0, y) for y in (-0.4, -0.18, 0.04)])
    for _ in range(20):
        state = world.advance(state, Command(0.8, 0.0))
    assert Poses.of(state).debris[:, 1].min() > 0.2


@pytest.mark.parametrize("embodiment", EMBODIMENTS)
def test_walls_hold_everything(embodiment):
    env, random = make_env(embodiment=embodiment), np.random.default_rng(0)
    env.reset(seed=0)
    for _ in range(60):
        env.step(np.sign(random.uniform(-1, 1, env.action_space.shape)))
        assert np.abs(env.state.reshape(-1, POSE)[: 1 + COUNT, :2]).max() < ARENA


def test_fingers_open_and_close():
    env = make_env(embodiment="gripper")
    env.reset(seed=0)
    for finger, opening in ((1.0, 1.0), (-1.0, 0.0), (0.0, 0.5)):
        for _ in range(6):
            obs, *_ = env.step(np.array([0, 0, finger]))
        assert obs[-1] == pytest.approx(opening, abs=0.02)
        turned = env.state.reshape(-1, POSE)[1 + COUNT :, 2] - env.state[2]
        np.testing.assert_allclose(turned, [opening * OPEN, -opening * OPEN], atol=0.01)


# Rewards


def test_rewards_in_closed_form():
    at = debris((-0.5, 0.0), (0.0, 0.5), (0.5, 0.9))
    np.testing.assert_allclose(distance_left(at), [1.0, 0.5, 0.0])
    far = np.array([0.0, -0.8, 0, 0, 0, 0])
    assert TASKS["sweep-to-top"].reward(Poses(far, at)) == pytest.approx(-0.5)
    line = debris((-0.3, 0.0), (0.0, 0.0), (0.3, 0.0))
    assert spread(line) == pytest.approx(0.2)
    assert TASKS["grouping"].reward(Poses(far, line)) == pytest.approx(-1.2)
    in_zone = Poses(np.array([-0.9, 0.5, 0, 0, 0, 0]), debris((-0.8, 0.4), (0.0, 0.5), (0.5, 0.5)))
    assert count_in_zone(in_zone) == 2 and clearance(in_zone) == 0
    assert TASKS["avoiding"].reward(in_zone) == pytest.approx(-(0.6 + 0.5 + 0.5) / 3 - 2)
    beside = Poses(far, debris((ZONE[2] + 0.3, ZONE[3] + 0.4), (0.9, 0), (0.9, 0.5)))
    assert clearance(beside) == pytest.approx(0.5)


def test_a_piece_is_inside_with_all_its_corners():
    straight, turned = tasks.GOAL + DEBRIS / 2, tasks.GOAL + DEBRIS / 2**0.5
    at = debris((0, straight + 1e-9), (0.3, straight + 0.01, np.pi / 4), (0.6, turned + 1e-9, np.pi / 4))
    assert is_inside(at).tolist() == [True, False, True]


def test_success_of_each_task():
    robot = np.array([0.0, 0.0, 0, 0, 0, 0])
    apart, close = (Poses(robot, debris((-x, 0.95), (0, 0.95), (x, 0.95))) for x in (0.5, 0.25))
    assert all(TASKS["sweep-to-top"].has_succeeded(own, 0) for own in (apart, close))
    assert [TASKS["grouping"].has_succeeded(own, 0) for own in (apart, close)] == [False, True]
    assert [TASKS["avoiding"].has_succeeded(apart, entered) for entered in (0, 1)] == [True, False]


def test_what_was_in_the_zone_is_not_forgotten():
    env = make_env("avoiding")
    env.reset(seed=0)
    env.restore(0, np.append(place([(-0.8, 0.5), (0, 0.95), (0.4, 0.95)]), 0))
    assert env.step(np.zeros(2))[4] == {"success": False, "score": pytest.approx(2 / 3)}
    after = np.append(place([(-0.5, 0.95), (0, 0.95), (0.4, 0.95)]), env.save_state()[-1])
    env.restore(0, after)
    assert env.step(np.zeros(2))[4] == {"success": False, "score": 1.0}


# States


@pytest.mark.parametrize(("task", "embodiment"), [("avoiding", "gripper"), ("grouping", "medium-stick")])
def test_restored_to_the_bit(task, embodiment):
    """In the middle of contacts, in any order, and in another simulator: steps, states and pictures are the same."""
    env, states, steps = make_env(task, embodiment), [], []
    first, info = env.reset(seed=3)
    assert first.dtype == np.float32 and first.shape == env.observation_space.shape and not info["success"]
    expert, random = env.expert(), np.random.default_rng(0)
    for _ in range(40):
        action = np.clip(expert.act(env.full_obs) + random.normal(0, 0.2, env.action_space.shape), -1, 1)
        states.append(env.save_state())
        steps.append((action, env.step(action)))
    frame = env.render(96, 96)
    other = make_env(task, embodiment)
    for t in random.permutation(40):
        other.restore(3, states[t], int(t))
        obs, reward, *_, info = other.step(steps[t][0])
        np.testing.assert_array_equal(obs, steps[t][1][0])
        assert (reward, info) == (steps[t][1][1], steps[t][1][4])
        np.testing.assert_array_equal(other.save_state(), [*states, env.save_state()][t + 1])
    np.testing.assert_array_equal(other.render_at(3, env.save_state(), width=96, height=96), frame)
    np.testing.assert_array_equal(env.reset(seed=3)[0], first)
    assert not np.array_equal(env.reset(seed=4)[0], first)


@pytest.mark.parametrize(("embodiment", "horizon"), [("gripper", 100), ("long-stick", 50)])
def test_the_horizon_truncates(embodiment, horizon):
    env = make_env(embodiment=embodiment)
    env.reset(seed=0)
    ends = [env.step(np.zeros(env.action_space.shape))[3] for _ in range(env.horizon)]
    assert env.horizon == horizon and ends == [False] * (horizon - 1) + [True]


# Experts


@pytest.mark.parametrize(("task", "embodiment"), ALL)
def test_experts_succeed(task, embodiment):
    """At least 18 of 20."""
    env, won = make_env(task, embodiment), 0
    for seed in range(20):
        env.reset(seed=seed)
        expert = env.expert()
        won += any(env.step(expert.act(env.full_obs))[4]["success"] for _ in range(env.horizon))
    assert won >= 18


def measured(env: Magical, seed: int, **style: float) -> dict[str, np.ndarray]:
    env.reset(seed=seed)
    expert, states = env.expert(**style), [env.save_state()]
    for _ in range(env.horizon):
        env.step(expert.act(env.full_obs))
        states.append(env.save_state())
    return env.measure(seed, np.stack(states))


@pytest.mark.parametrize("embodiment", ["gripper", "medium-stick"])
def test_styles_differ_in_what_is_measured(embodiment):
    group, avoid = make_env("grouping", embodiment), make_env("avoiding", embodiment)
    for seed in range(3):
        apart, together = (measured(group, seed, together=value)["spread"].mean() for value in (0.0, 1.0))
        assert together < apart - 0.05
        near, wide = (measured(avoid, seed, wide=value)["clearance"].min() for value in (0.05, 0.25))
        assert near < wide - 0.05
        slow, fast = (measured(avoid, seed, speed=value)["speed"].max() for value in (0.4, 1.0))
        assert slow < 0.4 and fast > 0.7


def test_behaviours_of_every_kind():
    envs = [make_env("grouping", "gripper", horizon=12) for _ in range(8)]
    for behaviour in (Noise(strength=0.3), Mixed(), Styles(styles=[{"together": 0.0}, {"together": 1.0}]),
                      Offset(bias=[0.0, 0.0, 0.0], hold=4, strength=0.05)):  # fmt: skip
        episodes = rollout(envs, behaviour, range(8))
        assert {episode.state.shape for episode in episodes} == {(13, 37)}
        assert all(episode.instruction == TASKS["grouping"].instruction for episode in episodes)


# Pictures


@pytest.mark.parametrize("camera", CAMERAS)
def test_a_picture_shows_what_the_state_says(camera):
    env, size = make_env("avoiding", "short-stick"), 240
    env.reset(seed=1)
    frame = env.render(size, size, camera)
    robot, pieces = env.state[:3], Poses.of(env.state).debris
    scale = size / 2 / VIEW[camera]
    for piece, color in zip(pieces, DEBRIS_COLORS, strict=True):
        right, up = piece[:2]
        if camera == "egocentric":
            ahead = np.array([np.cos(robot[2]), np.sin(robot[2])])
            away = piece[:2] - robot[:2] - AHEAD * ahead
            right, up = away @ [ahead[1], -ahead[0]], away @ ahead
        column, row = int(size / 2 + scale * right), int(size / 2 - scale * up)
        assert tuple(frame[row, column]) == color
    areas = [(frame == color).all(-1).sum() for color in DEBRIS_COLORS]
    np.testing.assert_allclose(areas, (scale * DEBRIS) ** 2, rtol=0.15)
    with pytest.raises(ValueError, match="no camera"):
        env.render(camera="selfie")


def test_nothing_is_drawn_unless_it_is_asked_for(monkeypatch):
    def draw(*args, **kwargs):
        raise AssertionError("it draws")

    monkeypatch.setattr("sim.magical.draw", draw)
    env = make_env("grouping", "gripper")
    env.reset(seed=0)
    env.step(env.action_space.sample())
    env.measure(0, np.stack([env.save_state()] * 2))
    looking = make_env("grouping", "gripper", images=["egocentric"])
    with pytest.raises(AssertionError, match="draws"):
        looking.reset(seed=0)
    looking.renders = False
    assert looking.reset(seed=0)[0]["images"] == {}
    monkeypatch.undo()
    looking.renders = True
    images = looking.reset(seed=0)[0]["images"]
    assert images["egocentric"].shape == (64, 64, 3) and images["egocentric"].std() > 20


# From one embodiment to another


def test_videos_of_a_gripper_are_preferred_of_a_stick(tmp_path):
    """They are drawn as a gripper's, whatever the run's own robot is, and its 17 numbers meet no table of 16."""
    data = {"name": "expert", "behaviour": {"_target_": "pbrl.data.behaviours.Behaviour"}, "episodes": 2}
    where = {"folder": tmp_path, "workers": 0}
    env = config("env=magical/grouping", "env.embodiment=gripper", "env.horizon=6")["env"]
    load_dataset(env, data, seed=0, **where)
    (path,) = tmp_path.glob("magical-grouping-expert-*/")
    given = ["reward=rapl", f"reward.preferred_from={path}", "reward.weights=none"]
    found = load_beside(config(*given, "reward.preferred=[1]")["reward"], **where)
    assert found is not None and found.obs.shape == (14, 17) and found.pictures.shape == (14, 1280)
    (images,) = tmp_path.glob("images-allocentric-*.npy")
    np.testing.assert_array_equal(np.load(images)[0], make_env("grouping", "gripper", horizon=6).render_at(
        0, found.state[0], width=112, height=112))  # fmt: skip
    wrongs = {"reward.preferred=[2]": "0 to 1", "reward.preferred=null": "name its episodes",
              "reward.weights=simulation": "the same one"}  # fmt: skip
    for wrong, says in wrongs.items():
        with pytest.raises(UserError, match=says):
            load_beside(config(*given, wrong)["reward"], **where)
    with pytest.raises(UserError, match=r"provenance\.json"):
        load_beside(config("reward=rapl", f"reward.preferred_from={tmp_path}")["reward"], **where)


# Settings


@pytest.mark.parametrize(
    ("changes", "says"),
    [({"task": "juggle"}, "no magical task"), ({"embodiment": "hand"}, "gripper, short-stick"),
     ({"horizon": 0}, "at least 1"), ({"style": {"height": 1.0}}, "it takes speed, together, wide"),
     ({"style": {"wide": 0.5}}, "0.25"), ({"images": ["front"]}, "allocentric"), ({"camera": "top"}, "egocentric")],
)  # fmt: skip
def test_what_there_is_not(changes, says):
    with pytest.raises(UserError, match=says):
        make_env(**{"task": "avoiding", **changes})

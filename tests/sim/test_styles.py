"""Data of several styles, and preference weights for one of them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.styles import MEASURED, TASKS, Task, measures, relative_shift
from pbrl.data.behaviours import Styles
from pbrl.data.rollout import rollout
from pbrl.data.table import Table
from pbrl.feedback.sources.scripted import Teacher
from pbrl.types import Episode, UserError
from sim.tabletop import MEASURES, Tabletop
from sim.tabletop.experts import STYLE
from tests.parts import config
from tests.toy import Point

DIALS = {"criterion": "return", "discount": 0.99, "beta": float("inf"), "gamma": 1.0, "mistake": 0.0, "skip": 0.0,
         "equal": 0.0, "seed": 0, "reference": None}  # fmt: skip


def make_env(task: str, **changes) -> Tabletop:
    return Tabletop(
        task, **{"robot": "panda", "control": "cartesian", "horizon": 60, "style": {}, "preference": {}, **changes}
    )


def roll_out(styles: list[dict[str, float]], task: str, seeds: range, **changes) -> list[Episode]:
    return rollout([make_env(task, **changes) for _ in seeds], Styles(styles=styles), seeds)


def test_preference_weights_change_the_reward_alone():
    weights = dict(zip(MEASURES, (-1.0, 2.0, -3.0, -4.0, 0.5), strict=True))
    plain, weighted = make_env("place"), make_env("place", preference=weights)
    for env in (plain, weighted):
        env.reset(seed=3)
    for action in np.random.default_rng(0).uniform(-1, 1, (60, 4)):
        (obs, reward, _, _, info), (same, weighted_reward, *_) = plain.step(action), weighted.step(action)
        assert weighted_reward == pytest.approx(reward + sum(weight * info[name] for name, weight in weights.items()))
        np.testing.assert_array_equal(obs, same)
    assert weighted.double().preference == weights


def test_an_episode_keeps_a_style_that_its_seed_draws():
    styles = [{"speed": 0.4}, {"speed": 1.0}]
    episodes = roll_out(styles, "reach", range(12), horizon=15)
    sources = [episode.source for episode in episodes]
    assert set(sources) == {"styles: speed=0.4", "styles: speed=1"}
    again = roll_out(styles, "reach", range(11, -1, -1), horizon=15)[::-1]
    assert [episode.source for episode in again] == sources
    for episode in episodes:
        most = np.abs(episode.action[:, :3]).max()
        assert most == pytest.approx(0.4 if episode.source.endswith("0.4") else 1.0)


def test_a_style_is_drawn_from_a_range():
    styles = [{"speed": [0.4, 0.8], "height": 0.2}]
    sources = [episode.source for episode in roll_out(styles, "reach", range(40), horizon=1)]  # type: ignore[arg-type]
    speeds = np.array([float(source.split("speed=")[1].split(",")[0]) for source in sources])
    assert 0.4 <= speeds.min() < 0.45 and 0.75 < speeds.max() <= 0.8 and len(set(speeds)) > 30
    assert all(source.endswith("height=0.2") for source in sources)
    for wrong in ([1.0], [0.8, 0.4]):
        with pytest.raises(UserError, match="numbers and ranges"):
            Styles(styles=[{"speed": wrong}])


def test_a_lifted_cube_is_carried_on_a_circle():
    """Of radius 6 cm, 10 cm above the goal, twice as fast at twice the speed."""
    found = {}
    for speed in (0.3, 0.6):
        styles = [{"speed": speed, "lift": 0.1, "circle": 0.06}]
        (episode,) = roll_out(styles, "lift", range(1), horizon=190)
        place, goal = episode.obs[-40:, :3], episode.obs[-1, -3:]
        around = np.linalg.norm(place[:, :2] - goal[:2], axis=1)
        found[speed] = np.linalg.norm(np.diff(place, axis=0), axis=1).mean() * Tabletop.control_hz
        assert np.abs(around - 0.06).max() < 0.02 and np.abs(place[:, 2] - goal[2] - 0.1).max() < 0.03
        assert episode.success is not None and episode.success[-40:].all()
    assert found[0.6] / found[0.3] == pytest.approx(2, rel=0.2)


def test_a_scripted_teacher_prefers_by_the_weights():
    """The same two episodes: the task alone prefers the fast one, and a weight on excess speed the slow one."""
    for preference, preferred in (({}, "1"), ({"excess_speed": -20.0}, "0.4")):
        episodes = [
            roll_out([{"speed": speed}], "lift", range(1), horizon=100, preference=preference)[0]
            for speed in (0.4, 1.0)
        ]
        table = Table(episodes)
        label, _ = Teacher(**DIALS).label(table, torch.tensor([[0, 101]]), 100, np.zeros((1, 2)))
        assert episodes[int(label[0])].source.endswith(f"={preferred}")


def test_invalid_settings_are_refused():
    with pytest.raises(UserError, match="it weighs height, speed, excess_speed"):
        make_env("lift", preference={"zeal": 1.0})
    with pytest.raises(UserError, match="no zeal"):
        roll_out([{"zeal": 1.0}], "lift", range(1))
    with pytest.raises(UserError, match="at least one"):
        Styles(styles=[])
    with pytest.raises(UserError, match="choose data=expert"):
        rollout([Point()], Styles(styles=[{"speed": 1.0}]), range(1))


def test_it_is_a_flag():
    plain = config("env=franka/lift")["env"]
    assert plain["style"] == STYLE and plain["preference"] == dict.fromkeys(MEASURES, 0.0)
    found = config("env=franka/lift", "env.style.speed=0.5", "env.preference.excess_speed=-20", "data=styles",
                   "data.behaviour.styles=[{height: 0.2}]")  # fmt: skip
    assert found["env"]["style"] == {**STYLE, "speed": 0.5}
    assert found["env"]["preference"] == {**plain["preference"], "excess_speed": -20}
    assert found["data"]["behaviour"]["styles"] == [{"height": 0.2}]


def test_styles_are_measured():
    """A hand that moves at 0.2 m/s for half of the time, goes down to the table and up again."""
    obs = np.zeros((41, 17), np.float32)
    obs[:, 2] = np.interp(np.arange(41), [0, 10, 20, 40], [0.48, 0.05, 0.2, 0.1])
    obs[1:21, 3] = 0.2
    obs[:, 8] = np.linspace(-0.2, 0.2, 41)  # the cube passes the glass in the middle, when the hand is at 0.2
    late = np.arange(41) >= 40
    episode = Episode(0, obs, np.zeros((40, 4), np.float32), np.zeros(40, np.float32), False, late)
    failed = episode._replace(obs=obs + 1, success=np.zeros(41, bool))
    found = measures([episode, failed, episode], tuple(MEASURED))
    assert found["speed"] == pytest.approx(0.2)
    assert found["height"] == pytest.approx(obs[1:, 2].mean())
    assert found["peak"] == pytest.approx(0.2)
    assert (found["over"], found["around"]) == (1.0, 0.0)
    early = episode._replace(obs=obs.copy(), success=np.arange(41) >= 11)
    early.obs[12:, 3] = 1.0
    assert measures([early], ["speed"])["speed"] == pytest.approx(0.2)
    assert np.isnan(measures([failed], ["speed"])["speed"])
    lying = episode._replace(obs=obs * np.array([1] * 8 + [0] + [1] * 8, np.float32))
    assert set(measures([lying], ("over", "around")).values()) == {0.0}
    assert relative_shift({"speed": 0.2}, {"speed": 0.1}, {"speed": 0.3}, "speed") == pytest.approx(0.5)


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_the_benchmark_prefers_the_preferred_style(name, tmp_path: Path):
    """Experts of both styles succeed, and the true return is higher for the preferred style, in every episode."""
    task: Task = TASKS[name]
    env = config(*task.flags)["env"]
    settings = {"horizon": env["horizon"], "preference": env["preference"]}
    preferred, other = (roll_out([style], name, range(8), **settings) for style in (task.preferred, task.other))
    for episodes in (preferred, other):
        assert np.mean([episode.success[-1] for episode in episodes]) >= 0.95  # type: ignore[index]
    assert all(a.reward.sum() > b.reward.sum() for a, b in zip(preferred, other, strict=True))

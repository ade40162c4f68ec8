"""The look at a data set: what is refused whatever the format, and the report of what is there."""

import json

import numpy as np
import pytest

from pbrl.data import episodes
from pbrl.data.inspection import DataSet, lost_in_float32, report
from pbrl.data.rollout import rollout
from pbrl.data.table import Table
from pbrl.run import train as run
from pbrl.types import Episode, UserError
from tests import toy
from tests.data.foreign import d4rl_arrays, write_d4rl
from tests.parts import config


def episode(steps: int = 5, **changes) -> Episode:
    whole = Episode(
        0, np.zeros((steps + 1, 2), np.float32), np.zeros((steps, 1), np.float32), np.zeros(steps, np.float32), False
    )
    return whole._replace(**changes)


@pytest.mark.parametrize(
    "changes, match",
    [
        ({"obs": np.full((6, 2), np.nan)}, r"one, episode 1, step 0: obs\[0\] is nan"),
        ({"state": np.full((6, 3), np.inf)}, r"episode 1, step 0: state\[0\] is inf"),
        ({"obs": np.zeros((5, 2))}, "5 actions need 6 rows of obs, and there are 5"),
        ({"reward": np.zeros(6)}, "5 actions need 5 rows of reward, and there are 6"),
        ({"success": np.zeros(3, bool)}, "need 6 rows of success"),
        ({"obs": np.zeros((6, 2, 2))}, r"obs has shape \(6, 2, 2\)"),
        ({"action": np.full((5, 1), -1.5)}, r"step 0: an action is \[-1.5\], beyond"),
        ({"obs": np.zeros((6, 3))}, r"\(2, 1\) in episode 0 and \(3, 1\) in episode 1"),
        ({"action": np.zeros((0, 1)), "obs": np.zeros((1, 2)), "reward": np.zeros(0)}, "has no step"),
    ],
)
def test_episodes_are_looked_at_before_they_are_written(tmp_path, changes, match):
    with pytest.raises(UserError, match=match):
        episodes.write(tmp_path / "one", [episode(), episode(**changes)], {})
    assert not list(tmp_path.iterdir())


def test_a_table_takes_nothing_that_is_not_finite():
    broken = episode(reward=np.array([0, 0, np.nan, 0, 0], np.float32))
    with pytest.raises(UserError, match="episode 1, step 2: reward is nan"):
        Table([episode(), broken])
    table = Table([episode()])
    with pytest.raises(UserError, match="appended episode .*step 2: reward is nan"):
        table.append(broken)
    assert len(table) == 5


class Broken(toy.Point):
    """Its sensor fails in the seventh step."""

    def step(self, action):
        obs, *rest = super().step(action)
        return (obs * np.nan if self.t == 7 else obs), *rest


class Still:
    def start(self, envs, seeds): ...

    def act(self, obs, running):
        return np.zeros((len(running), 2), np.float32)

    def looks(self):
        return False

    def source(self, i):
        return "still"


class Diverged(Still):
    def act(self, obs, running):
        return np.full((len(running), 2), np.nan, np.float32)


def test_rollouts_with_what_is_not_finite_are_refused():
    with pytest.raises(UserError, match=r"episode of still with seed 3, step 7: the observation\[0\] is nan"):
        rollout([Broken()], Still(), [3])
    with pytest.raises(UserError, match=r"step 0: the action\[0\] is nan"):
        rollout([toy.Point()], Diverged(), [3])


def test_differences_that_float32_loses():
    random = np.random.default_rng(0).standard_normal(5000)
    seldom = np.where(np.arange(5000) % 100 == 0, 0.0, 1e8 + random)
    columns = [1e8 + random, 1.7e9 + random, seldom, random, 1e-9 * random, 1e8 + 1e6 * random, np.full(5000, 0.1),
               (random > 2).astype(float), 0.1 + 1e-17 * random]  # fmt: skip
    assert lost_in_float32([np.stack(columns, 1)]).tolist() == [True, True, True, *[False] * 6]
    assert not lost_in_float32([np.stack(columns, 1).astype(np.float32)]).any(), "they were lost before"


def test_the_report_says_what_there_is(tmp_path):
    arrays = d4rl_arrays(terminal=(1,))
    arrays["observations"] = np.insert(arrays["observations"], 4, [[0.3], [1.7e9]], 1).astype(np.float32)
    arrays["next_observations"] = np.insert(arrays["next_observations"], 4, [[0.3], [1.7e9]], 1).astype(np.float32)
    arrays["observations"][9, 5] += 128  # float32's next number
    arrays["next_observations"][8, 5] += 128
    arrays["timeouts"][39] = False
    found = report(episodes.read_dataset(write_d4rl(tmp_path / "a.hdf5", arrays)))
    assert found.rows["data"].endswith("a.hdf5: 3 episodes, 150 steps, 40 to 60 an episode")
    assert found.rows["ends"] == "1 true terminal, 2 cut off by time"
    assert found.rows["obs"].startswith("6 numbers") and found.rows["obs"].endswith("; 2 constant: 4 to 5")
    rewards = arrays["rewards"]
    assert found.rows["rewards"].startswith(f"{rewards.min():.3g} to {rewards.max():.3g}, mean {rewards.mean():.3g}")
    assert [text.split(" (")[0] for text in found.warnings] == [
        "1 ends of episodes are marked nowhere; next_observations show them: episodes are cut there",
        "observation columns 5 differ by float32's rounding alone, taken as constant",
    ]


@pytest.mark.parametrize(
    "changes, match",
    [
        (
            {"obs": np.array([[0, 0]] * 200000 + [[1e6, 0]] * 1 + [[1, 0]] * 200000, np.float32)},
            "columns 0 reach beyond 300",
        ),
        ({"action": np.full((400000, 1), 0.01, np.float32)}, "actions use 1.0% of their range"),
        ({"action": np.full((400000, 1), -1, np.float32)}, "100% of the numbers of actions are -1 or 1"),
        ({"action": np.full((400000, 1), 0.3, np.float32)}, "actions are the same in every step"),
    ],
)
def test_the_report_warns(changes, match):
    found = report(DataSet([episode(400000, **changes)], "x"))
    assert any(match in text for text in found.warnings), found.warnings


def test_a_data_set_of_ours_keeps_its_report(tmp_path):
    provenance = episodes.write(tmp_path / "set", toy.episodes(4), {})
    assert provenance["report"]["rows"]["data"].startswith("set: 4 episodes, 120 steps")
    assert json.loads((tmp_path / "set" / "provenance.json").read_text())["report"] == provenance["report"]


def test_only_data_prints_the_report_and_a_run_keeps_it(tmp_path, capsys):
    arrays = d4rl_arrays()
    for name in ("observations", "next_observations"):
        arrays[name] = arrays[name][:, :2]
    arrays["timeouts"][:] = False
    write_d4rl(tmp_path / "a.hdf5", arrays)
    flags = ["env=tests/point", "data=file", f"data.path={tmp_path / 'a.hdf5'}", "algo=bc", "feedback=none",
             "compare=false", "video=false", "workers=0", "compile=never", "steps=2", "eval_episodes=1", "log_every=1",
             "final_episodes=1", "checkpoint_every=1", "policy.hidden=[8]", f"run={tmp_path / 'run'}",
             "hydra.searchpath=[file://tests/configs]"]  # fmt: skip
    run.train(config(*flags, "only=data"))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["data", "ends", "obs", "actions", "rewards", "besides", "WARNING"]
    assert not (tmp_path / "run").exists()
    run.train(config(*flags))
    assert "WARNING" in capsys.readouterr().out
    kept = json.loads((tmp_path / "run" / "data.json").read_text())
    assert kept["warnings"] == [
        "2 ends of episodes are marked nowhere; next_observations show them: episodes are cut there"
    ]

"""`python -m pbrl.online` on runs that have learnt a reward: of states and of pictures; killed, it goes on the same."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import SAC

import pbrl
from pbrl.data import episodes as storage
from pbrl.models.policy import load_policy
from pbrl.online import command
from pbrl.online.command import train
from pbrl.online.environment import RecordedEnv
from pbrl.online.policy import to_policy
from pbrl.online.reward import load_learned_reward
from pbrl.online.settings import Settings
from pbrl.online.training import Training, Watch
from pbrl.training import interrupts, log
from pbrl.types import Observation, UserError
from tests import toy
from tests.online.worlds import POINT, online_config, write_run


@pytest.fixture(scope="module")
def runs(make_once):
    """The folder of a run by the kind of its reward."""
    return lambda kind: make_once(f"online-{kind}", write_run(kind)) / "run"


@pytest.fixture(scope="module")
def whole(runs, tmp_path_factory):
    """A whole run on a reward of states, with prior data, and its folder."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, train(online_config(runs("states"), folder, "prior=true"))


@pytest.fixture(autouse=True)
def without_curve(whole, monkeypatch):
    """One run draws its curve, and the others leave it out."""
    monkeypatch.setattr(command, "draw", lambda result, path: None)


# The reward


@pytest.mark.parametrize("kind", ["states", "pixels", "rapl"])
def test_new_episodes_are_rewarded_as_the_runs_own_learner_saw_them(runs, kind):
    """Rendered anew, the data set's own episodes have the rewards that `Table.relabel` gives them."""
    learnt = load_learned_reward(runs(kind))
    learnt.table.relabel(learnt.reward.model)
    own = learnt.table.labels["reward"][learnt.table.rows].numpy()
    np.testing.assert_allclose(np.concatenate(learnt.rewards_of_data()), own, atol=1e-6)
    found = learnt.reward(learnt.episodes)
    assert [len(r) for r in found] == [len(e.action) for e in learnt.episodes]
    np.testing.assert_allclose(
        np.concatenate(found), own, atol=2e-3
    )  # plans of one episode and of many are rounded otherwise
    assert own.std() > 1e-3 and np.allclose(learnt.reward(learnt.episodes[:1])[0], found[0], atol=2e-3)


def test_a_frame_stands_for_the_steps_around_it(runs):
    """Every 7 steps of 30, and the last: the step that a picture shows is the nearest of these."""
    learnt = load_learned_reward(runs("pixels"), every=7)
    assert learnt.reward.pictures is not None
    (episode, *_), point = learnt.episodes, toy.Point()
    shown = learnt.reward.pictures([episode])
    for t, picture in enumerate(shown):
        nearest = min((0, 7, 14, 21, 28, 30), key=lambda s, t=t: abs(s - t))
        expected = point.render_at(episode.seed, episode.state[nearest], nearest, width=48, height=48)
        np.testing.assert_array_equal(picture, expected)
    assert len(shown) == 31


def test_a_reward_of_pictures_serves_another_robot_and_one_of_states_does_not(runs):
    class Wide(toy.Point):
        observation_space = toy.gym.spaces.Box(-2, 2, (3,), np.float32)

    episode = toy.episodes(1)[0]
    other = episode._replace(obs=np.pad(episode.obs, [(0, 0), (0, 1)]))
    same, found = (load_learned_reward(runs("pixels")).reward([e])[0] for e in (episode, other))
    np.testing.assert_array_equal(same, found)
    with pytest.raises(UserError, match="learnt from 2 numbers per observation and 2 per action, and here are 3 and 2"):
        load_learned_reward(runs("states")).reward([other])


# The run


def test_a_run_leaves_a_policy_a_curve_and_what_happened(whole):
    folder, result = whole
    assert json.loads((folder / "result.json").read_text()) == json.loads(json.dumps(result))
    assert [e["step"] for e in result["evaluations"]] == [60, 120] and result["steps"] == 120
    assert result["policy"]["episodes"] == 3 and {"speed", "right"} < set(result["policy"])
    played = log.read(folder, "rollouts")
    assert len(played) == 4 and all(own["steps"] == 30 for own in played)
    assert (folder / "curve.png").stat().st_size > 5000
    assert load_policy(folder).act(Observation(torch.zeros(1, 2))).shape == (1, 2)


def test_the_policy_acts_as_that_of_stable_baselines(runs, tmp_path):
    training = Training(Settings.parse(online_config(runs("states"), tmp_path)), load_learned_reward(runs("states")),
                        tmp_path)  # fmt: skip
    obs = np.random.default_rng(0).uniform(-2, 2, (50, 2)).astype(np.float32)
    before = torch.get_rng_state()
    ours = to_policy(training.model, 30)
    assert torch.equal(torch.get_rng_state(), before), "what SAC draws next depends on no evaluation"
    theirs, _ = training.model.predict(obs, deterministic=True)
    np.testing.assert_allclose(ours.act(Observation(torch.from_numpy(obs))).numpy(), theirs, atol=1e-6)
    training.close()


@pytest.mark.parametrize("after", [45, 100])
def test_a_run_that_was_killed_ends_with_the_same_bits(whole, runs, tmp_path, monkeypatch, after):
    """Killed before the first checkpoint, and in the middle of an episode after one."""

    class Killed(Exception):
        pass

    step = Watch._on_step

    def killed_later(self: Watch) -> bool:
        if self.num_timesteps == after:
            raise Killed
        return step(self)

    given = online_config(runs("states"), tmp_path, "prior=true")
    with monkeypatch.context() as patch:
        patch.setattr(Watch, "_on_step", killed_later)
        with pytest.raises(Killed):
            train(given)
    assert (tmp_path / "checkpoint.pt").exists() == (after > 60)
    began: list[int] = []
    monkeypatch.setattr(Watch, "_on_training_start", lambda self: began.append(self.model.num_timesteps), raising=False)
    assert train(given) == whole[1]
    assert began == [60 if after > 60 else 0]
    assert weights(tmp_path) == weights(whole[0])
    assert (tmp_path / "metrics.jsonl").read_text() == (whole[0] / "metrics.jsonl").read_text()


def test_ctrl_c_saves_when_the_episode_has_ended(whole, runs, tmp_path, monkeypatch):
    step, given = Watch._on_step, online_config(runs("states"), tmp_path, "prior=true", "checkpoint_every=1000")

    def interrupted(self: Watch) -> bool:
        if self.num_timesteps == 70:
            signal.raise_signal(signal.SIGINT)
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(Watch, "_on_step", interrupted)
        with interrupts.handled(), pytest.raises(interrupts.Stopped):
            train(given)
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert len(saved["buffer"]["actions"]) == 20 * 30 + 90 and len(saved["played"]["steps"]) == 3
    assert train(given) == whole[1] and weights(tmp_path) == weights(whole[0])


def weights(folder: Path) -> list[bytes]:
    return [part.numpy().tobytes() for part in load_policy(folder).state_dict().values()]  # type: ignore[attr-defined]


def test_more_steps_go_on_to_the_bits_of_a_longer_run(whole, runs, tmp_path):
    train(online_config(runs("states"), tmp_path / "longer", "prior=true", "steps=150"))
    shutil.copytree(whole[0], tmp_path / "more")
    train(online_config(runs("states"), tmp_path / "more", "prior=true", "steps=150"))
    assert weights(tmp_path / "more") == weights(tmp_path / "longer") != weights(whole[0])


def test_on_a_reward_of_pictures_and_beside_it_on_the_true_one(runs, tmp_path):
    flags = ["steps=60", "every=15", "prior=true"]
    learnt = train(online_config(runs("rapl"), tmp_path / "a", *flags))
    true = train(online_config(runs("rapl"), tmp_path / "b", *flags, "true_reward=true"))
    assert true["policy"]["rewarded_return"] == pytest.approx(true["policy"]["return_mean"], rel=1e-5)
    assert learnt["policy"]["rewarded_return"] < 0 < learnt["policy"]["return_mean"]
    for name in ("a", "b"):
        assert len(log.read(tmp_path / name, "rollouts")) == 2


def test_measuring_leaves_the_environment_where_it_is(runs, tmp_path):
    training = Training(Settings.parse(online_config(runs("states"), tmp_path)), load_learned_reward(runs("states")),
                        tmp_path)  # fmt: skip
    training.env.reset()
    base: Any = training.recorder.unwrapped
    before = base.position.copy(), base.t, base.np_random.bit_generator.state
    training.measure(2)
    assert np.array_equal(base.position, before[0]) and (base.t, base.np_random.bit_generator.state) == before[1:]
    training.close()


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        ("states", {"rewards": None}, "rewards=… is missing"),
        ("states", {"rewards": "nowhere"}, "is no run folder"),
        ("states", {"every": 5}, "every=5 is of a reward of pictures"),
        ("states", {"every": 0}, "every=0 must be a whole number"),
        ("states", {"sac.learning_starts": 20}, "sac.learning_starts=20: an episode's reward is known when"),
        ("states", {"sac.ent_coef": "much"}, "sac.ent_coef=much must be auto or a number"),
        ("states", {"sac.gamma": 1.5}, "sac.gamma=1.5"),
        ("states", {"stepz": 5}, "has no stepz"),
        ("states", {"env": {"_target_": "tests.online.test_command.Other"}}, "here are 3 and 2"),
        ("pixels", {"env": {"_target_": "tests.online.test_command.Other"}, "prior": True}, "prior=false"),
        ("pixels", {"env": {"_target_": "tests.online.test_command.Below"}}, "looks through above, and Below has"),
        ("pixels", {"env": {"_target_": "tests.online.test_command.Lost"}}, "cannot show its states"),
    ],
)  # fmt: skip
def test_bad_input_is_a_sentence(runs, tmp_path, kind, changes, words):
    given = online_config(runs(kind), tmp_path)
    for name, value in changes.items():
        part, _, key = name.rpartition(".")
        (given[part] if part else given)[key] = value
    with pytest.raises(UserError, match=words):
        train(given)


def test_another_run_in_the_folder_is_refused(whole, runs):
    with pytest.raises(UserError, match=r"holds another run \(seed 0 → 1\): choose another with run="):
        train(online_config(runs("states"), whole[0], "prior=true", "seed=1"))


class Other(toy.Point):
    """With a third number to observe."""

    observation_space = toy.Box(-2, 2, (3,), np.float32)

    def _obs(self):
        return np.append(super()._obs(), np.float32(0)) if not self.images else super()._obs()


class Below(toy.Point):
    """Seen from below alone."""

    cameras = ("below",)


class Lost(toy.Point):
    """Whose states cannot be shown."""

    can_restore = False


def test_the_recorder_hands_on_each_episode_once(runs):
    env: Any = RecordedEnv(toy.Point(horizon=4))
    env.reset(seed=3)
    infos = [env.step(np.ones(2, np.float32))[-1] for _ in range(4)]
    episodes = [info["episode_of_pbrl"] for info in infos if "episode_of_pbrl" in info]
    assert len(episodes) == 1 and episodes[0].seed == 3 and len(episodes[0].action) == 4
    assert not env.episodes and storage.episode_id(episodes[0]) and POINT


def test_ones_own_code_learns_from_several_environments(runs):
    """As docs/rapl.md has it: rewards in the buffer are those of the episodes that were played."""
    found = load_learned_reward(runs("states"))
    played: list[Any] = []
    env = found.vector_env(2)
    env.reward = lambda episodes: (played.extend(episodes), found.reward(episodes))[1]
    model = SAC("MlpPolicy", env, replay_buffer_class=pbrl.EpisodeReplayBuffer, learning_starts=60, buffer_size=400,
                policy_kwargs={"net_arch": [8]}, seed=0, device="cpu", batch_size=8)  # fmt: skip
    model.learn(130)
    buffer: Any = model.replay_buffer
    assert len(played) == 4 and buffer.is_known.sum() == 120
    expected = np.stack(found.reward(played)).reshape(2, 2, 30).transpose(0, 2, 1).reshape(60, 2)
    np.testing.assert_allclose(buffer.rewards[:60], expected, atol=1e-6)
    np.testing.assert_array_equal(buffer.actions[:30, 1], played[1].action)

"""Rewards of whole episodes: written when these end, drawn from then on and not before, whatever ends when."""

import numpy as np
import pytest
import torch
from stable_baselines3 import SAC
from stable_baselines3.common.vec_env import DummyVecEnv

from pbrl.online.buffer import EpisodeReplayBuffer
from pbrl.online.environment import LearnedRewardEnv, true_rewards
from pbrl.types import UserError
from tests import toy
from tests.online.worlds import hindsight


def make_env(*horizons: int, reward=hindsight) -> LearnedRewardEnv:
    return LearnedRewardEnv.of([lambda h=h: toy.Point(horizon=h) for h in horizons], reward)


def play(env: LearnedRewardEnv, steps: int, size: int) -> EpisodeReplayBuffer:
    """Random actions, stored as Stable-Baselines3 does."""
    model = SAC("MlpPolicy", env, buffer_size=size, replay_buffer_class=EpisodeReplayBuffer, learning_starts=10**6,
                policy_kwargs={"net_arch": [4]}, seed=0)  # fmt: skip
    model.learn(steps)
    assert isinstance(model.replay_buffer, EpisodeReplayBuffer)
    return model.replay_buffer


def drawn(buffer: EpisodeReplayBuffer, n: int = 4000) -> dict[bytes, float]:
    """The reward of each next observation that is drawn."""
    np.random.seed(0)
    batch = buffer.sample(n)
    assert batch.rewards.shape == batch.dones.shape == (n, 1) and batch.rewards.isfinite().all()
    return {o.numpy().tobytes(): float(r) for o, r in zip(batch.next_observations, batch.rewards, strict=True)}


def test_steps_have_the_rewards_of_their_own_episodes():
    """Two environments whose episodes last 5 and 8 steps, after 19 steps of both: 3 and 2 episodes have ended."""
    found = drawn(play(make_env(5, 8), 2 * 19, 100))
    rewards = np.array(list(found.values()))
    places = np.array([np.frombuffer(key, np.float32)[0] for key in found])
    assert len(found) == 3 * 5 + 2 * 8
    steps = np.round((rewards - places) / 100)
    assert sorted(steps) == [5.0] * 15 + [8.0] * 16
    np.testing.assert_allclose(rewards, 100 * steps + places, atol=1e-4)


def test_what_is_written_over_is_not_drawn():
    """12 rows hold the steps of 5-step episodes: after 33 steps those of the sixth are whole, of the fifth four."""
    buffer = play(make_env(5), 33, 12)
    assert len(drawn(buffer)) == 9 and buffer.is_known.sum() == 9
    assert (~buffer.is_known[:, 0]).nonzero()[0].tolist() == [30 % 12, 31 % 12, 32 % 12]


def test_the_environments_own_rewards_are_those_of_stable_baselines():
    """Same random actions: what its own buffer holds is what ours does, time limits included."""
    ours = play(make_env(5, reward=true_rewards), 20, 40)
    theirs = SAC("MlpPolicy", DummyVecEnv([lambda: toy.Point(horizon=5)]), buffer_size=40, learning_starts=10**6,
                 policy_kwargs={"net_arch": [4]}, seed=0)  # fmt: skip
    theirs.learn(20)
    for name in ("observations", "next_observations", "actions", "dones", "timeouts", "rewards"):
        np.testing.assert_allclose(getattr(ours, name)[:20], getattr(theirs.replay_buffer, name)[:20], atol=1e-6)
    assert ours.timeouts[:20].sum() == 4 and not (ours.dones * (1 - ours.timeouts)).any()


def test_episodes_made_elsewhere_are_drawn_as_those_that_are_played():
    episodes = toy.episodes(3, terminates=True)
    made = EpisodeReplayBuffer(200, toy.Point.observation_space, toy.Point.action_space, "cpu")
    made.fill(episodes, hindsight(episodes))
    steps = sum(len(e.action) for e in episodes)
    assert made.is_known.sum() == steps and made.pos == steps
    np.testing.assert_allclose(made.rewards[:steps, 0], np.concatenate(hindsight(episodes)))
    np.testing.assert_array_equal(made.observations[:steps, 0], np.concatenate([e.obs[:-1] for e in episodes]))
    np.testing.assert_array_equal(made.next_observations[:steps, 0], np.concatenate([e.obs[1:] for e in episodes]))
    ends = np.cumsum([len(e.action) for e in episodes]) - 1
    real = made.dones[:steps, 0] * (1 - made.timeouts[:steps, 0])
    assert real[ends].tolist() == [float(e.terminated) for e in episodes] and real.sum() == real[ends].sum()


def test_what_cannot_be_is_a_sentence():
    with pytest.raises(UserError, match="no episode has ended"):
        play(make_env(30), 20, 100).sample(1)
    with pytest.raises(UserError, match="more steps than buffer_size=10"):
        play(make_env(30), 30, 10)
    with pytest.raises(UserError, match="was not recorded"):
        play(LearnedRewardEnv(DummyVecEnv([lambda: toy.Point(horizon=5)]), hindsight), 10, 100)
    buffer = EpisodeReplayBuffer(9, toy.Point.observation_space, toy.Point.action_space, "cpu")
    with pytest.raises(UserError, match="there are none rewards of it: EpisodeReplayBuffer is for"):
        zeros = np.zeros((1, 2), np.float32)
        buffer.add(zeros, zeros, zeros, np.zeros(1), np.ones(1), [{}])
    with pytest.raises(UserError, match="of one environment"):
        EpisodeReplayBuffer(9, toy.Point.observation_space, toy.Point.action_space, "cpu", n_envs=2).fill([], [])
    with pytest.raises(UserError, match="optimize_memory_usage=False"):
        spaces = toy.Point.observation_space, toy.Point.action_space
        EpisodeReplayBuffer(9, *spaces, "cpu", optimize_memory_usage=True, handle_timeout_termination=False)


def test_an_algorithm_without_the_buffer_fails_on_the_first_reward():
    """Its reward is NaN until the episode has ended, so nothing learns from zeros unnoticed."""
    env = make_env(5)
    env.reset()
    _, reward, _, _ = env.step(np.zeros((1, 2), np.float32))
    assert np.isnan(reward).all() and torch.tensor(reward).isnan().all()

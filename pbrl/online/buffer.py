"""A replay buffer whose rewards come when an episode ends; until then nothing of the episode is drawn."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

from pbrl.types import Episode, UserError

REWARDS = "rewards"  # of the episode that has just ended, in a step's info


class EpisodeReplayBuffer(ReplayBuffer):
    """Stable-Baselines3's, for environments in a `LearnedRewardEnv`: `SAC(…, replay_buffer_class=EpisodeReplayBuffer)`.

    `is_known` [S, n_envs] says which of its S rows hold a step whose reward is known.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if self.optimize_memory_usage:
            raise UserError("EpisodeReplayBuffer keeps both observations of a step: optimize_memory_usage=False")
        self.is_known = np.zeros((self.buffer_size, self.n_envs), bool)
        self._unfinished: list[list[int]] = [[] for _ in range(self.n_envs)]  # rows of each environment's episode
        self._drawn: np.ndarray | None = None  # places of known steps

    def add(
        self,
        obs: np.ndarray,
        next_obs: np.ndarray,
        action: np.ndarray,
        reward: np.ndarray,
        done: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        """Adds a step [n_envs, …]; where an episode ends, `infos` hold the rewards [T] of all its steps.

        Raises UserError where they do not, or the buffer is smaller than an episode.
        """
        row = self.pos
        if self.is_known[row].any():
            self.is_known[row], self._drawn = False, None
        super().add(obs, next_obs, action, reward, done, infos)
        for i, rows in enumerate(self._unfinished):
            rows.append(row)
            if len(rows) > self.buffer_size:
                raise UserError(f"an episode has more steps than buffer_size={self.buffer_size * self.n_envs} holds")
            if done[i]:
                self.write(np.array(rows), i, infos[i].get(REWARDS))
                rows.clear()

    def write(self, rows: np.ndarray, i: int, rewards: np.ndarray | None) -> None:
        """Sets the rewards [T] of environment i's steps in `rows` [T], which are drawn from then on. Raises UserError
        where there is not one of each."""
        if rewards is None or len(rewards) != len(rows):
            given = "none" if rewards is None else f"{len(rewards)}"
            raise UserError(
                f"an episode of {len(rows)} steps has ended, and there are {given} rewards of it: EpisodeReplayBuffer "
                "is for environments in a LearnedRewardEnv, which are reset when it is"
            )
        self.rewards[rows, i] = rewards
        self.is_known[rows, i], self._drawn = True, None

    def fill(self, episodes: Sequence[Episode], rewards: Sequence[np.ndarray]) -> None:
        """Adds whole episodes with their rewards [T] each: steps that were made elsewhere. Raises UserError."""
        if self.n_envs > 1:
            raise UserError("episodes are put into a replay buffer of one environment")
        for episode, own in zip(episodes, rewards, strict=True):
            end = len(episode.action) - 1
            for t, action in enumerate(episode.action):
                done, is_cut = t == end, t == end and not episode.terminated
                info = {"TimeLimit.truncated": is_cut, **({REWARDS: own} if done else {})}
                before, after = episode.obs[t : t + 1], episode.obs[t + 1 : t + 2]
                self.add(before, after, action[None], np.array([np.nan]), np.array([done]), [info])

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> ReplayBufferSamples:
        """`batch_size` steps whose rewards are known, uniformly. Raises UserError where there is none yet."""
        if self._drawn is None:
            self._drawn = np.flatnonzero(self.is_known)
        if not len(self._drawn):
            raise UserError(
                "no episode has ended, so no reward is known to learn from: learning_starts is at least the steps of "
                "an episode"
            )
        drawn = self._drawn[np.random.randint(len(self._drawn), size=batch_size)]
        rows, i = drawn // self.n_envs, drawn % self.n_envs
        ends = self.dones[rows, i] * (1 - self.timeouts[rows, i])
        parts = (
            self._normalize_obs(self.observations[rows, i], env),
            self.actions[rows, i],
            self._normalize_obs(self.next_observations[rows, i], env),
            ends[:, None],
            self._normalize_reward(self.rewards[rows, i, None], env),
        )
        return ReplayBufferSamples(*map(self.to_torch, parts))  # type: ignore[arg-type]

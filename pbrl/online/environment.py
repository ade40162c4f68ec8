"""Environments of Stable-Baselines3 whose reward is learnt: an episode's rewards come when it has ended."""

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper

from pbrl.data.sac_replay import KeepEpisodes
from pbrl.online.buffer import REWARDS
from pbrl.types import Environment, Episode, UserError

EPISODE = "episode_of_pbrl"  # that has just ended, in a step's info
RewardOf = Callable[[Sequence[Episode]], Sequence[np.ndarray]]  # of episodes, the reward of each step: [T] each


class RecordedEnv(KeepEpisodes):
    """Hands on each episode, with simulator states, in the info of its last step."""

    def step(self, action: np.ndarray) -> Any:
        """Gymnasium's `step`."""
        obs, reward, terminated, truncated, info = super().step(action)
        if self.episodes:
            info = {**info, EPISODE: self.episodes.pop()}
        return obs, reward, terminated, truncated, info


class LearnedRewardEnv(VecEnvWrapper):
    """n environments whose rewards are those of `reward`, a `LearnedReward` or a function like it.

    A step's reward is NaN, as it is not known yet; when an episode ends, the info of its last step holds `rewards` [T]
    of all of its steps, which `EpisodeReplayBuffer` writes, and `true_return`, the sum of the environment's own. So it
    is for off-policy algorithms with that buffer, and others fail on the NaN. Each of `venv` is a `RecordedEnv`.
    """

    def __init__(self, venv: VecEnv, reward: RewardOf):
        super().__init__(venv)
        self.reward = reward

    @classmethod
    def of(cls, makers: Sequence[Callable[[], Environment]], reward: RewardOf) -> "LearnedRewardEnv":
        """Of functions that make an environment each; they are stepped in this process."""
        return cls(DummyVecEnv([_recorded(make) for make in makers]), reward)  # type: ignore[arg-type]

    def reset(self) -> Any:
        """Stable-Baselines3's `reset`: observations [n, O]."""
        return self.venv.reset()

    def step_wait(self) -> Any:
        """Stable-Baselines3's `step_wait`. Raises UserError where an episode was not recorded."""
        obs, rewards, dones, infos = self.venv.step_wait()
        ended = np.flatnonzero(dones)
        if len(ended):
            self._reward(ended, infos)
        return obs, np.full_like(rewards, np.nan), dones, infos

    def _reward(self, ended: np.ndarray, infos: list[dict[str, Any]]) -> None:
        if any(EPISODE not in infos[i] for i in ended):
            raise UserError(
                "an episode has ended that was not recorded: make the environments with LearnedRewardEnv.of, or wrap "
                "each in a RecordedEnv"
            )
        episodes = [infos[i].pop(EPISODE) for i in ended]
        for i, episode, rewards in zip(ended, episodes, self.reward(episodes), strict=True):
            infos[i][REWARDS], infos[i]["true_return"] = rewards, float(episode.reward.sum())


def true_rewards(episodes: Sequence[Episode]) -> list[np.ndarray]:
    """The environments' own rewards of episodes: [T] each."""
    return [episode.reward for episode in episodes]


def _recorded(make: Callable[[], Environment]) -> Callable[[], gymnasium.Env]:
    return lambda: RecordedEnv(make())  # type: ignore[arg-type]

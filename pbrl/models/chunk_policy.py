"""What policies that decide chunks have in common: their sizes, the queue of actions, and the noise that they draw."""

import torch
from torch import Tensor

from pbrl.models.chunks import ChunkQueue
from pbrl.models.diffusion.noise import EpisodeNoise
from pbrl.models.policy import LikelihoodPolicy
from pbrl.types import Observation, Spec, UserError


class ChunkPolicy(LikelihoodPolicy):
    """Plans `horizon` actions and carries out `execute` of them; its noise follows from the first observation."""

    def set_chunks(self, spec: Spec, horizon: int, execute: int) -> None:
        """Takes note of the sizes. Raises UserError where they do not fit each other, or the longest episode."""
        if execute > horizon:
            raise UserError(f"policy.execute={execute} actions of a chunk of policy.horizon={horizon}: at most all")
        if 1 < spec.max_steps < horizon:  # 1: nothing is known of the data yet
            raise UserError(f"policy.horizon={horizon}, but the longest episode has {spec.max_steps} steps: lower it")
        self.spec, self.horizon, self.execute = spec, horizon, execute
        self.queue, self.noise = ChunkQueue(execute), EpisodeNoise()

    def reset(self) -> None:
        self.queue.reset()
        self.noise.reset()

    def looks(self) -> bool:
        return self.queue.is_empty()

    def draw_noise(self, obs: Observation, explore: bool | Tensor) -> Tensor | None:
        """What the next chunk is drawn by where the policy explores [B, K, A], and not a number where it does not."""
        self.noise.begin(obs.state)
        if explore is False:
            return None
        normal = self.noise.draw((len(obs.state), self.horizon, self.spec.action_dim), obs.state.device)
        return normal if explore is True else normal.where(explore[:, None, None], torch.nan)

    def explore_from(self, seed: int) -> None:
        self.noise.salt = seed

"""Steps that a model of the data draws, anew ahead of each part of a phase, in place of the policy's own episodes."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from pbrl.data.rollout import RolloutWorkers
from pbrl.models.policy import LikelihoodPolicy
from pbrl.types import Observation, RewardOf, Transitions

if TYPE_CHECKING:
    from pbrl.training.batches import Data

PARTS = ("state", "action", "reward", "next_state", "done")


class SyntheticRollouts(NamedTuple):
    """`make` draws steps for the policy as it is, by a generator of the iteration's own: PARTS, each [N, ...]."""

    iterations: int
    make: Callable[[LikelihoodPolicy, torch.Generator], dict[str, Tensor]]
    keep: bool = False

    def play(
        self, workers: RolloutWorkers, policy: LikelihoodPolicy, seed: int, iteration: int, reward_of: RewardOf
    ) -> dict[str, Any]:
        return self.make(policy, torch.Generator().manual_seed(seed * 1000 + iteration))

    def is_complete(self, played: Mapping[str, Any]) -> bool:
        return set(played) == set(PARTS)

    def give(self, data: "Data", played: Sequence[dict[str, Any]]) -> tuple[dict[str, float], str]:
        (own,) = played
        steps = Transitions(
            Observation(own["state"]), own["action"], own["reward"], Observation(own["next_state"]), own["done"]
        )
        data.set_synthetic(steps)
        measures = {"steps": float(len(steps.reward)), "reward": steps.reward.mean().item()}
        return measures, f"{len(steps.reward):,} synthetic steps, mean reward {measures['reward']:.3g}"

"""A reward from preferences: an ensemble of networks, by default under the Bradley-Terry model.

Christiano et al. 2017, arXiv:1706.03741; the ensemble with bounded outputs follows PEBBLE, Lee et al. 2021,
arXiv:2106.05091; the linear model is LiRE's, Choi et al. 2024, arXiv:2408.04190.
"""

from typing import Literal

import torch
from torch import Tensor

from pbrl.models.layers import MLP, Normalize
from pbrl.models.optim import Adam
from pbrl.objectives import Objective, agreement
from pbrl.ranges import Count, NotNegative, Positive, Size
from pbrl.rewards.per_step import Actions, ComparedReward, sees_actions
from pbrl.types import Comparisons, Metrics, Observation, Segment, Spec, UserError


class Ensemble(ComparedReward):
    """`members` networks trained on the same batches from different starts; each scores a segment by its summed reward.

    With `linear` rewards are positive, and the odds of a preference are the ratio of both returns, not of their
    exponentials: the scores are logarithms of that. `normalize` says how `Table.relabel` makes one reward of many.

    Without `actions` it is a reward of states alone, with `auto` where segments have one step (see `sees_actions`);
    `length` is how many they have.
    """

    def __init__(
        self,
        spec: Spec,
        objective: Objective,
        *,
        actions: Actions = True,  # as runs have it that are older than the setting
        length: Size = 1,
        members: Size,
        hidden: list[Size],
        activation: Literal["relu", "tanh", "leaky_relu"],
        bounded: bool,
        linear: bool,
        normalize: str,
        lr: Positive,
        weight_decay: NotNegative,
        steps: Count,
        batch_size: Size,
    ):
        super().__init__(objective, context=1, normalize=normalize, steps=steps, batch_size=batch_size)
        if linear and not bounded:
            raise UserError("reward.linear=true takes rewards that have a least one: reward.bounded=true")
        self.linear = linear
        self.obs_normalize = Normalize(spec.obs_mean, spec.obs_std)
        self.actions = sees_actions(actions, length)
        size = spec.obs_dim + (spec.action_dim if self.actions else 0)
        self.net = MLP(size, 1, hidden, ensemble=members, activation=activation)
        self.optim = Adam(self.net.parameters(), lr, weight_decay=weight_decay)
        self.bounded = bounded

    def reward(self, obs: Observation, action: Tensor) -> Tensor:
        state = self.obs_normalize(obs.state)
        out = self.net(torch.cat([state, action], -1) if self.actions else state).squeeze(-1).float()
        bounded = torch.tanh(out) if self.bounded else out
        return 1 + bounded if self.linear else bounded

    def score(self, segment: Segment) -> Tensor:
        return self.total(self.reward(segment.obs, segment.action), segment.mask)

    def total(self, reward: Tensor, mask: Tensor) -> Tensor:
        """What the steps with a reward [E, ..., L] that count in `mask` [..., L] add up to: [E, ...]."""
        total = (reward * mask).sum(-1)
        return total.clamp(min=1e-6).log() if self.linear else total

    def update(self, batch: Comparisons) -> Metrics:
        """Minimizes the sum of the members' losses on the segments' returns."""
        scores = self.score(batch.segments)  # [E, B, K], where K is 2 for pairs
        loss = self.objective(scores, batch.label, batch.confidence)  # [E]
        self.optim.step(loss.sum())
        return {"loss": loss.detach().mean(), "train_accuracy": agreement(scores.mean(0), batch.label)}

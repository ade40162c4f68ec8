"""A reward from preferences: an ensemble of networks, by default under the Bradley-Terry model.

Christiano et al. 2017, arXiv:1706.03741; the ensemble with bounded outputs follows PEBBLE, Lee et al. 2021,
arXiv:2106.05091; the linear model is LiRE's, Choi et al. 2024, arXiv:2408.04190.
"""

import torch
from torch import Tensor, nn

from pbrl.models.layers import MLP, Normalize
from pbrl.models.optim import Adam
from pbrl.objectives import Objective, agreement, compared
from pbrl.types import Metrics, PreferenceBatch, Spec, UserError


class Ensemble(nn.Module):
    """`members` networks trained on the same batches from different starts; each scores a segment by its summed reward.

    With `linear` rewards are positive, and the odds of a preference are the ratio of what both earn, not of its
    exponentials: the scores are logarithms of that. `normalize` says how `Table.relabel` makes one reward of many.
    """

    batch = PreferenceBatch
    context = 1

    def __init__(
        self,
        spec: Spec,
        objective: Objective,
        *,
        members: int,
        hidden: list[int],
        activation: str,
        bounded: bool,
        linear: bool,
        normalize: str,
        lr: float,
        weight_decay: float,
        steps: int,
        batch_size: int,
    ):
        super().__init__()
        if linear and not bounded:
            raise UserError("reward.linear=true takes rewards that have a least one: reward.bounded=true")
        self.linear = linear
        self.objective, self.segments = objective, compared(objective)
        self.obs_normalize = Normalize(spec.obs_mean, spec.obs_std)
        self.net = MLP(spec.obs_dim + spec.action_dim, 1, hidden, ensemble=members, activation=activation)
        self.optim = Adam(self.net.parameters(), lr, weight_decay=weight_decay)
        self.bounded, self.normalize, self.steps, self.batch_size = bounded, normalize, steps, batch_size

    def reward(self, obs: Tensor, action: Tensor) -> Tensor:
        """obs [..., O], action [..., A] → reward of each member [E, ...]."""
        out = self.net(torch.cat([self.obs_normalize(obs), action], -1)).squeeze(-1).float()
        bounded = torch.tanh(out) if self.bounded else out
        return 1 + bounded if self.linear else bounded

    def score(self, obs: Tensor, action: Tensor) -> Tensor:
        return self.total(self.reward(obs, action))

    def total(self, reward: Tensor, where: Tensor | float = 1.0) -> Tensor:
        """What steps with a reward [..., L] add up to [...], those that count being 1 in `where`."""
        if self.linear:
            return (reward * where).sum(-1).clamp(min=1e-6).log()
        return (reward * where).sum(-1)

    def update(self, batch: PreferenceBatch) -> Metrics:
        scores = self.score(batch.obs, batch.action)  # [E, B, K], where K is 2 for pairs
        loss = self.objective(scores, batch.label).mean(1)  # [E]
        self.optim.step(loss.sum())
        return {"loss": loss.detach().mean(), "train_accuracy": agreement(scores.mean(0), batch.label)}

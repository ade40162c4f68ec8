"""A reward from preferences: an ensemble of networks under the Bradley-Terry model.

Christiano et al. 2017, arXiv:1706.03741; the ensemble with bounded outputs follows PEBBLE, Lee et al. 2021,
arXiv:2106.05091.
"""

import torch
from torch import Tensor, nn

from pbrl.nets import MLP, Normalize
from pbrl.objectives import bradley_terry
from pbrl.optim import Adam
from pbrl.types import Metrics, PreferenceBatch, Spec


class Ensemble(nn.Module):
    """`members` networks trained on the same batches from different starts; each scores a segment by its summed reward.

    `normalize` says how `Table.relabel` turns members into one reward: see there.
    """

    batch = PreferenceBatch

    def __init__(
        self,
        spec: Spec,
        *,
        members: int,
        hidden: list[int],
        activation: str,
        bounded: bool,
        normalize: str,
        lr: float,
        weight_decay: float,
        steps: int,
        batch_size: int,
    ):
        super().__init__()
        self.obs_normalize = Normalize(spec.obs_mean, spec.obs_std)
        self.net = MLP(spec.obs_dim + spec.action_dim, 1, hidden, ensemble=members, activation=activation)
        self.optim = Adam(self.net.parameters(), lr, weight_decay=weight_decay)
        self.bounded, self.normalize, self.steps, self.batch_size = bounded, normalize, steps, batch_size

    def reward(self, obs: Tensor, action: Tensor) -> Tensor:
        """obs [..., O], action [..., A] → reward of each member [E, ...]."""
        out = self.net(torch.cat([self.obs_normalize(obs), action], -1)).squeeze(-1).float()
        return torch.tanh(out) if self.bounded else out

    def update(self, batch: PreferenceBatch) -> Metrics:
        scores = self.reward(batch.obs, batch.action).sum(-1)  # [E, B, 2], summed over the segment
        loss = bradley_terry(scores, batch.label).mean(1)  # [E]
        self.optim.step(loss.sum())
        a, b = scores.mean(0).unbind(-1)
        agree = ((b > a) == (batch.label > 0.5)).float()
        return {"loss": loss.detach().mean(), "train_accuracy": agree.mean()}

"""A reward from demonstrations alone, with no answers: how much a step looks like those of the best episodes.

Offline reinforced imitation learning (ORIL), Zolna et al. 2020, arXiv:2011.13885: inverse reinforcement learning
without a simulator. A discriminator D(s, a) separates steps of demonstrations from steps of the whole data set, and
D is the reward of each step.
The data set holds demonstrations too, unmarked, in a share of `prior`; so its loss is the one for positive and
unlabelled examples, kept from below zero as by Kiryo et al. 2017, arXiv:1703.00593.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from pbrl.models.layers import MLP, Normalize
from pbrl.models.optim import Adam
from pbrl.ranges import Count, NotNegative, Positive, ShareBelow1, Size
from pbrl.rewards.per_step import PerStepReward
from pbrl.training.batches import Data
from pbrl.types import Metrics, Observation, Phase, Spec, Transitions, UserError


class Batch(NamedTuple):
    """Steps of demonstrations, and steps from anywhere in the data."""

    demonstrated: Transitions
    steps: Transitions


class Discriminator(PerStepReward):
    """`members` discriminators of states and actions; the episodes with the highest true return, a share of
    `demonstrations`, are what they take for demonstrations: a privilege beside rewards that answers teach.
    """

    def __init__(
        self,
        spec: Spec,
        *,
        demonstrations: float,
        prior: ShareBelow1,
        members: Size,
        hidden: list[Size],
        normalize: str,
        lr: Positive,
        weight_decay: NotNegative,
        steps: Count,
        batch_size: Size,
    ):
        super().__init__(context=1, normalize=normalize)
        if not 0 < demonstrations < 1:
            raise UserError(f"reward.demonstrations is a share of the episodes between 0 and 1, not {demonstrations}")
        self.obs_normalize = Normalize(spec.obs_mean, spec.obs_std)
        self.net = MLP(spec.obs_dim + spec.action_dim, 1, hidden, ensemble=members)
        self.optim = Adam(self.net.parameters(), lr, weight_decay=weight_decay)
        self.demonstrations, self.prior = demonstrations, prior
        self.steps, self.batch_size = steps, batch_size

    def logit(self, obs: Observation, action: Tensor) -> Tensor:
        """log D / (1 - D) of steps by each member: [E, ...]."""
        return self.net(torch.cat([self.obs_normalize(obs.state), action], -1)).squeeze(-1).float()

    def reward(self, obs: Observation, action: Tensor) -> Tensor:
        return torch.sigmoid(self.logit(obs, action))

    def phases(self) -> list[Phase]:
        return [Phase("reward", self.steps, self.draw, self.update)]

    def draw(self, data: Data) -> Batch:
        """`batch_size` steps of demonstrations, and as many of all."""
        return Batch(data.transitions(self.batch_size, fraction=self.demonstrations), data.transitions(self.batch_size))

    def update(self, batch: Batch) -> Metrics:
        """Minimizes p E_d[-log D] + max(0, E_all[-log(1 - D)] - p E_d[-log(1 - D)]), where p is `prior`."""
        found = self.logit(batch.demonstrated.obs, batch.demonstrated.action)  # [E, B]
        anywhere = self.logit(batch.steps.obs, batch.steps.action)
        positive = self.prior * softplus(-found).mean(-1)  # [E]
        negative = (softplus(anywhere).mean(-1) - self.prior * softplus(found).mean(-1)).clamp(min=0)
        loss = positive + negative
        self.optim.step(loss.sum())
        return {"loss": loss.detach().mean(), "demonstrated": torch.sigmoid(found).detach().mean()}

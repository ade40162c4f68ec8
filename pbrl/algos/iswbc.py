"""Importance-sampling weighted behavior cloning: the whole data set, weighted by how much it looks like what was good.

Li et al. 2023, "Imitation Learning from Imperfection", NeurIPS 2023. A discriminator c(s, a) separates steps of good
segments from steps of all episodes; c / (1 - c) is then their density ratio, and the policy clones all steps weighted
by it. The paper's experts are given; here they are the segments that raters preferred, which are at most about twice
as dense among their own as among all steps, so that the ratio may be raised to a power (`exponent`).
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from pbrl.distributed import all_reduce_mean
from pbrl.models.layers import MLP, Normalize
from pbrl.models.optim import Adam
from pbrl.models.policy import LikelihoodPolicy, check_single_steps
from pbrl.ranges import NotNegative, Positive, PositiveOrInfinite, Size, Whole
from pbrl.training.batches import Data
from pbrl.types import Comparisons, Metrics, Phase, Spec, Transitions


class Batch(NamedTuple):
    """Segments with how good each is, and steps from anywhere in the data."""

    marked: Comparisons
    steps: Transitions


class ISWBC(nn.Module):
    def __init__(
        self,
        spec: Spec,
        policy: LikelihoodPolicy,
        *,
        hidden: list[Size],
        exponent: NotNegative,
        max_weight: PositiveOrInfinite,
        lr: Positive,
        weight_decay: NotNegative,
        cosine_steps: Whole,
        batch_size: Size,
        step_batch_size: Size,
    ):
        super().__init__()
        check_single_steps(policy, "algo=iswbc")
        self.policy = policy
        self.normalize = Normalize(spec.obs_mean, spec.obs_std)
        self.discriminator = MLP(spec.obs_dim + spec.action_dim, 1, hidden)
        self.discriminator_optim = Adam(self.discriminator.parameters(), lr, weight_decay=weight_decay)
        self.actor_optim = Adam(policy.parameters(), lr, cosine=cosine_steps)
        self.exponent, self.max_weight = exponent, max_weight
        self.batch_size, self.step_batch_size = batch_size, step_batch_size

    def phases(self, steps: int) -> list[Phase]:
        return [Phase("policy", steps, self.draw, self.update)]

    def draw(self, data: Data) -> Batch:
        """`batch_size` answers about segments, and `step_batch_size` transitions."""
        return Batch(data.marked(self.batch_size), data.transitions(self.step_batch_size))

    def logit(self, state: Tensor, action: Tensor) -> Tensor:
        """log c / (1 - c) of steps [..., O] and [..., A]: [...]."""
        return self.discriminator(torch.cat([self.normalize(state), action], -1)).float().squeeze(-1)

    def update(self, batch: Batch) -> Metrics:
        """A step of the discriminator, then of the policy: cloning weighted by (c / (1 - c)) ** exponent."""
        segments, steps = batch.marked.segments, batch.steps
        good = batch.marked.label[..., None] * segments.mask * batch.marked.confidence[:, None, None]  # [B, 2, L]
        marked = self.logit(segments.obs.state, segments.action)
        of_all = self.logit(steps.obs.state, steps.action)
        error = (good * softplus(-marked)).sum() / all_reduce_mean(good.sum()).clamp(min=1e-6) + softplus(of_all).mean()

        weight = (self.exponent * of_all.detach()).exp().clamp(max=self.max_weight)
        weight = weight / all_reduce_mean(weight.mean()).clamp(min=1e-6)
        actor_loss = -(weight * self.policy.log_prob(steps.obs, steps.action)).mean()

        self.discriminator_optim.step(error)
        self.actor_optim.step(actor_loss)
        self.policy.after_step()
        return {"discriminator_loss": error.detach(), "actor_loss": actor_loss.detach(), "max_weight": weight.amax()}

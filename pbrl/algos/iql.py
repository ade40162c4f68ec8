"""Implicit Q-learning: values by expectile regression on the data's own actions, a policy by weighted imitation.

Kostrikov et al. 2021, arXiv:2110.06169. With the true reward it is the ceiling of two-stage preference learning; with
`reward=ensemble` it is P-IQL.
"""

import copy

import torch
from torch import nn

from pbrl.models.layers import MLP, Normalize
from pbrl.models.optim import Adam, polyak
from pbrl.models.policy import LikelihoodPolicy, check_single_steps
from pbrl.ranges import NotNegative, OpenShare, Positive, PositiveOrInfinite, Share, Size, Whole
from pbrl.training.batches import Data
from pbrl.types import Metrics, Phase, Spec, Transitions


class IQL(nn.Module):
    def __init__(
        self,
        spec: Spec,
        policy: LikelihoodPolicy,
        *,
        hidden: list[Size],
        expectile: OpenShare,
        beta: NotNegative,
        max_weight: PositiveOrInfinite,
        discount: Share,
        tau: Share,
        lr: Positive,
        actor_cosine_steps: Whole,
        batch_size: Size,
    ):
        super().__init__()
        check_single_steps(policy, "algo=iql")
        self.policy = policy
        self.normalize = Normalize(spec.obs_mean, spec.obs_std)
        self.v = MLP(spec.obs_dim, 1, hidden)
        self.q = MLP(spec.obs_dim + spec.action_dim, 1, hidden, ensemble=2)
        self.q_target = copy.deepcopy(self.q).requires_grad_(False)
        self.critic_optim = Adam([*self.v.parameters(), *self.q.parameters()], lr)
        self.actor_optim = Adam(policy.parameters(), lr, cosine=actor_cosine_steps)
        self.expectile, self.beta, self.max_weight = expectile, beta, max_weight
        self.discount, self.tau, self.batch_size = discount, tau, batch_size

    def phases(self, steps: int) -> list[Phase]:
        return [Phase("policy", steps, self.draw, self.update)]

    def draw(self, data: Data) -> Transitions:
        """`batch_size` transitions of the whole data set."""
        return data.transitions(self.batch_size)

    def update(self, batch: Transitions) -> Metrics:
        """A step of V by expectile regression (eq. 5), of Q (eq. 6) and of the policy by advantage weights (eq. 7)."""
        obs, next_obs = self.normalize(batch.obs.state), self.normalize(batch.next_obs.state)
        pair = torch.cat([obs, batch.action], -1)

        with torch.no_grad():
            q_min = self.q_target(pair).float().amin(0).squeeze(-1)
            v_next = self.v(next_obs).float().squeeze(-1)
            target = batch.reward + self.discount * (1 - batch.done) * v_next

        v = self.v(obs).float().squeeze(-1)
        error = q_min - v
        v_loss = (torch.where(error > 0, self.expectile, 1 - self.expectile) * error.square()).mean()  # eq. 5
        q = self.q(pair).float().squeeze(-1)  # [2, B]
        q_loss = (q - target).square().mean()  # eq. 6
        weight = (self.beta * error.detach()).exp().clamp(max=self.max_weight)
        actor_loss = -(weight * self.policy.log_prob(batch.obs, batch.action)).mean()  # eq. 7

        self.critic_optim.step(v_loss + q_loss)
        self.actor_optim.step(actor_loss)
        self.policy.after_step()
        polyak(self.q_target, self.q, self.tau)
        return {
            "v_loss": v_loss.detach(),
            "q_loss": q_loss.detach(),
            "actor_loss": actor_loss.detach(),
            "v": v.detach().mean(),
        }

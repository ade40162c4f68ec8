"""AWAC: an actor-critic on the data whose policy imitates actions by their advantage.

Nair et al. 2020, arXiv:2006.09359. Unlike IQL its critic asks for the value of the policy's own actions.
"""

import copy

import torch
from torch import nn

from pbrl.models.gaussian import GaussianPolicy, check_gaussian
from pbrl.models.layers import MLP, Normalize
from pbrl.models.optim import Adam, polyak
from pbrl.ranges import Positive, PositiveOrInfinite, Share, Size
from pbrl.training.batches import Data
from pbrl.types import Metrics, Phase, Spec, Transitions


class AWAC(nn.Module):
    def __init__(
        self,
        spec: Spec,
        policy: GaussianPolicy,
        *,
        hidden: list[Size],
        temperature: Positive,
        max_weight: PositiveOrInfinite,
        discount: Share,
        tau: Share,
        lr: Positive,
        batch_size: Size,
    ):
        super().__init__()
        check_gaussian(policy, "algo=awac")
        self.policy = policy
        self.normalize = Normalize(spec.obs_mean, spec.obs_std)
        self.q = MLP(spec.obs_dim + spec.action_dim, 1, hidden, ensemble=2)
        self.q_target = copy.deepcopy(self.q).requires_grad_(False)
        self.critic_optim = Adam(self.q.parameters(), lr)
        self.actor_optim = Adam(policy.parameters(), lr)
        self.temperature, self.max_weight = temperature, max_weight
        self.discount, self.tau, self.batch_size = discount, tau, batch_size

    def phases(self, steps: int) -> list[Phase]:
        return [Phase("policy", steps, self.draw, self.update)]

    def draw(self, data: Data) -> Transitions:
        """`batch_size` transitions of the whole data set."""
        return data.transitions(self.batch_size)

    def update(self, batch: Transitions) -> Metrics:
        """A TD step of both critics, then of the policy: cloning weighted by exp(advantage / temperature)."""
        obs, next_obs = self.normalize(batch.obs.state), self.normalize(batch.next_obs.state)

        with torch.no_grad():
            next_action = self.policy.sample(batch.next_obs)
            q_next = self.q_target(torch.cat([next_obs, next_action], -1)).float().amin(0).squeeze(-1)
            target = batch.reward + self.discount * (1 - batch.done) * q_next
        q = self.q(torch.cat([obs, batch.action], -1)).float().squeeze(-1)  # [2, B]
        q_loss = (q - target).square().mean()

        with torch.no_grad():
            value = self.q(torch.cat([obs, self.policy.sample(batch.obs)], -1)).float().amin(0).squeeze(-1)
            advantage = q.amin(0) - value
            weight = (advantage / self.temperature).exp().clamp(max=self.max_weight)
        actor_loss = -(weight * self.policy.log_prob(batch.obs, batch.action)).mean()

        self.critic_optim.step(q_loss)
        self.actor_optim.step(actor_loss)
        polyak(self.q_target, self.q, self.tau)
        return {"q_loss": q_loss.detach(), "actor_loss": actor_loss.detach(), "advantage": advantage.mean()}

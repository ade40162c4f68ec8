"""Inverse Preference Learning: a critic that is its own reward, learnt from preferences; then IQL's policy.

Hejna & Sadigh 2023, arXiv:2305.15363. For a fixed policy, Q and reward determine each other: r = Q(s, a) - gamma V(s').
So preferences train Q directly, and no reward model can be wrong apart from it. As preferences between segments of
one length leave the reward's offset open, rewards are drawn to a `usual` one. Where episodes can terminate it is 1 by
default: about 0 half of them would be negative, and to die would pay.
"""

import copy

import torch
from torch import Tensor, nn

from pbrl.models.gaussian import Likelihood
from pbrl.models.layers import MLP, Normalize
from pbrl.models.optim import Adam, polyak
from pbrl.objectives import agreement, bradley_terry
from pbrl.types import Metrics, PairsAndSteps, Spec, Transitions


class IPL(nn.Module):
    batch = PairsAndSteps

    def __init__(
        self,
        spec: Spec,
        policy: Likelihood,
        *,
        hidden: list[int],
        penalty: float,
        usual: float | None,
        expectile: float,
        beta: float,
        max_weight: float,
        discount: float,
        tau: float,
        lr: float,
        actor_cosine_steps: int,
        batch_size: int,
        step_batch_size: int,
    ):
        super().__init__()
        self.policy = policy
        self.normalize = Normalize(spec.obs_mean, spec.obs_std)
        self.v = MLP(spec.obs_dim, 1, hidden)
        self.q = MLP(spec.obs_dim + spec.action_dim, 1, hidden, ensemble=2)
        self.q_target = copy.deepcopy(self.q).requires_grad_(False)
        self.critic_optim = Adam([*self.v.parameters(), *self.q.parameters()], lr)
        self.actor_optim = Adam(policy.parameters(), lr, cosine=actor_cosine_steps)
        self.penalty, self.usual = penalty, float(spec.terminates) if usual is None else usual
        self.expectile, self.beta, self.max_weight = expectile, beta, max_weight
        self.discount, self.tau = discount, tau
        self.batch_size, self.step_batch_size = batch_size, step_batch_size

    def update(self, batch: PairsAndSteps) -> Metrics:
        steps = together(batch)
        obs, next_obs = self.normalize(steps.obs), self.normalize(steps.next_obs)
        pair = torch.cat([obs, steps.action], -1)

        with torch.no_grad():
            q_min = self.q_target(pair).float().amin(0).squeeze(-1)
            v_next = self.v(next_obs).float().squeeze(-1)
        v = self.v(obs).float().squeeze(-1)
        error = q_min - v
        v_loss = (torch.where(error > 0, self.expectile, 1 - self.expectile) * error.square()).mean()
        q = self.q(pair).float().squeeze(-1)
        reward = q - self.discount * (1 - steps.done) * v_next  # [2, M], eq. 3
        asked = batch.pairs.label.shape[0]
        of_pairs = reward[:, : len(steps.obs) - len(batch.steps.obs)]
        scores = of_pairs.reshape(2, asked, 2, -1).sum(-1)  # [2, B, 2]
        preference = bradley_terry(scores, batch.pairs.label).mean(1).sum()
        size = (reward - self.usual).square().mean(1).sum()
        weight = (self.beta * error.detach()).exp().clamp(max=self.max_weight)
        actor_loss = -(weight * self.policy.log_prob(steps.obs, steps.action)).mean()

        self.critic_optim.step(v_loss + preference + self.penalty * size)  # eq. 5
        self.actor_optim.step(actor_loss)
        polyak(self.q_target, self.q, self.tau)
        return {
            "preference": preference.detach(),
            "v_loss": v_loss.detach(),
            "actor_loss": actor_loss.detach(),
            "reward_size": size.detach(),
            "train_accuracy": agreement(scores.detach().mean(0), batch.pairs.label),
        }


def together(batch: PairsAndSteps) -> Transitions:
    """All steps at once, [M, …]: those of the segments but their last, whose next observation is not asked about."""
    obs, action, steps = batch.pairs.obs, batch.pairs.action, batch.steps

    def flat(x: Tensor) -> Tensor:
        return x.reshape(-1, x.shape[-1])

    none = obs.new_zeros(len(flat(obs[:, :, 1:])))  # a segment ends before its episode does
    return Transitions(
        torch.cat([flat(obs[:, :, :-1]), steps.obs]), torch.cat([flat(action[:, :, :-1]), steps.action]),
        torch.cat([none, steps.reward]), torch.cat([flat(obs[:, :, 1:]), steps.next_obs]),
        torch.cat([none, steps.done]),
    )  # fmt: skip

"""Inverse Preference Learning: a critic that is its own reward, learnt from preferences; then IQL's policy.

Hejna & Sadigh 2023, arXiv:2305.15363. For a fixed policy, Q and reward determine each other: r = Q(s, a) - gamma V(s').
So preferences train Q directly, and no reward model can be wrong apart from it. As preferences between segments of
one length leave the reward's offset open, rewards are drawn to a `usual_reward`. Where episodes can terminate it is 1
by default: about 0 half of them would be negative, and early termination would pay.
"""

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pbrl.distributed import all_reduce_mean
from pbrl.models.layers import MLP, Normalize
from pbrl.models.optim import Adam, polyak
from pbrl.models.policy import LikelihoodPolicy, check_single_steps
from pbrl.objectives import agreement, bradley_terry
from pbrl.ranges import Finite, NotNegative, OpenShare, Positive, PositiveOrInfinite, Share, Size, Whole
from pbrl.training.batches import Data
from pbrl.types import Comparisons, Metrics, Observation, Phase, Spec, Transitions


class Batch(NamedTuple):
    """Comparisons, and steps from anywhere in the data."""

    pairs: Comparisons
    steps: Transitions


class IPL(nn.Module):
    def __init__(
        self,
        spec: Spec,
        policy: LikelihoodPolicy,
        *,
        hidden: list[Size],
        penalty: NotNegative,
        usual_reward: Finite | None,
        expectile: OpenShare,
        beta: NotNegative,
        max_weight: PositiveOrInfinite,
        discount: Share,
        tau: Share,
        lr: Positive,
        actor_cosine_steps: Whole,
        batch_size: Size,
        step_batch_size: Size,
    ):
        super().__init__()
        check_single_steps(policy, "algo=ipl")
        self.policy = policy
        self.normalize = Normalize(spec.obs_mean, spec.obs_std)
        self.v = MLP(spec.obs_dim, 1, hidden)
        self.q = MLP(spec.obs_dim + spec.action_dim, 1, hidden, ensemble=2)
        self.q_target = copy.deepcopy(self.q).requires_grad_(False)
        self.critic_optim = Adam([*self.v.parameters(), *self.q.parameters()], lr)
        self.actor_optim = Adam(policy.parameters(), lr, cosine=actor_cosine_steps)
        self.penalty = penalty
        self.usual_reward = float(spec.terminates) if usual_reward is None else usual_reward
        self.expectile, self.beta, self.max_weight = expectile, beta, max_weight
        self.discount, self.tau = discount, tau
        self.batch_size, self.step_batch_size = batch_size, step_batch_size

    def phases(self, steps: int) -> list[Phase]:
        return [Phase("policy", steps, self.draw, self.update)]

    def draw(self, data: Data) -> Batch:
        """`batch_size` comparisons and `step_batch_size` transitions."""
        return Batch(data.comparisons(self.batch_size), data.transitions(self.step_batch_size))

    def update(self, batch: Batch) -> Metrics:
        """A step of Q and V on preferences over Q - gamma V' (eq. 3 and 5), then of the policy by advantage weights."""
        pairs = batch.pairs
        steps, counts = join(batch)
        obs, next_obs = self.normalize(steps.obs.state), self.normalize(steps.next_obs.state)
        pair = torch.cat([obs, steps.action], -1)

        with torch.no_grad():
            q_min = self.q_target(pair).float().amin(0).squeeze(-1)
            v_next = self.v(next_obs).float().squeeze(-1)
        v = self.v(obs).float().squeeze(-1)
        error = q_min - v
        v_loss = mean(torch.where(error > 0, self.expectile, 1 - self.expectile) * error.square(), counts)
        q = self.q(pair).float().squeeze(-1)
        reward = q - self.discount * (1 - steps.done) * v_next  # [2, M], eq. 3
        of_pairs = (reward * counts)[:, : len(steps.action) - len(batch.steps.action)]
        scores = of_pairs.reshape(2, len(pairs.label), 2, -1).sum(-1)  # [2, B, 2]
        preference = (bradley_terry(scores, pairs.label) * pairs.confidence).mean(1).sum()
        size = mean((reward - self.usual_reward).square(), counts).sum()
        weight = (self.beta * error.detach()).exp().clamp(max=self.max_weight)
        actor_loss = -mean(weight * self.policy.log_prob(steps.obs, steps.action), counts)

        self.critic_optim.step(v_loss + preference + self.penalty * size)  # eq. 5
        self.actor_optim.step(actor_loss)
        self.policy.after_step()
        polyak(self.q_target, self.q, self.tau)
        return {
            "preference": preference.detach(),
            "v_loss": v_loss.detach(),
            "actor_loss": actor_loss.detach(),
            "reward_size": size.detach(),
            "train_accuracy": agreement(scores.detach().mean(0), pairs.label),
        }


def mean(x: Tensor, counts: Tensor) -> Tensor:
    """The mean of x [..., M] over the steps that count, in the batches of all processes: [...]."""
    return (x * counts).mean(-1) / all_reduce_mean(counts.mean())


def join(batch: Batch) -> tuple[Transitions, Tensor]:
    """All steps at once, [M, …], and which count [M]: not a segment's last, whose next observation is unknown."""
    segments, steps = batch.pairs.segments, batch.steps
    state, action = segments.obs.state, segments.action  # [B, 2, L, …]

    def flat(x: Tensor) -> Tensor:
        return x.reshape(-1, x.shape[-1])

    none = state.new_zeros(len(flat(state[:, :, 1:])))  # a segment ends before its episode does
    counts = (segments.mask[:, :, :-1] * segments.mask[:, :, 1:]).flatten()
    transitions = Transitions(
        Observation(torch.cat([flat(state[:, :, :-1]), steps.obs.state])),
        torch.cat([flat(action[:, :, :-1]), steps.action]),
        torch.cat([none, steps.reward]),
        Observation(torch.cat([flat(state[:, :, 1:]), steps.next_obs.state])),
        torch.cat([none, steps.done]),
    )
    return transitions, torch.cat([counts, torch.ones_like(steps.reward)])

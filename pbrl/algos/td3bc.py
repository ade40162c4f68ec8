"""TD3+BC: deterministic policy gradients that stay near the data's actions.

Fujimoto & Gu 2021, arXiv:2106.06860. With `reward=ensemble` it is the Pb-TD3BC that two-stage methods compare with.
"""

import copy

import torch
from torch import Tensor, nn

from pbrl.distributed import all_reduce_mean
from pbrl.models.gaussian import GaussianPolicy, check_gaussian
from pbrl.models.layers import MLP, Normalize
from pbrl.models.optim import Adam, polyak
from pbrl.ranges import Count, NotNegative, Positive, Share, Size
from pbrl.training.batches import Data
from pbrl.types import Metrics, Phase, Spec, Transitions, UserError


class TD3BC(nn.Module):
    turn: Tensor

    def __init__(
        self,
        spec: Spec,
        policy: GaussianPolicy,
        *,
        hidden: list[Size],
        alpha: NotNegative,
        target_noise: NotNegative,
        target_clip: NotNegative,
        delay: Count,
        discount: Share,
        tau: Share,
        lr: Positive,
        batch_size: Size,
    ):
        super().__init__()
        check_gaussian(policy, "algo=td3bc")
        if policy.log_std is not None:
            raise UserError("algo=td3bc learns a deterministic policy: policy.std=0")
        self.policy = policy
        self.policy_target = copy.deepcopy(policy).requires_grad_(False).eval()
        self.normalize = Normalize(spec.obs_mean, spec.obs_std)
        self.q = MLP(spec.obs_dim + spec.action_dim, 1, hidden, ensemble=2)
        self.q_target = copy.deepcopy(self.q).requires_grad_(False)
        self.critic_optim = Adam(self.q.parameters(), lr)
        self.actor_optim = Adam(policy.parameters(), lr)
        self.alpha, self.target_noise, self.target_clip, self.delay = alpha, target_noise, target_clip, delay
        self.discount, self.tau, self.batch_size = discount, tau, batch_size
        self.register_buffer("turn", torch.zeros((), dtype=torch.long))

    def phases(self, steps: int) -> list[Phase]:
        return [Phase("policy", steps, self.draw, self.update)]

    def draw(self, data: Data) -> Transitions:
        """`batch_size` transitions of the whole data set."""
        return data.transitions(self.batch_size)

    def update(self, batch: Transitions) -> Metrics:
        """A TD step of both critics; every `delay`-th update also moves the policy and the target networks."""
        obs, next_obs = self.normalize(batch.obs.state), self.normalize(batch.next_obs.state)

        with torch.no_grad():
            noise = (self.target_noise * torch.randn_like(batch.action)).clamp(-self.target_clip, self.target_clip)
            next_action = (self.policy_target.mean(batch.next_obs) + noise).clamp(-1, 1)
            q_next = self.q_target(torch.cat([next_obs, next_action], -1)).float().amin(0).squeeze(-1)
            target = batch.reward + self.discount * (1 - batch.done) * q_next
        q = self.q(torch.cat([obs, batch.action], -1)).float().squeeze(-1)  # [2, B]
        q_loss = (q - target).square().mean()
        self.critic_optim.step(q_loss)

        action = self.policy.mean(batch.obs)
        q_policy = self.q(torch.cat([obs, action], -1)).float()[0, :, 0]
        scale = self.alpha / all_reduce_mean(q[0].abs().mean()).clamp(min=1e-6)  # over the data's actions, as published
        bc = (action - batch.action).square().mean()
        actor_loss = bc - scale * q_policy.mean()

        now = (self.turn % self.delay == 0).float()  # the policy and the targets move at every `delay`-th update
        self.actor_optim.step(actor_loss, when=now)
        polyak(self.q_target, self.q, self.tau * now)
        polyak(self.policy_target, self.policy, self.tau * now)
        self.turn.add_(1)
        return {"q_loss": q_loss.detach(), "actor_loss": actor_loss.detach(), "bc": bc.detach(), "q": q.detach().mean()}

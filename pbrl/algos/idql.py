"""Implicit diffusion Q-learning: a cloned diffusion policy, and critics that choose among the chunks it draws.

Hansen-Estruch et al. 2023, arXiv:2304.10573. The critics are IQL's and never ask for actions beyond the data's; the
policy clones all of them, so nothing is lost that guidance by a gradient could spoil. With `reward=ensemble` it learns
from answers. A critic values a chunk as far as it is carried out, as in Q-chunking (Li et al. 2025, arXiv:2507.07969).
"""

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pbrl.distributed import all_reduce_mean
from pbrl.models.diffusion.best_of_n import BestOfN
from pbrl.models.layers import MLP
from pbrl.models.optim import Adam, polyak
from pbrl.models.policy import LikelihoodPolicy
from pbrl.ranges import OpenShare, Positive, Share, Size, Whole
from pbrl.training.batches import Data
from pbrl.types import Metrics, Phase, Segment, Spec, UserError, Windows


class Batch(NamedTuple):
    """Windows of as many steps as are carried out and one more, and chunks to clone."""

    windows: Windows
    chunks: Segment


class IDQL(nn.Module):
    """Raises UserError where the policy does not choose among chunks."""

    def __init__(
        self,
        spec: Spec,
        policy: LikelihoodPolicy,
        *,
        expectile: OpenShare,
        discount: Share,
        tau: Share,
        lr: Positive,
        actor_cosine_steps: Whole,
        batch_size: Size,
    ):
        super().__init__()
        if not isinstance(policy, BestOfN):
            raise UserError("algo=idql teaches critics to choose among chunks: policy=best_of_n")
        self.policy = policy
        self.v = MLP(spec.obs_dim, 1, policy.settings["hidden"])
        self.q_target = copy.deepcopy(policy.q).requires_grad_(False)
        self.critic_optim = Adam([*self.v.parameters(), *policy.q.parameters()], lr)
        self.actor_optim = Adam(policy.model.parameters(), lr, cosine=actor_cosine_steps)
        self.expectile, self.discount, self.tau, self.batch_size = expectile, discount, tau, batch_size

    def phases(self, steps: int) -> list[Phase]:
        return [Phase("policy", steps, self.draw, self.update)]

    def draw(self, data: Data) -> Batch:
        """`batch_size` windows, and as many chunks of the policy's horizon."""
        windows = data.windows(self.batch_size, self.policy.execute + 1)
        return Batch(windows, data.chunks(self.batch_size, self.policy.horizon))

    def update(self, batch: Batch) -> Metrics:
        """A step of V by expectile regression, of Q on the steps that are carried out, and of cloning."""
        windows, chunks = batch
        metrics = self.update_critics(windows)
        loss = -self.policy.score(chunks).sum() / all_reduce_mean(chunks.mask.sum())
        self.actor_optim.step(loss)
        self.policy.after_step()
        return {**metrics, "bc": loss.detach()}

    def update_critics(self, windows: Windows) -> Metrics:
        """IQL's eq. 5 and 6, where what follows an action is what follows a chunk of up to `execute` of them."""
        states = self.policy.normalize(windows.obs.state)  # [B, K + 1, O]
        is_done = windows.before_last()[:, :-1]  # [B, K], the steps that are carried out
        action = windows.action[:, :-1] * is_done[..., None]
        last = windows.last[:, None, None].expand(-1, 1, states.shape[-1])
        step = torch.arange(is_done.shape[1], device=states.device)

        with torch.no_grad():
            pair = torch.cat([states[:, 0], action.flatten(1)], -1)
            q_min = self.q_target(pair).float().amin(0).squeeze(-1)
            v_next = self.v(states.gather(1, last)[:, 0]).float().squeeze(-1)
            paid = (windows.reward[:, :-1] * is_done * self.discount**step).sum(1)
            target = paid + self.discount**windows.last * (1 - windows.done) * v_next

        v = self.v(states[:, 0]).float().squeeze(-1)
        error: Tensor = q_min - v
        v_loss = (torch.where(error > 0, self.expectile, 1 - self.expectile) * error.square()).mean()
        q_loss = (self.policy.q(pair).float().squeeze(-1) - target).square().mean()
        self.critic_optim.step(v_loss + q_loss)
        polyak(self.q_target, self.policy.q, self.tau)
        return {"v_loss": v_loss.detach(), "q_loss": q_loss.detach(), "v": v.detach().mean()}

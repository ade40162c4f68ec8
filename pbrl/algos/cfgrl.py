"""Preference tokens with classifier-free guidance: all is cloned, told whether it was good, and good is asked for.

Frans et al. 2025, arXiv:2505.23458 (CFGRL): guidance with weight w moves a policy from the clone pi(a | s) towards
pi(a | s) p(good | s, a)^w, and so improves it by as much as is wished, chosen after training. With advantages for what
is good it is how RECAP (Physical Intelligence 2025) learns from a robot's own episodes; here segments are good that
raters preferred, or, with `by=reward`, whose learnt reward is above the mean of the data.
"""

import torch
from torch import nn

from pbrl.distributed import all_reduce_mean
from pbrl.models.diffusion.policy import DiffusionPolicy
from pbrl.models.optim import Adam
from pbrl.models.policy import LikelihoodPolicy
from pbrl.models.vla_context import BAD, GOOD, UNTOLD
from pbrl.ranges import Positive, Share, Size, Whole
from pbrl.training.batches import Data
from pbrl.types import Comparisons, Metrics, Phase, Segment, Spec, UserError


class CFGRL(nn.Module):
    """Clones segments that are told to be good or bad, and of a share `drop` nothing; neither is a tie. Raises
    UserError where the policy cannot be told."""

    def __init__(
        self,
        spec: Spec,
        policy: LikelihoodPolicy,
        *,
        by: str,
        drop: Share,
        lr: Positive,
        cosine_steps: Whole,
        batch_size: Size,
    ):
        super().__init__()
        if by not in ("answers", "reward"):
            raise UserError(f"algo.by={by}: it is answers or reward")
        if not isinstance(policy, DiffusionPolicy) or not policy.settings["quality"]:
            raise UserError(
                "algo=cfgrl tells a diffusion policy how well it shall do: policy=diffusion policy.quality=true"
            )
        self.policy = policy
        self.optim = Adam(policy.parameters(), lr, cosine=cosine_steps)
        self.by, self.drop, self.batch_size = by, drop, batch_size

    def phases(self, steps: int) -> list[Phase]:
        return [Phase("policy", steps, self.draw, self.update)]

    def draw(self, data: Data) -> Comparisons:
        """`batch_size` times two segments with images, and how good each is."""
        draw = data.marked if self.by == "answers" else data.marked_by_reward
        return draw(self.batch_size, images=True)

    def update(self, batch: Comparisons) -> Metrics:
        """Maximizes the bound of the likelihood, per step."""
        segments = self.tell(batch)
        weight = batch.confidence[:, None] * segments.mask.sum(-1)
        score = batch.confidence[:, None] * self.policy.score(segments)
        loss = -score.sum() / all_reduce_mean(weight.sum()).clamp(min=1e-6)
        self.optim.step(loss)
        self.policy.after_step()
        return {"bc": loss.detach()}

    def tell(self, batch: Comparisons) -> Segment:
        """The segments, each told whether it was good, bad, or nothing."""
        good, segments = batch.label, batch.segments
        quality = torch.where(good > 0.5, GOOD, torch.where(good < 0.5, BAD, UNTOLD))
        quality = torch.where(torch.rand_like(good) < self.drop, UNTOLD, quality)
        told = {**segments.obs.text, "quality": quality[..., None].expand(segments.mask.shape)}
        return segments._replace(obs=segments.obs._replace(text=told))

"""AlignDiff: a diffusion planner that is told how strong attributes of behaviour are to be, and any of them at will.

Dong et al. 2023, arXiv:2310.02054. `reward=attributes` labels every window of the data with the strengths of its
attributes; windows of states and actions are denoised, told them, each of them masked now and then, so that all
combinations of wishes can be asked for. How it acts is in pbrl/models/planner.py.

Where the paper embeds 100 even bins of each attribute, a strength lies between the embeddings of two of `bins` here,
which hold equally many windows: small data have few in a bin, outliers leave most bins of an even scale empty, and
strengths within a bin are told apart.
"""

from typing import Any

import torch
from torch import nn

from pbrl.models.optim import Adam
from pbrl.models.planner import Planner
from pbrl.ranges import Finite, NotNegative, OpenShare, Positive, Share, Size, Whole
from pbrl.training.batches import Data
from pbrl.types import AttributeWindows, Metrics, Phase, RewardModel, Spec, UserError


class AlignDiff(nn.Module):
    """Plans are as long as the windows that `reward`, the attribute model, reads."""

    def __init__(
        self,
        spec: Spec,
        reward: RewardModel | None,
        *,
        target: dict | None,
        execute: Size,
        candidates: Size,
        guidance: Finite,
        sampler: str,
        sample_steps: Size,
        warm_start: Whole,
        network: str,
        width: Size,
        layers: Size,
        heads: Size,
        bins: Size,
        average: OpenShare,
        keep: Share,
        first_action: Positive,
        lr: Positive,
        cosine_steps: Whole,
        weight_decay: NotNegative,
        clip: Positive,
        batch_size: Size,
    ):
        super().__init__()
        if reward is None or reward.gives != "attributes":
            raise UserError(
                "algo=aligndiff plans for attributes that were learnt: add reward=attributes query.kind=attributes "
                "query.attributes=[speed,height] query.length=32"
            )
        self.labeller: tuple[Any, ...] = (reward,)  # a tuple is not registered: it is trained and saved by itself
        model = self.labeller[0]
        self.policy = Planner(
            spec, attributes=model.attributes, strengths=model.shape, target=target, horizon=model.context,
            execute=execute, candidates=candidates, guidance=guidance, sampler=sampler, sample_steps=sample_steps,
            warm_start=warm_start, network=network, width=width, layers=layers, heads=heads, bins=bins, average=average,
        )  # fmt: skip
        self.optim = Adam(
            self.policy.denoiser.parameters(), lr, cosine=cosine_steps, weight_decay=weight_decay, clip=clip
        )
        self.keep, self.first_action, self.batch_size = keep, first_action, batch_size

    def phases(self, steps: int) -> list[Phase]:
        return [Phase("policy", steps, self.draw, self.update, on_labels=self.take_strengths)]

    def draw(self, data: Data) -> AttributeWindows:
        """`batch_size` windows with the strengths of their attributes."""
        return data.attribute_windows(self.batch_size, self.policy.horizon)

    def take_strengths(self, data: Data) -> None:
        """Gives the policy the attribute model as it is now, to choose plans with, and places the bins."""
        ours = self.policy.strengths.state_dict()
        theirs = self.labeller[0].state_dict()
        self.policy.strengths.load_state_dict({name: theirs[name] for name in ours})
        self.policy.place_knots(data.attribute_strengths(self.policy.horizon))

    def update(self, batch: AttributeWindows) -> Metrics:
        """Minimizes EDM's weighted squared error of all that is not known; that of the first action counts more."""
        policy, device = self.policy, batch.strength.device
        plan = torch.cat([policy.scaled(batch.segments.obs.state), batch.segments.action], -1)  # [B, H, O + A]
        given = (torch.rand_like(batch.strength) < self.keep).float()
        known = policy.known(plan)
        errors = policy.denoiser.loss(plan, policy.told(batch.strength), given, known=known)
        weight = torch.ones(plan.shape[1:], device=device)
        weight[0, policy.spec.obs_dim :] = self.first_action
        loss = (errors * weight).mean()
        self.optim.step(loss)
        policy.average.update(policy.denoiser)
        return {"denoising": loss.detach()}

"""Contrastive Preference Learning: a policy straight from preferences, with no reward model and no RL.

Hejna et al. 2023, arXiv:2310.13639. Under the regret model a segment scores sum_t discount^t alpha log pi(a_t | s_t),
so "b over a" is a contrastive loss on the policy itself. `bc_weight` > 0 is the paper's CPL-BC, `reference` its CPL-KL:
scores are then relative to the cloned policy, as in DPO. The loss on the scores is any of `objective=`.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from pbrl.distributed import all_reduce_mean
from pbrl.models.optim import Adam
from pbrl.models.policy import LikelihoodPolicy
from pbrl.objectives import Objective, agreement
from pbrl.ranges import NotNegative, Positive, Share, Size, Whole
from pbrl.training.batches import Data
from pbrl.types import Comparisons, Metrics, Phase, Segment, Spec, UserError


class CPL(nn.Module):
    def __init__(
        self,
        spec: Spec,
        policy: LikelihoodPolicy,
        *,
        objective: Objective,
        alpha: NotNegative,
        discount: Share,
        bc_weight: NotNegative,
        reference: bool,
        lr: Positive,
        lr_after: Positive,
        warmup: Whole,
        cosine_steps: Whole,
        pretrain_steps: Whole,
        batch_size: Size,
    ):
        super().__init__()
        if reference and not pretrain_steps:
            raise UserError("algo.reference=true is relative to a clone: algo.pretrain_steps=1 or more makes it")
        if objective.is_relative and not reference:
            raise UserError(f"objective={objective.name} reads scores relative to a clone: add algo.reference=true")
        self.policy = policy
        self.reference = copy.deepcopy(policy).requires_grad_(False).eval() if reference else None
        self.optim = Adam(policy.parameters(), lr, warmup=warmup, cosine=cosine_steps)
        self.objective = objective
        self.alpha, self.discount, self.bc_weight, self.lr_after = alpha, discount, bc_weight, lr_after
        self.pretrain_steps, self.batch_size = pretrain_steps, batch_size

    def phases(self, steps: int) -> list[Phase]:
        clone = Phase("pretrain", self.pretrain_steps, self.draw, self.clone)
        return [clone, Phase("policy", steps, self.draw, self.update, before=self.start_finetuning)]

    def draw(self, data: Data) -> Comparisons:
        """`batch_size` answers with images, in the objective's form: pairs, lists or ratings."""
        return self.objective.draw(data, self.batch_size, images=True)

    def clone(self, batch: Comparisons) -> Metrics:
        """Clones all segments, preferred or not."""
        loss = -self.policy.score(batch.segments).sum() / all_reduce_mean(batch.segments.mask.sum())
        self.optim.step(loss)
        self.policy.after_step()
        return {"bc": loss.detach()}

    def start_finetuning(self, data: Data) -> None:
        """After cloning: the clone becomes the reference, and the optimizer starts anew."""
        if self.reference is not None:
            self.reference.load_state_dict(self.policy.state_dict())
        self.optim.restart(self.lr_after)

    def update(self, batch: Comparisons) -> Metrics:
        """Minimizes the objective on scores, and the BC loss of the same steps times `bc_weight`."""
        loss, _, metrics = self.compare(batch)
        self.optim.step(loss)
        self.policy.after_step()
        return metrics

    def compare(self, batch: Comparisons) -> tuple[Tensor, Tensor, Metrics]:
        """The loss, the scores that are compared [B, K], and what is logged of both."""
        segments = self.discounted(batch.segments)
        chance = self.policy.draw_chance(segments)
        score = self.policy.score(segments, chance)  # sum_t discount^t log pi, [B, K], where K is 2 for pairs
        scores = self.alpha * self.relative(score, segments, chance)
        cpl = self.objective(scores, batch.label, batch.confidence)
        bc = -score.sum() / all_reduce_mean(segments.mask.sum())
        accuracy = agreement(scores, batch.label)
        return (
            cpl + self.bc_weight * bc,
            scores,
            {"cpl": cpl.detach(), "bc": bc.detach(), "train_accuracy": accuracy},
        )

    def discounted(self, segments: Segment) -> Segment:
        """The same segments, whose steps count `discount` times as much as the one before."""
        step = torch.arange(segments.mask.shape[-1], device=segments.mask.device)
        return segments._replace(mask=segments.mask * self.discount**step)

    def relative(self, score: Tensor, segments: Segment, chance: Any) -> Tensor:
        """The policy's score less the reference's with the same `chance`, for CPL-KL: [B, K]."""
        return score if self.reference is None else score - self.reference.score(segments, chance)

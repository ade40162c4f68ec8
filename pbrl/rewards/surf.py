"""SURF: an ensemble that also learns from unlabelled pairs, where it is sure, and from segments cropped in time.

Park et al. 2022, arXiv:2203.10050. Both are ways to make much of few answers.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from pbrl.objectives import Objective, agreement
from pbrl.ranges import Count, NotNegative, Whole
from pbrl.rewards.ensemble import Ensemble
from pbrl.training.batches import Data
from pbrl.types import Comparisons, Metrics, Spec, UserError


class Batch(NamedTuple):
    """Comparisons, and pairs that no rater compared."""

    labelled: Comparisons
    unlabelled: Comparisons


class SURF(Ensemble):
    """Per answer `unlabelled` more pairs; a member labels them itself where it is at least `confidence` sure.

    Of each pair's segments a random part is compared: equally long, up to `crop` steps shorter, from two random places.
    """

    def __init__(
        self,
        spec: Spec,
        objective: Objective,
        *,
        unlabelled: Count,
        confidence: float,
        weight: NotNegative,
        crop: Whole,
        **ensemble: Any,
    ):
        super().__init__(spec, objective, **ensemble)
        if not 0.5 <= confidence <= 1:
            raise UserError(f"reward.confidence={confidence} is a probability between a half and 1")
        if objective.is_unpaired or objective.segments != 2:
            raise UserError("SURF labels pairs: choose an objective@reward_objective of pairs, or reward=ensemble")
        self.confidence, self.weight, self.crop = confidence, weight, crop
        self.unlabelled = unlabelled * self.batch_size

    def draw(self, data: Data) -> Batch:
        """`batch_size` comparisons, and `unlabelled` times as many pairs without a label."""
        return Batch(data.comparisons(self.batch_size), data.unlabelled(self.unlabelled))

    def update(self, batch: Batch) -> Metrics:
        """Minimizes the loss on cropped comparisons, and on pseudo-labelled pairs times `weight`."""
        labelled, unlabelled = batch
        rewards = [self.reward(part.segments.obs, part.segments.action) for part in batch]  # [E, B, 2, L] each
        with torch.no_grad():
            whole = self.total(rewards[1], unlabelled.segments.mask)
            probability = torch.sigmoid(whole[..., 1] - whole[..., 0])  # [E, B]
            pseudo_label = (probability > 0.5).float()
            is_sure = (torch.maximum(probability, 1 - probability) >= self.confidence).float()
        scores = self.total(rewards[0], self.crop_mask(labelled.segments.mask))  # [E, B, 2]
        loss = self.objective(scores, labelled.label, labelled.confidence)  # [E]
        pseudo_scores = self.total(rewards[1], self.crop_mask(unlabelled.segments.mask))
        pseudo_loss = self.objective(pseudo_scores, pseudo_label, is_sure)
        self.optim.step((loss + self.weight * pseudo_loss).sum())
        return {
            "loss": loss.detach().mean(),
            "train_accuracy": agreement(scores.detach().mean(0), labelled.label),
            "pseudo_labelled": is_sure.mean(),
        }

    def crop_mask(self, mask: Tensor) -> Tensor:
        """Which steps of the segments [B, 2, L], of those that count, are compared: [B, 2, L] float."""
        length = mask.sum(-1)  # [B, 2]
        shorter = length.amin(1, keepdim=True) - torch.randint(self.crop + 1, (len(mask), 1), device=mask.device)
        cropped = shorter.clamp(min=1)
        begin = (torch.rand(len(mask), 2, device=mask.device) * (length - cropped + 1)).floor()
        step = torch.arange(mask.shape[-1], device=mask.device)
        return mask * ((step >= begin[..., None]) & (step < (begin + cropped)[..., None])).float()

"""SURF: an ensemble that also learns from pairs nobody judged, where it is sure, and from segments cut short.

Park et al. 2022, arXiv:2203.10050. Both are ways to make much of few answers.
"""

from typing import Any

import torch
from torch import Tensor

from pbrl.objectives import agreement
from pbrl.rewards.ensemble import Ensemble
from pbrl.types import Metrics, PairsAndUnasked, Spec, UserError


class SURF(Ensemble):
    """Per answer `unasked` more pairs; a member answers them itself where it is at least `confidence` sure.

    Of each pair's segments a random part is compared: equally long, up to `crop` steps shorter, from two random places.
    """

    batch = PairsAndUnasked

    def __init__(self, spec: Spec, objective: Any, *, unasked: int, confidence: float, weight: float, crop: int,
                 **ensemble: Any):  # fmt: skip
        super().__init__(spec, objective, **ensemble)
        if not 0.5 <= confidence <= 1:
            raise UserError(f"reward.confidence={confidence} is a probability between a half and 1")
        if self.segments != 2:
            raise UserError("SURF answers pairs: choose an objective@reward_objective of pairs, or reward=ensemble")
        self.confidence, self.weight, self.crop = confidence, weight, crop
        self.unasked_batch_size = unasked * self.batch_size

    def update(self, batch: PairsAndUnasked) -> Metrics:
        pairs, more = batch
        rewards = [self.reward(part.obs, part.action) for part in batch]  # [E, B, 2, L] each
        with torch.no_grad():
            whole = self.total(rewards[1])
            sure = torch.sigmoid(whole[..., 1] - whole[..., 0])  # [E, B]
            own = (sure > 0.5).float()
            counts = (torch.maximum(sure, 1 - sure) >= self.confidence).float()
        scores = self.total(rewards[0], self.cut(pairs.obs))  # [E, B, 2]
        told = self.objective(scores, pairs.label).mean(1)  # [E]
        guessed = (counts * self.objective(self.total(rewards[1], self.cut(more.obs)), own)).mean(1)
        self.optim.step((told + self.weight * guessed).sum())
        return {"loss": told.detach().mean(), "train_accuracy": agreement(scores.detach().mean(0), pairs.label),
                "sure": counts.mean()}  # fmt: skip

    def cut(self, obs: Tensor) -> Tensor:
        """Which steps of the segments in obs [B, 2, L, O] are compared: [B, 2, L] float."""
        pairs, _, length, _ = obs.shape
        kept = (length - torch.randint(self.crop + 1, (pairs, 1), device=obs.device)).clamp(min=1)
        begin = (torch.rand(pairs, 2, device=obs.device) * (length - kept + 1)).long()
        step = torch.arange(length, device=obs.device)
        return ((step >= begin[..., None]) & (step < (begin + kept)[..., None])).float()

"""Semi-online preference optimization: what raters preferred against what the policy itself would do there.

Tan et al. 2024, arXiv:2412.05095 (SoPo): losers of the data are far from what the policy does, and pushing them away
teaches little; its own chunks are where it errs. With `own=reference` they are the clone's, as in SePPO (Zhang et al.
2024, arXiv:2410.05255) and self-play fine-tuning (SPIN, Chen et al. 2024, arXiv:2401.01335). Both papers leave out
pairs whose own side may be the better one, by a reward model or by likelihoods; here a tie alone is left out.
"""

from typing import Any

import torch

from pbrl.algos.cpl import CPL
from pbrl.data.trajectories import take
from pbrl.models.chunks import to_chunks
from pbrl.models.diffusion.policy import DiffusionPolicy
from pbrl.models.policy import LikelihoodPolicy
from pbrl.objectives import Objective
from pbrl.types import Comparisons, Metrics, Observation, Segment, Spec, UserError


class SoPo(CPL):
    """CPL-KL on pairs of a preferred segment and chunks that are drawn, by the policy or its `reference`, from what is
    observed in it. Raises UserError."""

    def __init__(self, spec: Spec, policy: LikelihoodPolicy, *, objective: Objective, own: str, **cpl: Any):
        super().__init__(spec, policy, objective=objective, **cpl)
        if own not in ("policy", "reference"):
            raise UserError(f"algo.own={own}: it is policy or reference")
        if not isinstance(policy, DiffusionPolicy):
            raise UserError("algo=sopo compares with chunks that are drawn: policy=diffusion")
        if objective.is_unpaired or objective.segments != 2:
            raise UserError(f"algo=sopo compares pairs, and objective={objective.name} does not: bradley_terry does")
        if self.reference is None:
            raise UserError("algo=sopo keeps near a clone: algo.reference=true")
        self.own = own

    def update(self, batch: Comparisons) -> Metrics:
        """Minimizes the objective on preferred segments and the policy's own, and the BC loss times `bc_weight`."""
        return super().update(self.compare_with_own(batch))

    @torch.no_grad()
    def compare_with_own(self, batch: Comparisons) -> Comparisons:
        """Pairs of what the policy would do in a preferred segment, and of the segment, which is preferred."""
        place = torch.arange(len(batch.label), device=batch.label.device), (batch.label > 0.5).long()
        won = take(batch.segments, place)
        model: Any = self.policy if self.own == "policy" else self.reference
        own = model.sample(to_chunks(won, self.policy.horizon).obs).flatten(-3, -2)[:, : won.mask.shape[1]]
        pair = Segment(twice(won.obs), torch.stack([own, won.action], 1), torch.stack([won.mask, won.mask], 1))
        label, is_tie = torch.ones_like(batch.label), batch.label == 0.5
        return batch._replace(segments=pair, label=label, confidence=batch.confidence * ~is_tie)


def twice(obs: Observation) -> Observation:
    """obs [B, L, O] → [B, 2, L, O], both the same."""
    images, text = ({k: torch.stack([v, v], 1) for k, v in part.items()} for part in (obs.images, obs.text))
    return Observation(torch.stack([obs.state, obs.state], 1), images, text)

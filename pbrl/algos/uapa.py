"""Uncertainty-aware preference alignment: CPL on answers, with a Beta prior on how often each segment wins.

Miao et al. 2025, Uncertainty-aware Preference Alignment for Diffusion Policies (Diff-UAPA, with policy=diffusion). A
segment's score is the log-odds of its winning against the reference's; the prior Beta(1 + n w, 1 + n (1 - w)) says that
it wins as often as a reward model, which has learnt from all answers, expects: w of the time. The maximum of the
posterior adds to the loss n times the cross-entropy of both. So no segment is pushed away without end, and where
answers contradict each other the reward model is unsure, w is near a half, and little is learnt of them.

The paper learns w by a transformer that compares segments; here it is any reward model's, `algo=uapa reward=ensemble`.
"""

from typing import Any, NamedTuple

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from pbrl.algos.cpl import CPL
from pbrl.models.policy import LikelihoodPolicy
from pbrl.objectives import Objective
from pbrl.ranges import NotNegative
from pbrl.training.batches import Data
from pbrl.types import Comparisons, Metrics, Spec, UserError


class Batch(NamedTuple):
    """Comparisons, and how often each segment wins by the reward model: [B, 2]."""

    pairs: Comparisons
    win_rate: Tensor


class UAPA(CPL):
    """CPL-KL with a prior on win rates that counts as much as `prior` comparisons of each segment. Raises UserError."""

    def __init__(self, spec: Spec, policy: LikelihoodPolicy, *, objective: Objective, prior: NotNegative, **cpl: Any):
        super().__init__(spec, policy, objective=objective, **cpl)
        if objective.is_unpaired or objective.segments != 2:
            raise UserError(f"algo=uapa compares pairs, and objective={objective.name} does not: bradley_terry does")
        if self.reference is None:
            raise UserError("algo=uapa knows how often a segment wins against a clone: algo.reference=true")
        self.prior = prior

    def draw(self, data: Data) -> Batch:  # type: ignore[override]
        """`batch_size` comparisons with images, and the win rates of their segments."""
        return Batch(*data.comparisons_with_win_rates(self.batch_size, images=True))

    def clone(self, batch: Batch) -> Metrics:  # type: ignore[override]
        """Clones all segments, preferred or not."""
        return super().clone(batch.pairs)

    def update(self, batch: Batch) -> Metrics:  # type: ignore[override]
        """Maximizes the posterior of the answers and the prior, and the BC loss times `bc_weight`."""
        loss, scores, metrics = self.compare(batch.pairs)
        prior = binary_cross_entropy_with_logits(scores, batch.win_rate, reduction="none").sum(-1).mean()
        self.optim.step(loss + self.prior * prior)
        self.policy.after_step()
        return {**metrics, "prior": prior.detach()}

"""Preference losses as pure functions of segments' scores: choices of `objective=` and `objective@reward_objective=`.

`scores` [..., 2] are those of the first and the second segment of a pair, `label` [...] is P(second preferred), where
anything between 0 and 1 says how strong the preference is and 0.5 is a tie. Losses of lists take `scores` [..., K] and
`worth` [..., K], of which only the order counts: larger is better. Unpaired losses take segments that have nothing to
do with each other and `good` [..., K], 1 for good, 0 for bad and 0.5 for neither. All return [...]. For CPL a score is
`alpha * sum_t log pi`, less the reference's with `algo.reference=true`, which makes it DPO's; for a reward model it is
the summed reward. Changing the order of the segments changes no loss.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import relu, softplus

from pbrl.distributed import all_reduce_mean
from pbrl.ranges import NotNegative, Positive, Share
from pbrl.types import Comparisons, TrajectoryComparisons, UserError

if TYPE_CHECKING:
    from pbrl.training.batches import Data, Frames

Loss = Callable[[Tensor, Tensor], Tensor]
MAX_EXPONENT = 30.0  # keeps exponentials of scores finite, also squared


def bradley_terry(scores: Tensor, label: Tensor) -> Tensor:
    """Cross-entropy of P(second preferred) = sigmoid(b - a). Bradley & Terry 1952; Christiano et al. 2017."""
    return logistic(scores, label, bias=1.0)


def agreement(scores: Tensor, label: Tensor) -> Tensor:
    """How often the preferred segment of a pair scores higher: scores [B, 2], label [B], or [B, K] each → a share."""
    if label.ndim == 1:
        return ((scores[:, 1] > scores[:, 0]) == (label > 0.5)).float().mean()
    better = label[:, :, None] > label[:, None]
    return ((scores[:, :, None] > scores[:, None]) & better).sum() / better.sum().clamp(min=1)


def logistic(scores: Tensor, label: Tensor, *, bias: Share) -> Tensor:
    """Bradley-Terry's loss, which is that of CPL, and of DPO (Rafailov et al. 2023, arXiv:2305.18290).

    With `bias` < 1 the loser's score counts less, so likely segments are preferred: CPL's conservative loss, Hejna et
    al. 2023, arXiv:2310.13639, eq. 7.
    """
    a, b = scores.unbind(-1)
    return label * softplus(bias * a - b) + (1 - label) * softplus(bias * b - a)


def smoothed(scores: Tensor, label: Tensor, *, mistake: float) -> Tensor:
    """Logistic on labels of which a share `mistake` is taken to be flipped: conservative DPO (Mitchell 2023)."""
    return bradley_terry(scores, label + _below_half(mistake) * (1 - 2 * label))


def robust(scores: Tensor, label: Tensor, *, mistake: float) -> Tensor:
    """Logistic whose mean over labels flipped with probability `mistake` is the loss on the clean ones.

    Robust DPO, Chowdhury et al. 2024, arXiv:2403.00409.
    """
    right, wrong = bradley_terry(scores, label), bradley_terry(scores, 1 - label)
    return ((1 - mistake) * right - mistake * wrong) / (1 - 2 * _below_half(mistake))


def hinge(scores: Tensor, label: Tensor, *, margin: NotNegative) -> Tensor:
    """Nothing to gain once the winner leads by `margin`: SLiC, Zhao et al. 2023, arXiv:2305.10425."""
    gap = scores[..., 1] - scores[..., 0]
    return label * relu(margin - gap) + (1 - label) * relu(margin + gap)


def ipo(scores: Tensor, label: Tensor, *, margin: NotNegative) -> Tensor:
    """The winner shall lead by `margin`, no more: IPO, Azar et al. 2023, arXiv:2310.12036, eq. 17.

    A preference of strength `label` asks for a lead of `(2 label - 1) margin`. The paper's margin is 1 / (2 tau) for
    log-ratios; scores carry `alpha`, so here it is alpha / (2 tau). As the answers are of one policy's segments, the
    reference's, this is the first step of INPO's towards a Nash equilibrium, too (arXiv:2407.00617).
    """
    gap = scores[..., 1] - scores[..., 0]
    return (gap - (2 * label - 1) * margin).square()


def sppo(scores: Tensor, label: Tensor, *, scale: Positive) -> Tensor:
    """Each score goes to `scale` times how far its segment wins more than half: SPPO, arXiv:2405.00675.

    The squared-loss form of multiplicative weights, whose iteration approaches a Nash equilibrium.
    """
    a, b = scores.unbind(-1)
    return (a - scale * (0.5 - label)).square() + (b - scale * (label - 0.5)).square()


def f_divergence(scores: Tensor, label: Tensor, *, divergence: str, alpha: float) -> Tensor:
    """Logistic with log u replaced by f'(u), u = exp(score): f-DPO, Wang et al. 2023, arXiv:2309.16240.

    `divergence`: "reverse_kl" (DPO itself), "forward_kl", "jensen_shannon", or "alpha" with its `alpha` in (0, 1).
    """
    links = {
        "reverse_kl": lambda s: s,
        "forward_kl": lambda s: -(-s).clamp(max=MAX_EXPONENT).exp(),
        "jensen_shannon": lambda s: -softplus(-s),  # log(2u / (1 + u)), less log 2
        "alpha": lambda s: (1 - (-alpha * s).clamp(max=MAX_EXPONENT).exp()) / alpha,
    }
    if divergence not in links:
        raise UserError(f"objective.divergence={divergence}: it is one of {', '.join(links)}")
    if not 0 < alpha < 1:
        raise UserError(f"objective.alpha={alpha}: it lies between 0 and 1")
    return bradley_terry(links[divergence](scores), label)


def sft_regularised(scores: Tensor, label: Tensor, *, weight: NotNegative) -> Tensor:
    """Logistic, and the winner's score shall also rise by itself: RPO, Liu et al. 2024, arXiv:2405.16436."""
    a, b = scores.unbind(-1)
    return bradley_terry(scores, label) - weight * (label * b + (1 - label) * a)


def kto(scores: Tensor, good: Tensor) -> Tensor:
    """A good segment gains, a bad one loses against the batch's mean: KTO, Ethayarajh et al. 2024, arXiv:2402.01306.

    Gains and losses saturate, as people's do.
    """
    gain = scores - relu(all_reduce_mean(scores.mean()))  # for the paper's estimate of KL(policy || reference)
    return (good * (-gain).sigmoid() + (1 - good) * gain.sigmoid()).mean(-1)


def dro(scores: Tensor, good: Tensor) -> Tensor:
    """Squared error of a score as its segment's reward (`good`) less a value: DRO, arXiv:2405.19107.

    Segments share no prompt, so the value is one for the batch: the one that fits best.
    """
    error = good - scores
    return 0.5 * (error - all_reduce_mean(error.mean())).square().mean(-1)


def plackett_luce(scores: Tensor, worth: Tensor, *, segments: int) -> Tensor:
    """A list of `segments` is the best of all, then the best of those left, and so on: Luce 1959, Plackett 1975.

    The loss is the mean over the choices made, so that of two segments is Bradley-Terry's. Segments that tie are each
    chosen from among themselves and all that is worse (Breslow 1974).
    """
    no_better = worth[..., None, :] <= worth[..., None]  # [..., K, K]: what a segment was chosen from
    among = torch.where(no_better, scores[..., None, :], -torch.inf).logsumexp(-1)
    return (among - scores).sum(-1) / (segments - 1)


def lipo_lambda(scores: Tensor, worth: Tensor, *, segments: int) -> Tensor:
    """Bradley-Terry on every pair of a list, weighed by what swapping the two would cost: LiPO-λ, arXiv:2402.01878.

    The cost is LambdaRank's (Burges et al. 2006): the difference in gain, 2^relevance - 1, times that in discount,
    1 / log(1 + place by score). Relevance is the share of the others that a segment beats. Mean over pairs.
    """
    beats = (worth[..., None] > worth[..., None, :]).float()  # [..., K, K]
    gain = 2 ** (beats.sum(-1) / (segments - 1)) - 1
    place = 1 + (scores[..., None, :] > scores[..., None]).float().sum(-1).detach()
    discount = 1 / (1 + place).log()
    swap = (gain[..., None] - gain[..., None, :]).abs() * (discount[..., None] - discount[..., None, :]).abs()
    lead = scores[..., None] - scores[..., None, :]
    return (beats * swap * softplus(-lead)).sum((-2, -1)) / (segments * (segments - 1) / 2)


def _below_half(mistake: float) -> float:
    if not 0 <= mistake < 0.5:
        raise UserError(f"objective.mistake={mistake}: it lies in [0, 0.5); at a half, answers say nothing")
    return mistake


UNPAIRED = (kto, dro)
RELATIVE = (f_divergence, sppo, kto, dro)  # their scores are log-ratios to a reference policy, around zero


class Objective:
    """A loss on scores, and what it is a loss of: pairs, lists of `segments`, or unpaired segments.

    `relative` ones read scores relative to a reference policy. Raises UserError for settings that make no loss.
    """

    def __init__(self, loss: Loss):
        function = loss.func if isinstance(loss, partial) else loss
        settings = loss.keywords if isinstance(loss, partial) else {}
        self.loss, self.name = loss, function.__name__
        self.segments = int(settings.get("segments", 2))
        self.is_unpaired, self.is_relative = function in UNPAIRED, function in RELATIVE
        if "segments" in settings and self.segments < 3:
            raise UserError(
                f"objective.segments={self.segments}: a list holds 3 or more; of pairs it is objective=bradley_terry"
            )
        wide = self.is_unpaired or self.segments > 2
        self(torch.zeros(1, self.segments), torch.zeros(1, self.segments) if wide else torch.zeros(1))

    def __call__(self, scores: Tensor, label: Tensor, confidence: Tensor | float = 1.0) -> Tensor:
        """Scores [..., B, K] and label [B] or [B, K] → the mean loss over B, weighted by `confidence` [B]: [...]."""
        return (self.loss(scores, label) * confidence).mean(-1)

    def draw(self, data: "Data", n: int, *, images: bool = False, frames: "Frames | None" = None) -> Comparisons:
        """A batch of n from the answers, of the kind that the loss is of; `frames` are the pictures of a reward."""
        if self.is_unpaired:
            return data.marked(n, images=images, frames=frames)
        return data.comparisons(n, self.segments, images=images, frames=frames)

    def draw_trajectories(self, data: "Data", n: int) -> TrajectoryComparisons:
        """n pairs of the policy's own episodes, of the kind that the loss is of."""
        return data.trajectory_comparisons(n, unpaired=self.is_unpaired, images=True)

    def draw_by_reward(self, data: "Data", n: int, *, images: bool = False) -> Comparisons:
        """The same of any segments in the data, labelled by the reward that learners see."""
        if self.is_unpaired:
            return data.marked_by_reward(n, images=images)
        return data.labelled_by_reward(n, self.segments, images=images)

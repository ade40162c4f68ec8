"""How well a reward model does on answers that it was not trained on."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from scipy.stats import spearmanr
from torch import Tensor

from pbrl.training.batches import Data, draw_from_groups, order
from pbrl.types import RewardModel

PAIRS = 1000  # drawn from ratings and rankings
BINS = 10


class Pairs(NamedTuple):
    """Held-out pairs: rows [N, 2] where their segments begin, and P(second preferred) [N]."""

    starts: Tensor
    label: Tensor


@torch.no_grad()
def evaluate_reward(data: Data, model: RewardModel) -> dict[str, float]:
    """Measures of the reward model (its members' mean) on the held-out answers; none where there are none or one.

    `held_out_accuracy` is over answers that are no ties; `calibration_error` is how far the predicted probability lies
    from the share of such answers, in ten equal bins, weighted (Guo et al. 2017, arXiv:1706.04599); `rank_correlation`
    is Spearman's, between score and true return of the held-out segments. Of attributes there is the accuracy alone, of
    triplets the rank correlation.
    """
    if data.labels is None or len(data.test) < 2:
        return {}
    if data.labels.kind == "attributes":
        return _evaluate_attributes(data, model, data.labels.attributes)
    if data.test.starts.shape[1] == 3:
        starts = data.test.starts
        scores = model.score_at(data.table, starts, data.length).mean(0)
        true = data.table.reward[data.table.segment_rows(starts, data.length)].sum(-1)
        return {"rank_correlation": rank_correlation(scores.flatten().cpu(), true.flatten().cpu())}
    pairs = held_out_pairs(data)
    scores = model.score_at(data.table, pairs.starts, data.length).mean(0)  # [N, 2]
    true = data.table.reward[data.table.segment_rows(pairs.starts, data.length)].sum(-1)
    return {
        "held_out_accuracy": accuracy(scores, pairs.label),
        "calibration_error": calibration_error(torch.sigmoid(scores[:, 1] - scores[:, 0]), pairs.label),
        "rank_correlation": rank_correlation(scores.flatten().cpu(), true.flatten().cpu()),
    }


def _evaluate_attributes(data: Data, model: RewardModel, names: Sequence[str]) -> dict[str, float]:
    """The accuracy of each attribute on the held-out answers that are clear about it, and over all of them."""
    scores = model.score_at(data.table, data.test.starts, data.length).mean(0)  # [N, 2, M]
    label = data.test.value.nan_to_num(0.5)  # what is open does not count, as a tie does not
    found = {f"held_out_accuracy_{name}": accuracy(scores[..., i], label[:, i]) for i, name in enumerate(names)}
    every = accuracy(scores.transpose(1, 2).flatten(0, 1), label.flatten())
    return {"held_out_accuracy": every, **found}


def rank_correlation(a: Tensor, b: Tensor) -> float:
    """Spearman's, of a and b [N]; NaN where either is the same everywhere."""
    varies = bool((a != a[0]).any() and (b != b[0]).any())
    return float(spearmanr(a, b)[0]) if varies else math.nan  # type: ignore[arg-type]


def held_out_pairs(data: Data) -> Pairs:
    """All held-out comparisons, or pairs of held-out ratings or within rankings."""
    test = data.test
    if test.starts.shape[1] == 2:
        return Pairs(test.starts, test.value)
    generator = torch.Generator(data.table.device).manual_seed(0)
    drawn = draw_from_groups(test.group, 2, PAIRS, generator)
    return Pairs(test.starts[drawn, 0], order(test.value[drawn]))


def accuracy(scores: Tensor, label: Tensor) -> float:
    """How often the preferred segment scores higher, ties left out; NaN without any."""
    clear = label != 0.5
    correct = ((scores[:, 1] > scores[:, 0]) == (label > 0.5))[clear]
    return correct.float().mean().item() if len(correct) else math.nan


def calibration_error(probability: Tensor, label: Tensor) -> float:
    """Expected calibration error of P(second preferred) [N]."""
    bins = (probability * BINS).long().clamp(max=BINS - 1)
    gap = torch.zeros(BINS, device=label.device).index_add_(0, bins, probability - label)
    return (gap.abs().sum() / len(label)).item()

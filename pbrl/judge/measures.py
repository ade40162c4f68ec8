"""Measures of a judge as pure functions of arrays: what it says beside what is true.

Spearman 1904; Kendall's tau-b 1945, with ties; the area under the ROC curve as Mann and Whitney's statistic; Brier
1950; expected calibration error, Guo et al. 2017, arXiv:1706.04599; value-order correlation, Ma et al. 2024 (GVL),
arXiv:2411.04549. A measure that these numbers do not define is NaN.
"""

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import kendalltau, rankdata

RESOLUTION = 1e-6  # of float32: sums that differ by no more than this share of their size are equal
BINS = 10  # of a probability, equally wide


def difference(scores: ArrayLike) -> np.ndarray:
    """scores [Q, 2] of two clips → the second's less the first's [Q], 0 where they differ by rounding alone."""
    scores = np.asarray(scores, np.float64)
    gap = scores[:, 1] - scores[:, 0]
    return np.where(np.abs(gap) <= RESOLUTION * np.abs(scores).max(1), 0.0, gap)


def is_right(preferred: ArrayLike, gap: ArrayLike) -> np.ndarray:
    """P(second preferred) [Q] and what the second clip's true return is more [Q] → 1 right, 0 wrong, ½ a tie [Q].

    Where the true returns are equal there is no right answer: NaN.
    """
    preferred, gap = np.asarray(preferred, np.float64), np.asarray(gap, np.float64)
    right = 0.5 + 0.5 * np.sign(preferred - 0.5) * np.sign(gap)
    return np.where(gap == 0, np.nan, right)


def spearman(a: ArrayLike, b: ArrayLike) -> float:
    """Spearman's rank correlation of a and b [n], ties having their mean rank; NaN where either is constant."""
    ranks = np.stack([rankdata(a), rankdata(b)])
    ranks -= ranks.mean(1, keepdims=True)
    scale = math.sqrt(float((ranks[0] @ ranks[0]) * (ranks[1] @ ranks[1])))
    return float(ranks[0] @ ranks[1]) / scale if scale else math.nan


def order_correlation(score: ArrayLike, true: ArrayLike) -> float:
    """Spearman's of a judge's scores and the truth [n]: 0 where the scores are constant, NaN where the truth is."""
    score, true = np.asarray(score), np.asarray(true)
    if len(true) < 2 or not (true != true[0]).any():
        return math.nan
    return spearman(score, true) if (score != score[0]).any() else 0.0


def value_order_correlation(values: ArrayLike) -> float:
    """Spearman's of the values [n] along an episode and time; 0 where they are constant."""
    values = np.asarray(values)
    return order_correlation(values, np.arange(len(values)))


def kendall_tau(score: ArrayLike, true: ArrayLike) -> float:
    """tau-b [n] = (agreeing - disagreeing pairs) / sqrt(pairs untied in score * pairs untied in truth).

    0 where the scores are constant, NaN where the truth is.
    """
    score, true = np.asarray(score), np.asarray(true)
    if len(true) < 2 or not (true != true[0]).any():
        return math.nan
    return float(kendalltau(score, true, method="asymptotic")[0]) if (score != score[0]).any() else 0.0  # type: ignore[arg-type]


def roc_auc(score: ArrayLike, positive: ArrayLike) -> float:
    """P(a positive scores higher than a negative), ties counting half: score [n], positive [n] bool.

    NaN where there are not both.
    """
    positive = np.asarray(positive, bool)
    n, m = int(positive.sum()), int((~positive).sum())
    if not n or not m:
        return math.nan
    return float((rankdata(score)[positive].sum() - n * (n + 1) / 2) / (n * m))


def reliability(probability: ArrayLike, outcome: ArrayLike, bins: int = BINS) -> tuple[np.ndarray, ...]:
    """The mean probability, the share of outcomes that are 1, and the count, of each bin that holds any: [bins] each.

    probability [n], outcome [n] of 0 and 1.
    """
    probability, outcome = np.asarray(probability, np.float64), np.asarray(outcome, np.float64)
    place = np.minimum((probability * bins).astype(int), bins - 1)
    count = np.bincount(place, minlength=bins)
    held = count > 0
    mean, share = (np.bincount(place, x, bins)[held] / count[held] for x in (probability, outcome))
    return mean, share, count[held]


def calibration_error(probability: ArrayLike, outcome: ArrayLike, bins: int = BINS) -> float:
    """Expected calibration error: how far the bins' shares lie from their probabilities, weighted by their counts."""
    mean, share, count = reliability(probability, outcome, bins)
    return float(np.abs(mean - share) @ count / count.sum()) if len(count) else math.nan


def calibration_floor(probability: ArrayLike, *, seed: int, draws: int = 200, bins: int = BINS) -> float:
    """The mean calibration error of so many outcomes that are drawn by the probabilities [n] themselves.

    Chance alone puts a bin's share beside its probability, and the gaps add up: no judge is at 0 by few pairs.
    """
    probability, rng = np.asarray(probability, np.float64), np.random.default_rng(seed)
    drawn = rng.random((draws, len(probability))) < probability
    return float(np.mean([calibration_error(probability, outcome, bins) for outcome in drawn]))


def brier_score(probability: ArrayLike, outcome: ArrayLike) -> float:
    """The mean squared difference of probabilities [n] and outcomes [n]; always saying ½ has ¼."""
    probability, outcome = np.asarray(probability, np.float64), np.asarray(outcome, np.float64)
    return float(np.square(probability - outcome).mean()) if len(outcome) else math.nan


def position_bias(first_preferred: ArrayLike, first_better: ArrayLike) -> float:
    """How much more often the clip that was shown first is preferred than its being better explains, in [-½, ½].

    first_preferred [n] are probabilities, first_better [n] is the truth. ½ (P(first | first is better) + P(first |
    second is better)) - ½: errors that know no side cancel, and so does a truth that lies more often on one. NaN
    where the truth is always on the same side.
    """
    preferred, better = np.asarray(first_preferred, np.float64), np.asarray(first_better, bool)
    if better.all() or not better.any():
        return math.nan
    return float(preferred[better].mean() + preferred[~better].mean() - 1) / 2


def position_bias_of_orders(asked: ArrayLike, swapped: ArrayLike) -> np.ndarray:
    """The same of each question that was asked in both orders: P(the question's second clip is better) [n] each → [n].

    Asked as it is, the first clip is shown first; swapped, the second is. No truth is needed.
    """
    return (np.asarray(swapped, np.float64) - np.asarray(asked, np.float64)) / 2

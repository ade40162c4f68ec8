"""95 % bootstrap intervals by percentiles, over whole episodes or questions (Efron 1979).

What is resampled is the unit that was sampled: pairs, steps and answers of a unit come and go together. A pair of clips
belongs to two episodes, and counts as often as both were drawn: Owen's pigeonhole bootstrap (2007, arXiv:0712.1111),
which for pairs errs to the wide side.
"""

from collections.abc import Callable

import numpy as np
from scipy.stats import binomtest

LEVEL = 0.95
Statistic = Callable[[np.ndarray], float]  # places [m] in the data, some of them more than once → the measure


def bootstrap(
    statistic: Statistic, units: np.ndarray, *, resamples: int, seed: int
) -> tuple[tuple[float, float] | None, str]:
    """The interval of `statistic`, and a word on why there is none.

    `units` [n] or [n, k] are the unit, or the k units, to which each of the n data belongs. Resamples in which the
    measure is not defined are left out; where they are more than half, there is no interval.
    """
    number = np.unique(units, return_inverse=True)[1].reshape(len(units), -1)  # [n, k]
    count = int(number.max()) + 1 if number.size else 0
    if count < 2:
        return None, "one unit has no spread"
    is_repeated = np.zeros(number.shape, bool)  # clips of the same episode: it counts once
    for column in range(1, number.shape[1]):
        is_repeated[:, column] = (number[:, :column] == number[:, column, None]).any(1)
    rng, places = np.random.default_rng(seed), np.arange(len(number))
    found = np.empty(resamples)
    for i in range(resamples):
        drawn = np.bincount(rng.integers(count, size=count), minlength=count)
        weight = np.where(is_repeated, 1, drawn[number]).prod(1)
        taken = np.repeat(places, weight)
        found[i] = statistic(taken) if len(taken) else np.nan
    found = found[~np.isnan(found)]
    if len(found) <= resamples / 2:
        return None, "too few units of one sort"
    low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return (float(low), float(high)), ""


def wilson(right: int, count: int) -> tuple[float, float]:
    """Wilson's interval of a share: for shares of 0 and 1, which a bootstrap would be certain of."""
    found = binomtest(right, count).proportion_ci(LEVEL, method="wilson")
    return float(found.low), float(found.high)

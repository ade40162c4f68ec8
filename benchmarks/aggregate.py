"""One number, with its uncertainty, from runs on several tasks: interquartile mean and performance profile.

Agarwal et al. 2021, arXiv:2108.13264: with few seeds means mislead, and resampling must keep to each task's own seeds.
"""

import numpy as np
from scipy.stats import trim_mean


def iqm(scores: np.ndarray) -> float:
    """scores [tasks, seeds] → the mean of the middle half of all runs."""
    return float(trim_mean(scores.ravel(), 0.25))


def interval(scores: np.ndarray, resamples: int = 2000) -> tuple[float, float]:
    """scores [tasks, seeds] → 95 % percentile interval of the interquartile mean, seeds resampled within each task."""
    random = np.random.default_rng(0)
    tasks, seeds = scores.shape
    picks = random.integers(seeds, size=(resamples, tasks, seeds))
    found = [iqm(np.take_along_axis(scores, pick, 1)) for pick in picks]
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)


def profile(scores: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """scores [tasks, seeds], levels [n] → the share of runs above each level, every task weighing alike [n]."""
    return (scores[None] > levels[:, None, None]).mean((1, 2))

"""Ratings as weights: what they rank among the same rater's, whatever scale the rater uses.

Raters' scales differ (log-odds of "True", levels from 1 to 5, shares of progress, returns), and may have outliers that
would take all the weight. Ranks are the same whatever rising function a rater puts on its scale.
"""

import torch
from torch import Tensor

from pbrl.types import UserError


def rank(value: Tensor, rater: Tensor) -> Tensor:
    """The rank [Q] of each value among its rater's, from 0 for the lowest to 1 for the highest.

    Equal values share the mean of their places. A rater whose values are all equal says nothing: 0.5.
    """
    ranks = torch.full_like(value, 0.5)
    for one in rater.unique().tolist():
        own = rater == one
        levels, level, count = value[own].unique(return_inverse=True, return_counts=True)
        if len(levels) > 1:
            place = count.cumsum(0) - 0.5 * (count + 1)  # mean of the places that equal values take
            ranks[own] = ((place - place[0]) / (place[-1] - place[0]))[level].to(value.dtype)
    return ranks


def scale(weight: Tensor) -> Tensor:
    """Weights [Q] with a mean of 1. Raises UserError where no segment has any."""
    if not len(weight) or not (weight > 0).any():
        raise UserError(
            "no rated segment is left to imitate: all ratings are alike, or none ranks higher than algo.above; lower "
            "it, or ask more (query.count)"
        )
    return weight / weight.mean()

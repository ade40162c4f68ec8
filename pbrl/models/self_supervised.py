"""Losses that train an image encoder without any labels.

VICReg, Bardes et al. 2021, arXiv:2105.04906: two views of a picture agree, and the batch keeps its variety.
TCC, Dwibedi et al. 2019, arXiv:1904.07846: a frame that is matched with another video's, and back, is where it was.
"""

from typing import NamedTuple

import torch
from torch import Tensor

EPSILON = 1e-4  # in the root of a variance


class VICReg(NamedTuple):
    """The terms' weights; 25, 25 and 1 in the paper."""

    invariance: float
    variance: float
    covariance: float

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """The loss of the embeddings a and b [N, D] of two views, as in the paper's algorithm 1."""
        same = (a - b).square().mean()
        spread = variance(a) + variance(b)
        return self.invariance * same + self.variance * spread + self.covariance * (covariance(a) + covariance(b))


def variance(x: Tensor) -> Tensor:
    """How far the standard deviations of x [N, D] lie below 1, mean over D: equation 1."""
    return torch.relu(1 - (x.var(0) + EPSILON).sqrt()).mean()


def covariance(x: Tensor) -> Tensor:
    """The sum of squared covariances between the D numbers of x [N, D], over D: equation 4."""
    x = x - x.mean(0)
    found = x.T @ x / (len(x) - 1)
    return (found.square().sum() - found.diagonal().square().sum()) / x.shape[1]


def tcc(videos: Tensor, time: Tensor, temperature: float) -> Tensor:
    """Temporal cycle-consistency of embedded videos [V, T, D], V at least 2, at times [V, T] in [0, 1].

    The squared error of `cycle_back`, mean over frames and ordered pairs of videos: `regression_mse` as in XIRL (Zakka
    et al. 2021, arXiv:2106.03911), without the TCC paper's division by the variance of the match.
    """
    count = len(videos)
    found = cycle_back(videos[:, None], videos[None], time[:, None], temperature)  # [V, V, T]
    error = (found - time[:, None]).square().mean(-1)
    return (error.sum() - error.diagonal().sum()) / (count * (count - 1))


def cycle_back(u: Tensor, v: Tensor, time: Tensor, temperature: float) -> Tensor:
    """Where each frame of u [..., T, D] arrives by way of its soft nearest neighbor in v [..., T', D], as a mean of
    u's times [..., T]: [..., T]. Squared distances are means over D."""
    nearest = match(u, v, temperature) @ v
    return (match(nearest, u, temperature) @ time[..., None]).squeeze(-1)


def match(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """The softmax over frames of b [..., T', D] of their closeness to each frame of a [..., T, D]: [..., T, T']."""
    square = a.square().sum(-1)[..., None] + b.square().sum(-1)[..., None, :] - 2 * a @ b.transpose(-1, -2)
    return torch.softmax(-square / (temperature * a.shape[-1]), -1)

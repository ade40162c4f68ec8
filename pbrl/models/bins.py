"""Actions as tokens: each number of an action in [-1, 1] falls into one of `count` bins of equal width."""

import torch
from torch import Tensor


class ActionBins:
    """256 bins are those of RT-2 and OpenVLA. What is decoded is a bin's middle, so bins survive both ways exactly."""

    def __init__(self, count: int):
        self.count = count

    def encode(self, action: Tensor) -> Tensor:
        """Numbers in [-1, 1] → bins, long; what lies beyond falls into the last."""
        place = ((action.float() + 1) * (self.count / 2)).floor()
        return place.clamp(0, self.count - 1).long()

    def decode(self, bins: Tensor) -> Tensor:
        """Bins → the middle of each, float32."""
        return (2 * bins.to(torch.float32) + 1) / self.count - 1


class TokenBins:
    """Numbers in [-1, 1] as the last `count` ids of a vocabulary of `size`, as OpenVLA's (Kim et al. 2024,
    arXiv:2406.09246): -1 is the very last id, and larger numbers come before it.

    Of 256 ids the published rule makes 255 bins: bin i has its middle at -1 + (2 i + 1) / 255 and the id size - 1 - i,
    and the 256th id, which says exactly 1, is read as the last bin. Here that bin has both ids: their probabilities are
    added, and what comes after it is told the id of exactly 1, which is that of all numbers beyond the bounds.
    """

    def __init__(self, count: int, size: int):
        self.count, self.size, self.bins = count, size, count - 1

    def encode(self, numbers: Tensor) -> Tensor:
        """Numbers → bins, long; what lies beyond falls into the last."""
        place = ((numbers.double() + 1) * (self.bins / 2)).floor()
        return place.clamp(0, self.bins - 1).long()

    def decode(self, bins: Tensor) -> Tensor:
        """Bins → the middle of each, float32."""
        return ((2 * bins.double() + 1) / self.bins - 1).float()

    def ids(self, bins: Tensor) -> Tensor:
        """Bins → the ids that a model is told."""
        return torch.where(bins == self.bins - 1, self.size - self.count, self.size - 1 - bins)

    def log_prob(self, logits: Tensor) -> Tensor:
        """Logits of all words [..., V] → log-probabilities of bins among actions [..., count - 1] float32."""
        own = logits[..., self.size - self.count : self.size].float().flip(-1).log_softmax(-1)
        last = own[..., -2:].logsumexp(-1, keepdim=True)
        return torch.cat([own[..., :-2], last], -1)

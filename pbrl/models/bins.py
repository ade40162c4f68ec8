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

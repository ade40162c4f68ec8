"""The noise that policies draw while they act: each episode has its own, so that it can be played again."""

import zlib
from collections.abc import Sequence

import torch
from torch import Tensor


class EpisodeNoise:
    """Normal numbers that follow from each episode's first observation, alone or beside other episodes.

    With another `salt` they are others.
    """

    def __init__(self) -> None:
        self.salt = 0
        self.reset()

    def reset(self) -> None:
        """Starts episodes: their first observations are not known."""
        self.seeds: list[int] = []
        self.drawn = 0

    def begin(self, state: Tensor) -> None:
        """Takes note of the episodes' observations [B, O], where they are the first."""
        if len(self.seeds) != len(state):
            self.seeds = [zlib.crc32(row.tobytes(), self.salt) for row in state.float().cpu().numpy()]

    def draw(self, shape: Sequence[int], device: torch.device) -> Tensor:
        """Noise [..., B, H, D] of B episodes, drawn on the CPU: the same everywhere."""
        self.drawn += 1
        *lead, _, steps, size = shape
        count = self.drawn.to_bytes(8, "little")  # mixed in: of a seed PyTorch's generator reads 32 bits alone
        rows = [torch.Generator().manual_seed(zlib.crc32(count, seed)) for seed in self.seeds]
        noise = torch.stack([torch.randn((*lead, steps, size), generator=row) for row in rows], -3)
        return noise.to(device)

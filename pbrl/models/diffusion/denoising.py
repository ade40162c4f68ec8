"""Denoising as a Markov decision process: each step is a Gaussian decision, whose density is known.

DPPO, Ren et al. 2024, arXiv:2409.00588. What ancestral sampling draws a clean array by is a chain x_J, ..., x_0 of
arrays, noise first; the step from x_j to x_(j-1) is drawn from q(x_(j-1) | x_j, clean x), whose standard deviation is
no less than `least_std`, for else the last steps would explore nothing.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pbrl.models.diffusion.denoiser import Denoiser
from pbrl.models.diffusion.sampler import Draw, posterior


class Denoising(NamedTuple):
    """J `steps` from noise to clean; `clip` bounds the clean array that is expected at each of them (None: not)."""

    steps: int
    clip: float | None
    least_std: float

    def transition(
        self, denoiser: Denoiser, x: Tensor, place: Tensor, condition: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """x [..., H, D] ahead of step `place` [...], from 0 to J - 1 → the mean [..., H, D] and the standard deviation
        [..., 1, 1] of what comes after it."""
        times = denoiser.process.grid(self.steps)
        time, then = times[place], times[place + 1]
        clean = denoiser(x, time, condition)
        clean = clean if self.clip is None else clean.clamp(-self.clip, self.clip)
        mean, std = posterior(denoiser.process, x, clean, time, then)
        return mean, std.clamp(min=self.least_std)

    @torch.no_grad()
    def draw(self, denoiser: Denoiser, shape: Sequence[int], condition: Sequence[Tensor], draw: Draw) -> Tensor:
        """Chains of B arrays of a shape [B, H, D]: [B, J + 1, H, D], noise first. `draw` makes the noise."""
        chain = [denoiser.process.start_std * draw(shape)]
        for j in range(self.steps):
            place = torch.full(tuple(shape[:1]), j, device=chain[0].device)
            mean, std = self.transition(denoiser, chain[-1], place, condition)
            chain.append(mean + std * draw(shape))
        return torch.stack(chain, 1)


def log_density(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """The log-density of each number under a Gaussian: [..., H, D]."""
    return -0.5 * ((x - mean) / std).square() - std.log() - 0.5 * math.log(2 * math.pi)


def kl_divergence(mean: Tensor, other: Tensor, std: Tensor) -> Tensor:
    """KL of two Gaussians of one standard deviation, of each number: [..., H, D]. It is alike in both directions."""
    return 0.5 * ((mean - other) / std).square()

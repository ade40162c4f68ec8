"""Changes of pictures that leave what they show: a random shift, and brightness, contrast and saturation.

Shifts as in DrQ (Kostrikov et al. 2020, arXiv:2004.13649); colors as in SimCLR (Chen et al. 2020, arXiv:2002.05709).
"""

from typing import NamedTuple

import torch
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)  # of red, green and blue: ITU-R BT.601


class Augmentation(NamedTuple):
    """`shift` pixels at most; the others are drawn from 1 - x to 1 + x for each picture."""

    shift: int
    brightness: float
    contrast: float
    saturation: float

    def __call__(self, pictures: Tensor, generator: torch.Generator) -> Tensor:
        """pictures [N, H, W, 3] uint8 → other ones, of 0 to 255 float32."""
        count = len(pictures)
        moved = torch.randint(-self.shift, self.shift + 1, (2, count), generator=generator)
        factors = 1 + torch.tensor(self[1:])[:, None] * (2 * torch.rand(3, count, generator=generator) - 1)
        return change_colors(shift(pictures, *moved), *factors)


def shift(pictures: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Each of the pictures [N, H, W, 3] moved by so many pixels [N]; their edges are repeated."""
    height, width = pictures.shape[1:3]
    rows = (torch.arange(height) - down[:, None]).clamp(0, height - 1)
    columns = (torch.arange(width) - right[:, None]).clamp(0, width - 1)
    return pictures[torch.arange(len(pictures))[:, None, None], rows[:, :, None], columns[:, None]]


def change_colors(pictures: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor) -> Tensor:
    """Pictures [N, H, W, 3] of 0 to 255, by factors [N] in this order: times the first, away from the mean of gray,
    away from each pixel's own gray."""
    luma = torch.tensor(LUMA)
    x = (pictures * brightness[:, None, None, None]).clamp(0, 255)
    mean = (x @ luma).mean((1, 2))[:, None, None, None]
    x = (mean + (x - mean) * contrast[:, None, None, None]).clamp(0, 255)
    gray = (x @ luma)[..., None]
    return (gray + (x - gray) * saturation[:, None, None, None]).clamp(0, 255)

"""What a denoiser is told besides x: the time, and conditions each of which may be masked."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pbrl.models.layers import Linear

LONGEST = 10_000.0  # ratio of the slowest to the fastest wave


class Conditions(nn.Module):
    """The time and N conditions of `sizes` numbers each → one embedding [..., W].

    A masked condition adds nothing to it, so that its value, NaN even, changes nothing.
    """

    def __init__(self, sizes: Sequence[int], width: int):
        super().__init__()
        self.width = width
        self.time = nn.ModuleList([Linear(width, 2 * width), Linear(2 * width, width)])
        self.given = nn.ModuleList(Linear(size, width) for size in sizes)
        self.mix = Linear(width, width)

    def forward(self, told: Tensor, condition: Sequence[Tensor] | None, mask: Tensor | None) -> Tensor:
        """told [...] in [0, 1000]; conditions [..., C_i], mask [..., N], 1 where they are given → [..., W].

        Without conditions all are missing; without a mask all of them are given. They broadcast.
        """
        first, second = self.time
        total = second(nn.functional.silu(first(waves(told, self.width))))
        parts = torch.zeros_like(total)
        for i, (layer, value) in enumerate(zip(self.given, condition or (), strict=condition is not None)):
            if mask is None:
                parts = parts + layer(value)
            else:
                is_given = mask[..., i, None] > 0
                parts = parts + torch.where(is_given, layer(torch.where(is_given, value, 0.0)), 0.0)
        return total + self.mix(nn.functional.silu(parts))


def waves(x: Tensor, width: int) -> Tensor:
    """x [...] as sines and cosines of `width` / 2 frequencies: [..., width] (Vaswani et al. 2017, arXiv:1706.03762)."""
    half = width // 2
    rate = torch.exp(torch.arange(half, device=x.device) * (-math.log(LONGEST) / half))
    angle = x[..., None].float() * rate
    return torch.cat([angle.sin(), angle.cos()], -1)

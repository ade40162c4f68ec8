"""A U-Net along the steps of a chunk or plan, whose features a condition scales and shifts (FiLM).

Janner et al. 2022 (Diffuser), arXiv:2205.09991; conditioned as in Diffusion Policy, Chi et al. 2023, arXiv:2303.04137;
FiLM: Perez et al. 2018, arXiv:1709.07871. Channels lie last: a convolution is one product of neighbouring steps.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, silu

from pbrl.models.layers import Linear
from pbrl.types import UserError

GROUPS = 8


class UNet(nn.Module):
    """x [..., H, D], embedding [..., W] → [..., H, D]. Each of `layers` levels halves the steps of the one before it,
    and all but the first are twice as wide as `width`. Starts at zero. Raises UserError."""

    def __init__(self, size: int, *, horizon: int, width: int, layers: int):
        super().__init__()
        if width % GROUPS:
            raise UserError(f"width={width} of a U-Net must be a multiple of {GROUPS}")
        if horizon % 2 ** (layers - 1):
            raise UserError(
                f"horizon={horizon} cannot be halved {layers - 1} times: make it a multiple of {2 ** (layers - 1)}, "
                "or take fewer layers"
            )
        widths = [width, *[2 * width] * (layers - 1)]
        inputs = [size, *widths]
        self.down = nn.ModuleList(Block(i, o, width) for i, o in zip(inputs, widths, strict=False))
        self.shrink = nn.ModuleList(Convolution(w, w) for w in widths[:-1])
        self.middle = Block(widths[-1], widths[-1], width)
        self.grow = nn.ModuleList(Convolution(w, w) for w in widths[1:])
        pairs = zip(widths[1:], widths[:-1], strict=True)
        self.up = nn.ModuleList(Block(below + level, level, width) for below, level in pairs)
        self.out = Linear(width, size)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        kept = []
        for block, shrink in zip(self.down, [*self.shrink, None], strict=True):
            x = block(x, embedding)
            kept.append(x)
            x = x if shrink is None else shrink(x, stride=2)
        x = self.middle(x, embedding)
        levels = list(zip(self.up, self.grow, kept[:-1], strict=True))
        for block, grow, level in reversed(levels):
            twice = x.unsqueeze(-2).expand(*x.shape[:-1], 2, x.shape[-1]).flatten(-3, -2)
            x = block(torch.cat([grow(twice), level], -1), embedding)
        return self.out(x)


class Block(nn.Module):
    """Two convolutions, the first of which a condition scales and shifts, added to the input."""

    def __init__(self, inputs: int, outputs: int, width: int):
        super().__init__()
        self.first, self.second = Convolution(inputs, outputs), Convolution(outputs, outputs)
        self.norm, self.other_norm = GroupNorm(outputs), GroupNorm(outputs)
        self.film = Linear(width, 2 * outputs)
        self.skip = nn.Identity() if inputs == outputs else Linear(inputs, outputs)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        gain, shift = self.film(silu(embedding))[..., None, :].chunk(2, -1)
        y = silu(self.norm(self.first(x)) * (1 + gain) + shift)
        return self.skip(x) + silu(self.other_norm(self.second(y)))


class Convolution(nn.Module):
    """Over three neighbouring steps: [..., H, I] → [..., H / stride, U]. Beyond the ends there are zeros."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.linear = Linear(3 * inputs, outputs)

    def forward(self, x: Tensor, stride: int = 1) -> Tensor:
        steps, padded = x.shape[-2], pad(x, (0, 0, 1, 1))
        return self.linear(torch.cat([padded[..., k : k + steps : stride, :] for k in range(3)], -1))


class GroupNorm(nn.Module):
    """Group normalisation over the steps and the channels of a group, of [..., H, C] (Wu & He, arXiv:1803.08494)."""

    def __init__(self, channels: int):
        super().__init__()
        self.gain, self.shift = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        groups = x.float().unflatten(-1, (GROUPS, -1))
        centred = groups - groups.mean((-3, -1), keepdim=True)
        variance = centred.square().mean((-3, -1), keepdim=True)
        return (centred * (variance + 1e-5).rsqrt()).flatten(-2) * self.gain + self.shift

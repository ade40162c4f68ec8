"""A transformer along the steps of a chunk or plan, whose layers a condition modulates: DiT with adaLN-zero.

Peebles & Xie 2023, arXiv:2212.09748; over trajectories as in AlignDiff, Dong et al. 2024, arXiv:2310.02054.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm, silu

from pbrl.models.layers import Linear, attend
from pbrl.types import UserError


class DiT(nn.Module):
    """x [..., H, D], embedding [..., W] → [..., H, D]: each step attends to all others. Starts at zero.

    Raises UserError.
    """

    def __init__(self, size: int, *, horizon: int, width: int, layers: int, heads: int):
        super().__init__()
        if width % heads:
            raise UserError(f"width={width} must be a multiple of heads={heads}")
        self.embed = Linear(size, width)
        self.position = nn.Parameter(0.02 * torch.randn(horizon, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.modulate, self.out = zero(Linear(width, 2 * width)), zero(Linear(width, size))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        embedding = silu(embedding)
        x = self.embed(x) + self.position
        for block in self.blocks:
            x = block(x, embedding)
        gain, shift = self.modulate(embedding)[..., None, :].chunk(2, -1)
        return self.out(normalize(x, gain, shift))


class Block(nn.Module):
    """Self-attention and a two-layer MLP; the condition scales and shifts what goes in and gates what comes out."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.modulate = zero(Linear(width, 6 * width))
        self.qkv, self.out = Linear(width, 3 * width), Linear(width, width)
        self.wide, self.narrow = Linear(width, 4 * width), Linear(4 * width, width)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        gain, shift, gate, *others = self.modulate(embedding)[..., None, :].chunk(6, -1)
        parts = self.qkv(normalize(x, gain, shift)).chunk(3, -1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(-3, -2) for part in parts)  # [..., heads, H, W/heads]
        x = torch.addcmul(x, gate, self.out(attend(q, k, v, causal=False).transpose(-3, -2).flatten(-2)))
        gain, shift, gate = others
        return torch.addcmul(x, gate, self.narrow(gelu(self.wide(normalize(x, gain, shift)), approximate="tanh")))


def normalize(x: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    """x [..., H, W] with mean 0 and variance 1 at each step, then scaled by 1 + gain and shifted."""
    return torch.addcmul(shift, layer_norm(x, x.shape[-1:]), 1 + gain)


def zero(layer: Linear) -> Linear:
    """The layer with its weights set to zero."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer

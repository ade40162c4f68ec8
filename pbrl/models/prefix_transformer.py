"""A transformer of two parts: a context that is read once, and a sequence that reads it and perhaps itself.

What the sequence reads of the context are keys and values, which do not depend on the sequence: they are computed once
and serve a whole sequence in training, or token after token in decoding (a KV cache). Its attention is that of a prefix
language model, Raffel et al. 2020, arXiv:1910.10683; but the context is normalised apart from the sequence.
"""

import math
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from pbrl.types import UserError


class Cache(NamedTuple):
    """What was read so far, of each layer; places where `mask` is 0 are not read."""

    keys: list[Tensor]  # [B, H, T, W / H]
    values: list[Tensor]
    mask: Tensor  # [B, T] bool


class PrefixTransformer(nn.Module):
    """Raises UserError where the width cannot be shared among the heads."""

    def __init__(self, *, width: int, layers: int, heads: int):
        super().__init__()
        if width % heads:
            raise UserError(f"policy.width={width} must be a multiple of policy.heads={heads}")
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def _blocks(self) -> "list[Block]":
        return cast("list[Block]", list(self.blocks))

    def read(self, context: Tensor, mask: Tensor) -> Cache:
        """Context [B, C, W], of which each place with mask [B, C] reads each other → what sequences read of it."""
        keys, values, blocks = [], [], self._blocks()
        for i, block in enumerate(blocks):
            q, k, v = block.project(context)
            keys.append(k)
            values.append(v)
            if i < len(blocks) - 1:  # nothing reads further than the last layer's keys and values
                context = block.mix(context, q, k, v, mask[:, None, None])
        return Cache(keys, values, mask)

    def go_on(self, x: Tensor, cache: Cache, *, causal: bool) -> tuple[Tensor, Cache]:
        """Sequence x [B, N, W] after all that the cache holds → [B, N, W], and the cache with the sequence in it.

        `causal`: a place reads no later one; else all of x read each other.
        """
        count, held = x.shape[1], cache.mask.shape[1]
        own = torch.ones(count, count, dtype=torch.bool, device=x.device)
        own = own.tril() if causal else own
        seen = cache.mask[:, None].expand(-1, count, held)
        mask = torch.cat([seen, own.expand(len(x), -1, -1)], -1)[:, None]  # [B, 1, N, T + N]
        keys, values = [], []
        for block, k, v in zip(self._blocks(), cache.keys, cache.values, strict=True):
            q, own_k, own_v = block.project(x)
            keys.append(torch.cat([k, own_k], 2))
            values.append(torch.cat([v, own_v], 2))
            x = block.mix(x, q, keys[-1], values[-1], mask)
        return self.norm(x), Cache(keys, values, torch.cat([cache.mask, cache.mask.new_ones(len(x), count)], 1))


class Block(nn.Module):
    """Attention and a two-layer MLP, each normalised before and added to its input."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, N, W] → queries, keys and values [B, H, N, W / H]."""
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.qkv(self.attention_norm(x)).chunk(3, -1)
        )
        return q, k, v

    def mix(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        """x [B, N, W] with what its queries find among keys and values where the mask is true → [B, N, W]."""
        x = x + self.out(attend(q, k, v, mask).transpose(1, 2).flatten(2))
        return x + self.mlp(self.mlp_norm(x))


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Attention where `mask` is true; on a CPU by plain products, as in pbrl/models/layers.py."""
    if q.device.type != "cpu":
        return nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    logits = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    return logits.float().masked_fill(~mask, -math.inf).softmax(-1).to(v.dtype) @ v

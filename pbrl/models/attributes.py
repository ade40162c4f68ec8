"""The network that says how strong attributes of behaviour are; what it learns from is in pbrl/rewards/attributes.py.

AlignDiff's attribute model, Dong et al. 2023, arXiv:2310.02054.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm

from pbrl.models.layers import Linear, Normalize
from pbrl.types import Observation, Segment, Spec, UserError


class Strengths(nn.Module):
    """`members` transformers read up to `context` states. Each has a number x for each of `count` attributes, whose
    strength is bound tanh(x / bound).

    `low` and `high` [M] are the least and the greatest strength in the table that was labelled last.
    """

    low: Tensor
    high: Tensor

    def __init__(
        self, spec: Spec, count: int, *, context: int, members: int, layers: int, heads: int, width: int, bound: float
    ):
        super().__init__()
        sizes = {"members": members, "context": context, "layers": layers, "heads": heads, "width": width}
        self.shape = {**sizes, "bound": bound}  # its keyword arguments
        self.context, self.bound = context, bound
        self.obs_normalize = Normalize(spec.obs_mean, spec.obs_std)
        self.net = Reader(spec.obs_dim, count, **sizes)
        self.register_buffer("low", torch.zeros(count))
        self.register_buffer("high", torch.ones(count))

    def score(self, segment: Segment) -> Tensor:
        """segment [..., L, …] → each member's strength of each attribute, as comparisons compare it: [E, ..., M]."""
        lead, mask = segment.mask.shape[:-1], segment.mask
        state = self.obs_normalize(segment.obs.state)
        found = self.net(state.reshape(-1, *state.shape[-2:]), mask.reshape(-1, mask.shape[-1])).float()
        return (self.bound * torch.tanh(found / self.bound)).reshape(len(found), *lead, -1)

    def strength(self, segment: Segment) -> Tensor:
        """segment [..., L, …] → the members' mean, of which 0 and 1 are the labelled table's ends: [..., M]."""
        return self._scale(self.score(segment).mean(0))

    def _scale(self, found: Tensor) -> Tensor:
        spread = self.high - self.low
        return (found - self.low) / torch.where(spread > 0, spread, 1.0)


@torch.no_grad()
def read_strengths(model: Strengths, names: Sequence[str], obs: np.ndarray) -> dict[str, float]:
    """The mean strength, over the windows of an episode's observations [T + 1, O], of each attribute."""
    length = min(model.context, len(obs) - 1)
    windows = torch.from_numpy(obs[:-1]).unfold(0, length, 1).movedim(-1, 1)  # [N, L, O]
    mask = torch.ones(windows.shape[:2])
    found = model.strength(Segment(Observation(windows), torch.zeros(*mask.shape, 1), mask)).mean(0)
    return dict(zip(names, found.tolist(), strict=True))


class Reader(nn.Module):
    """Normalised states [N, L, O] and mask [N, L] → what `members` transformers make of each segment: [E, N, U].

    All steps see each other, and a summary token at the end sees all.
    """

    def __init__(self, inputs: int, outputs: int, *, members: int, context: int, layers: int, heads: int, width: int):
        super().__init__()
        if width % heads:
            raise UserError(f"reward.width={width} must be a multiple of reward.heads={heads}")
        self.members = members
        self.embed, self.out = Linear(inputs, width, members), Linear(width, outputs, members)
        self.place = nn.Parameter(0.02 * torch.randn(members, 1, context, width))
        self.summary = nn.Parameter(0.02 * torch.randn(members, 1, 1, width))
        self.blocks = nn.ModuleList(Block(width, heads, members) for _ in range(layers))

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        count, length = mask.shape
        tokens = each(self.embed, states.expand(self.members, -1, -1, -1)) + self.place[:, :, :length]
        x = torch.cat([tokens, self.summary.expand(-1, count, -1, -1)], 2)  # [E, N, L + 1, W]
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
        for block in self.blocks[:-1]:
            x = block(x, x, mask)
        x = self.blocks[-1](x[:, :, -1:], x, mask)  # nothing else is read in the end
        return self.out(normalize(x[:, :, 0]))


class Block(nn.Module):
    """Self-attention and a two-layer MLP, each normalised before and added to its input; of E members at once."""

    def __init__(self, width: int, heads: int, members: int):
        super().__init__()
        self.heads = heads
        self.query, self.value = Linear(width, width, members), Linear(width, width, members)
        bound = 1 / math.sqrt(width)  # as a linear layer's, but without a bias, which softmax would ignore
        self.key = nn.Parameter(torch.empty(members, width, width).uniform_(-bound, bound))
        self.out = Linear(width, width, members)
        self.widen, self.narrow = Linear(width, 4 * width, members), Linear(4 * width, width, members)

    def forward(self, x: Tensor, seen: Tensor, mask: Tensor) -> Tensor:
        """Tokens x [E, N, T, W] attend to `seen` [E, N, S, W], where `mask` [N, S] is not 0 → [E, N, T, W]."""
        seen = normalize(seen)
        key = (seen.flatten(1, 2) @ self.key).view_as(seen)
        q, k, v = map(self._split, (each(self.query, normalize(x)), key, each(self.value, seen)))
        logits = (q @ k.transpose(-1, -2)).float() / math.sqrt(q.shape[-1])  # [E, N, H, T, S]
        weight = logits.masked_fill(mask[:, None, None] == 0, -math.inf).softmax(-1)
        context = (weight.to(v.dtype) @ v).transpose(2, 3).flatten(3)
        x = x + each(self.out, context)
        return x + each(self.narrow, gelu(each(self.widen, normalize(x))))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(2, 3)  # [E, N, H, T, W / H]


def each(layer: Linear, x: Tensor) -> Tensor:
    """A layer of E members on x [E, N, T, I] → [E, N, T, U]."""
    return layer(x.flatten(1, 2)).unflatten(1, x.shape[1:3])


def normalize(x: Tensor) -> Tensor:
    """Layer normalization without a scale of its own: the linear layer that follows has one."""
    return layer_norm(x, x.shape[-1:])

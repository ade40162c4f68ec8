"""How strong each of several attributes of behaviour is, from answers to "which of two clips is faster, higher, …".

AlignDiff's attribute model, Dong et al. 2023, arXiv:2310.02054: an ensemble of transformers reads the states of a
segment, and a summary token at the end gives c tanh(x / c) for each attribute. Two segments are compared by one
attribute under the Bradley-Terry model, apart from the others; what an answer leaves open adds nothing to the loss.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm

from pbrl.data.table import Table
from pbrl.models.layers import Linear, Normalize
from pbrl.models.optim import Adam
from pbrl.objectives import Objective
from pbrl.ranges import Count, NotNegative, Positive, Size
from pbrl.training.batches import Data
from pbrl.types import AttributeComparisons, Metrics, Phase, Segment, Spec, UserError

CHUNK_STEPS = 65536  # of segments that go through the network at once


class AttributeModel(nn.Module):
    """`members` transformers trained on the same batches from different starts; `context` steps are a window.

    `low` and `high` [M] are the least and the greatest strength in the table that was labelled last.
    """

    gives, normalize = "attributes", "minmax"
    low: Tensor
    high: Tensor

    def __init__(
        self,
        spec: Spec,
        objective: Objective,
        *,
        attributes: list[str] | None,
        context: Size,
        members: Size,
        layers: Count,
        heads: Count,
        width: Size,
        bound: Positive,
        lr: Positive,
        weight_decay: NotNegative,
        steps: Count,
        batch_size: Size,
    ):
        super().__init__()
        if not attributes:
            raise UserError("reward=attributes learns attributes by name: query.attributes=[speed,height] or others")
        if objective.is_unpaired or objective.segments != 2:
            raise UserError("attributes are compared in pairs: choose an objective@reward_objective of pairs")
        self.objective, self.attributes, self.context = objective, tuple(attributes), context
        self.bound, self.steps, self.batch_size = bound, steps, batch_size
        self.obs_normalize = Normalize(spec.obs_mean, spec.obs_std)
        sizes = {"members": members, "context": context, "layers": layers, "heads": heads, "width": width}
        self.net = Reader(spec.obs_dim, len(attributes), **sizes)
        self.optim = Adam(self.net.parameters(), lr, weight_decay=weight_decay)
        self.register_buffer("low", torch.zeros(len(attributes)))
        self.register_buffer("high", torch.ones(len(attributes)))

    def phases(self) -> list[Phase]:
        return [Phase("reward", self.steps, self.draw, self.update)]

    def draw(self, data: Data) -> AttributeComparisons:
        """`batch_size` comparisons."""
        return data.attribute_comparisons(self.batch_size)

    def update(self, batch: AttributeComparisons) -> Metrics:
        """Minimizes the sum over attributes of the members' mean losses."""
        scores = self.score(batch.segments)  # [E, B, 2, M]
        losses = self.objective.loss(scores.transpose(-1, -2), batch.label)  # [E, B, M]
        weight = batch.mask * batch.confidence[:, None]
        loss = (losses * weight).mean(1).sum(-1)  # [E]
        self.optim.step(loss.sum())
        gap = scores.detach().mean(0).diff(dim=1)[:, 0]  # [B, M]
        clear = (batch.label != 0.5).float()
        right = ((gap > 0) == (batch.label > 0.5)).float() * clear
        return {"loss": loss.detach().mean(), "train_accuracy": right.sum() / clear.sum().clamp(min=1)}

    def score(self, segment: Segment) -> Tensor:
        """segment [..., L, …] → each member's strength of each attribute, as comparisons compare it: [E, ..., M]."""
        lead, mask = segment.mask.shape[:-1], segment.mask
        state = self.obs_normalize(segment.obs.state)
        found = self.net(state.reshape(-1, *state.shape[-2:]), mask.reshape(-1, mask.shape[-1])).float()
        return (self.bound * torch.tanh(found / self.bound)).reshape(len(found), *lead, -1)

    def strength(self, segment: Segment) -> Tensor:
        """segment [..., L, …] → the members' mean, of which 0 and 1 are the labelled table's ends: [..., M]."""
        return self._scale(self.score(segment).mean(0))

    @torch.no_grad()
    def score_at(self, table: Table, starts: Tensor, length: int) -> Tensor:
        """The scores of the table's segments that begin at rows `starts` [N, ...]: [E, N, ..., M].

        Beyond its end an episode has no steps to read.
        """
        parts = starts.split(max(1, CHUNK_STEPS // max(1, length * starts[0].numel())))
        return torch.cat([self._score_part(table, part, length) for part in parts], 1).to(table.device)

    def _score_part(self, table: Table, starts: Tensor, length: int) -> Tensor:
        windows = table.windows(starts.flatten(), length)
        found = self.score(Segment(windows.obs, windows.action, windows.mask))  # [E, n, M]
        return found.reshape(len(found), *starts.shape, -1)

    @torch.no_grad()
    def label(self, table: Table) -> Tensor:
        """The strength of the window of `context` steps that begins at each row, from 0 to 1 in this table: [R, M].

        Rows at which none begins have that of their episode's last window.
        """
        rows = torch.arange(table.row_count, device=table.device)
        latest = table.closing[table.episode] - self.context
        begins = torch.maximum(torch.minimum(rows, latest), table.opening[table.episode])
        begins, place = begins.unique(return_inverse=True)
        found = self.score_at(table, begins, self.context).mean(0)
        self.low.copy_(found.amin(0))
        self.high.copy_(found.amax(0))
        return self._scale(found.to(self.low.device)).to(table.device)[place]

    def _scale(self, found: Tensor) -> Tensor:
        spread = self.high - self.low
        return (found - self.low) / torch.where(spread > 0, spread, 1.0)


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

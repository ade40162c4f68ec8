"""Optimal transport between two embedded videos: which frame of one is like which of the other, and how much in all.

A plan P [T, T'] spreads each frame's equal share of its video over frames of the other. The entropic plan is that of

    min <P, C> + KL(P || Q) / gamma,    rows of P sum to 1/T, columns to 1/T'    (Cuturi 2013, arXiv:1306.0895)

and the larger `gamma`, the sharper; infinite, it is the exact plan. Q is the uniform plan where frames have no order: a
video and its reverse then cost the same. Here Q knows the time: it is zero where two frames lie farther apart in their
videos than `band`, and falls off with a Gaussian of width `order`, as in order-preserving transport (Su & Hua 2017,
doi:10.1109/CVPR.2017.310). Both are shares of a video, so videos may have any lengths.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment, linprog
from torch import Tensor

from pbrl.types import UserError

NEVER = -1e30  # a logarithm of zero whose differences are numbers
LEAST = -80.0  # whose exponential is a normal number, and nothing beside one
MOST = 1e9  # that a scaling grows by until it is absorbed
STAGES, TURNS = 4, 8  # of Sinkhorn's iterations: sharper from stage to stage, with so many turns in each
PASS_ENTRIES = 262144  # of the plans that are found at once on a processor: its caches hold no more
RIDGE = 1e-8  # of the equations of the plan's derivative, where frames are matched one to one
METRICS = ("euclidean", "cosine")


@dataclass(frozen=True)
class Transport:
    """How videos are compared. `band` 1 and `order` 0 leave the time out; `gamma` 0 is the uniform plan.

    Where `through_plan` is false, gradients of a similarity take the plan as given: they are then those of the whole
    minimum above, or of the exact cost, by the envelope theorem; else those of <P, C> itself.
    """

    metric: Literal["euclidean", "cosine"] = "euclidean"
    gamma: float = 20.0
    band: float = 0.2
    order: float = 0.0
    through_plan: bool = True

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise UserError(f"reward.metric={self.metric}: it is one of {', '.join(METRICS)}")
        if not 0 < self.band <= 1:
            raise UserError(f"reward.band={self.band} is a share of a video in (0, 1]; 1: frames of any times match")
        if not (self.gamma >= 0 and self.order >= 0):
            raise UserError(f"reward.gamma={self.gamma} and reward.order={self.order} are at least 0")

    def cost(self, a: Tensor, b: Tensor) -> Tensor:
        """Distances [..., T, T'] of frames a [..., T, D] and b [..., T', D]."""
        if self.metric == "euclidean":
            return distances(a, b)
        normalize = torch.nn.functional.normalize
        return 1 - normalize(a, dim=-1) @ normalize(b, dim=-1).transpose(-1, -2)

    def plan(self, cost: Tensor, rows: Tensor | None = None, columns: Tensor | None = None) -> Tensor:
        """The plan of costs [..., T, T']. Masks rows [..., T] and columns [..., T'] are 1 for frames that exist."""
        rows = cost.new_ones(cost.shape[-2]) if rows is None else rows.to(cost)
        columns = cost.new_ones(cost.shape[-1]) if columns is None else columns.to(cost)
        prior = log_prior(rows, columns, self.band, self.order)
        if math.isinf(self.gamma):
            return exact_plan(cost.detach(), rows, columns, prior)
        return entropic_plan(cost, rows, columns, prior, self.gamma)

    def matched(self, a: Tensor, b: Tensor, rows: Tensor | None = None, columns: Tensor | None = None) -> Tensor:
        """What each frame of a [..., T, D] pays to be matched with b [..., T', D]: [..., T]; they sum to <P, C>."""
        with torch.autocast(a.device.type, enabled=False):
            cost = self.cost(a.float() if a.dtype != torch.float64 else a, b.to(torch.promote_types(b.dtype, a.dtype)))
            plan = self.plan(cost, rows, columns)
            return ((plan if self.through_plan else plan.detach()) * cost).sum(-1)

    def similarity(self, a: Tensor, b: Tensor, rows: Tensor | None = None, columns: Tensor | None = None) -> Tensor:
        """R = -<P, C> of videos a [..., T, D] and b [..., T', D]: [...]."""
        return -self.matched(a, b, rows, columns).sum(-1)


def distances(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distances [..., T, T'], with a gradient also where frames are equal."""
    square = (a * a).sum(-1)[..., None] + (b * b).sum(-1)[..., None, :] - 2 * a @ b.transpose(-1, -2)
    return (square.clamp(min=0) + 1e-8).sqrt()


def log_prior(rows: Tensor, columns: Tensor, band: float, order: float) -> Tensor:
    """log Q [..., T, T'] up to a constant for each row and column.

    A band is never narrower than what a plan along the diagonal needs.
    """
    length, other = rows.sum(-1)[..., None, None], columns.sum(-1)[..., None, None]
    times = ((torch.cumsum(mask, -1) - 0.5) for mask in (rows, columns))
    time, other_time = times
    gap = (time[..., :, None] / length - other_time[..., None, :] / other).abs()
    allowed = gap <= torch.clamp(0.5 / length + 0.5 / other, min=band) + 1e-6
    allowed = allowed & (rows[..., :, None] > 0) & (columns[..., None, :] > 0)
    log = -0.5 * (gap / order).square() if order else torch.zeros_like(gap)
    return torch.where(allowed, log, torch.full_like(log, NEVER))


def entropic_plan(cost: Tensor, rows: Tensor, columns: Tensor, prior: Tensor, gamma: float) -> Tensor:
    """The plan by Sinkhorn's iterations on logarithms, which no `gamma` overflows; differentiable in the cost.

    Columns sum to their shares; rows do as closely as the iterations have converged.
    """
    lead, (t, s) = cost.shape[:-2], cost.shape[-2:]
    log_rows, log_columns = (
        torch.where(mask > 0, -mask.sum(-1, keepdim=True).log(), NEVER).expand(*lead, -1).reshape(-1, mask.shape[-1])
        for mask in (rows, columns)
    )
    prior = prior if prior.ndim == 2 else prior.expand_as(cost).reshape(-1, t, s)
    found = _Plan.apply(cost.reshape(-1, t, s), prior, log_rows, log_columns, gamma)
    return found.reshape(*lead, t, s)  # type: ignore[union-attr]


class _Plan(torch.autograd.Function):
    """Plans [N, T, T'], and their derivative by implicit differentiation of the marginals' equations."""

    @staticmethod
    def forward(cost: Tensor, prior: Tensor, log_rows: Tensor, log_columns: Tensor, gamma: float) -> Tensor:
        kernel = prior - gamma * cost
        size = max(1, PASS_ENTRIES // kernel[0].numel()) if cost.device.type == "cpu" and len(cost) else len(cost) or 1
        parts = zip(kernel.split(size), log_rows.split(size), log_columns.split(size), strict=True)
        return torch.cat([sinkhorn(*part) for part in parts])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(output)
        ctx.gamma = inputs[-1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """With log P = -gamma C + f + g: what f and g take back of a change of C, so that the marginals stay."""
        (saved,) = ctx.saved_tensors
        plan, grad64 = saved.double(), grad.double()
        rows, columns, pulled = plan.sum(2), plan.sum(1), plan * grad64
        per_row = plan / torch.where(rows > 0, rows, 1)[..., None]  # P(column | row)
        right = pulled.sum(1) - (per_row.transpose(1, 2) @ pulled.sum(2)[..., None])[..., 0]
        left = torch.diag_embed(columns * (1 + RIDGE)) - per_row.transpose(1, 2) @ plan
        left = left + columns[:, :, None] * columns[:, None] + torch.diag_embed((columns <= 0).double())
        beta = torch.linalg.solve(left, right[..., None])[..., 0]
        alpha = (per_row * (grad64 - beta[:, None])).sum(2)
        moved = plan * (grad64 - alpha[..., None] - beta[:, None])
        return (-ctx.gamma * moved).to(grad), None, None, None, None


def sinkhorn(kernel: Tensor, log_rows: Tensor, log_columns: Tensor) -> Tensor:
    """The plan [N, T, T'] = exp(kernel + f + g) with the given marginals.

    Each stage doubles the sharpness, begins on logarithms and goes on with plain scalings, which are absorbed at its
    end (Schmitzer 2019, arXiv:1610.06519): they cost a tenth of an exponential each.
    """
    rows, columns = log_rows.exp(), log_columns.exp()
    f, g = torch.zeros_like(log_rows), torch.zeros_like(log_columns)
    for stage in range(STAGES):
        blunt = 0.5 ** (STAGES - 1 - stage)
        f, g, scaled = _turn(kernel * blunt, log_rows, log_columns, g)
        v = torch.ones_like(columns)
        u = torch.ones_like(rows)
        for _ in range(TURNS):
            u = (rows / (scaled @ v[..., None])[..., 0].clamp(min=1 / MOST**2)).clamp(1 / MOST, MOST)
            v = (columns / (u[:, None] @ scaled)[:, 0].clamp(min=1 / MOST**2)).clamp(1 / MOST, MOST)
        growth = 2.0 if stage < STAGES - 1 else 1.0
        f, g = growth * (f + u.log()), growth * (g + v.log())
    plan = _turn(kernel, log_rows, log_columns, g)[2]
    return torch.where(kernel > 0.5 * NEVER, plan, 0.0)


def _turn(kernel: Tensor, log_rows: Tensor, log_columns: Tensor, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One iteration on logarithms from g on: f, g and the plan, whose columns sum to their shares."""
    part, most = _exponentials(kernel + g[:, None], 2)
    f = log_rows - part.sum(2).log() - most[..., 0]
    part, most = _exponentials(kernel + f[..., None], 1)
    total = part.sum(1)
    g = log_columns - total.log() - most[:, 0]
    return f, g, part.mul_((log_columns.exp() / total)[:, None])


def _exponentials(logs: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Of logarithms less their greatest along a dimension, and the greatest; what underflows would take much longer."""
    most = logs.amax(dim, keepdim=True)
    return logs.sub_(most).clamp_(min=LEAST).exp_(), most


@torch.no_grad()
def exact_plan(cost: Tensor, rows: Tensor, columns: Tensor, prior: Tensor) -> Tensor:
    """The cheapest plan within the prior's band, by the Hungarian method where videos are equally long, else as a
    linear program: [..., T, T']. One by one, on the processor."""
    lead = cost.shape[:-2]
    kept = zip(*(x.expand(*lead, -1).reshape(-1, x.shape[-1]) for x in (rows, columns)), strict=True)
    flat = torch.where(prior > 0.5 * NEVER, cost, torch.inf).reshape(-1, *cost.shape[-2:]).double().cpu().numpy()
    found = np.zeros(flat.shape)
    for plan, own, (row, column) in zip(found, flat, kept, strict=True):
        place = np.ix_(np.flatnonzero(row.cpu().numpy() > 0), np.flatnonzero(column.cpu().numpy() > 0))
        plan[place] = _assign(own[place])
    return torch.from_numpy(found).to(cost).reshape(cost.shape)


def _assign(cost: np.ndarray) -> np.ndarray:
    """The cheapest plan [T, T'] of costs, infinite where nothing may be matched."""
    (t, s), plan = cost.shape, np.zeros(cost.shape)
    if t == s:
        plan[linear_sum_assignment(cost)] = 1 / t
        return plan
    allowed = np.isfinite(cost)
    row, column = np.nonzero(allowed)
    sums = np.zeros((t + s, len(row)))
    sums[row, np.arange(len(row))] = sums[t + column, np.arange(len(row))] = 1
    shares = np.concatenate([np.full(t, 1 / t), np.full(s, 1 / s)])
    plan[allowed] = linprog(cost[allowed], A_eq=sums, b_eq=shares, method="highs").x
    return plan

"""Classifier-free guidance: what a condition changes, made stronger.

Ho & Salimans 2022, arXiv:2207.12598; several conditions with a weight each: Liu et al. 2022, arXiv:2206.01714.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Condition = Sequence[Tensor]  # N conditions [..., C_i]
Denoise = Callable[[Tensor, Tensor, Condition | None, Tensor | None], Tensor]
# noisy x [..., H, D], time [...], conditions, their mask [..., N] → clean x [..., H, D]
Guidance = float | Sequence[float]


def guided(
    denoise: Denoise, condition: Condition | None, mask: Tensor | None, guidance: Guidance
) -> Callable[[Tensor, Tensor], Tensor]:
    """x [..., H, D], time [...] → clean x. With a weight w: D(none) + w (D(all) - D(none)), all at once, where 1 is the
    conditional model itself. With a weight for each condition: D(none) + sum_i w_i (D(i alone) - D(none)).

    `mask` [..., N] is 0 where a condition says nothing; None: all count. One evaluation is a batch with a leading axis.
    """
    if condition is None or (isinstance(guidance, float | int) and guidance == 1):
        return lambda x, time: denoise(x, time, condition, mask)
    given = condition

    def apart(x: Tensor, time: Tensor) -> Tensor:
        masks, weights = _masks(x, len(given), mask, guidance)
        lead = (len(masks), *x.shape[:-2])
        out = denoise(x.expand(len(masks), *x.shape), time.expand(lead), given, masks)
        none = out[-1]
        return none + (weights.view(-1, *[1] * x.ndim) * (out[:-1] - none)).sum(0)

    return apart


def _masks(x: Tensor, count: int, mask: Tensor | None, guidance: Guidance) -> tuple[Tensor, Tensor]:
    """What is shown in each evaluation [E + 1, ..., N], the last of which is nothing; and the weights [E] of others."""
    lead = x.shape[:-2]
    whole = x.new_ones(count) if mask is None else mask
    whole = whole.expand(*lead, count)
    if isinstance(guidance, float | int):
        parts, weights = whole[None], x.new_full((1,), float(guidance))
    else:
        alone = torch.eye(count, device=x.device, dtype=x.dtype)
        parts = whole * alone.view(count, *[1] * len(lead), count)
        weights = torch.tensor(list(guidance), device=x.device, dtype=x.dtype)
    return torch.cat([parts, torch.zeros_like(whole)[None]]), weights

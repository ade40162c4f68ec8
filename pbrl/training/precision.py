"""The precision of matrix products: float32, or bfloat16 on a device that is faster at it.

A processor without AVX512-BF16 or AMX emulates bfloat16 and is slower by it, up to 40 times. Its flags do not tell: a
virtual machine may hide them, and oneDNN takes processors with AVX512 alone for able. So products are timed.
"""

import time
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from pbrl.types import UserError

GAIN = 1.25  # times as fast as float32: from there on it is worth it. Measured with oneDNN held to AVX512-BF16, AVX512
# and AVX2 on one processor: 3.1, 0.7 and 0.03, so that a loaded host does not change the choice
SIZE = 256  # of the products that are timed
LEAST, MOST, ENOUGH_S = 4, 16, 0.1  # turns, of which the first one warms up, and seconds after which there are enough
LEAST_MFLOP = 5.0  # of smaller products casts cost more than bfloat16 wins, eager and compiled


class Precision(NamedTuple):
    """Whether a run's products are bfloat16; `is_chosen` where the device decided and not the user."""

    bf16: bool
    is_chosen: bool = False

    def suits(self, learner: nn.Module, batch: Any) -> bool:
        """Whether a learner's updates are to use bfloat16: what the user said, or what is faster for its products."""
        if not (self.bf16 and self.is_chosen) or next(learner.parameters()).is_cuda:
            return self.bf16
        return largest_product(learner, batch) >= LEAST_MFLOP

    def __str__(self) -> str:
        if not self.bf16:
            return "float32"
        small = ", small networks in float32" if self.is_chosen else ""
        return f"bfloat16 products, float32 weights{small}"


FLOAT32 = Precision(False)


def choose_precision(setting: bool | str, device: torch.device) -> Precision:
    """What `bf16` says; with `auto` bfloat16 where this device is faster at it. Raises UserError."""
    if isinstance(setting, bool):
        return Precision(setting)
    if setting != "auto":
        raise UserError(f"bf16={setting}: it is true, false or auto")
    return Precision(is_fast_at_bf16(device), is_chosen=True)


def is_fast_at_bf16(device: torch.device) -> bool:
    """Whether bfloat16 products are worth it: on a GPU that has them, and on a processor that is faster by GAIN."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and bf16_gain() >= GAIN


@cache
def bf16_gain() -> float:
    """How many times as fast as in float32 this processor multiplies in bfloat16, casts included, on one thread.

    The smallest times of alternating products count: a loaded host makes some slower and none faster. With more threads
    one that waits for its core would hold up the others.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _measure_gain()
    finally:
        torch.set_num_threads(threads)


def _measure_gain() -> float:
    a, b = torch.ones(SIZE, SIZE), torch.ones(SIZE, SIZE)

    def in_bf16() -> Tensor:
        return torch.mm(a.bfloat16(), b.bfloat16()).float()

    sides: list[Callable[[], Tensor]] = [lambda: torch.mm(a, b), in_bf16]
    began, times = time.perf_counter(), []
    while len(times) < LEAST or (len(times) < MOST and time.perf_counter() - began < ENOUGH_S):
        times.append([_time(run) for run in sides])
    float32, bfloat16 = map(min, zip(*times[1:], strict=True))
    return float32 / bfloat16


def _time(run: Callable[[], Any]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def largest_product(learner: nn.Module, batch: Any) -> float:
    """MFLOP of the product of a batch's rows with the learner's largest matrix; an ensemble's are one.

    Computed from sizes alone, so that the same run always decides the same.
    """
    rows = [x.shape[:-1].numel() for x in tree_leaves(batch) if x.is_floating_point()]
    matrices = [p.numel() for p in learner.parameters() if p.ndim > 1]
    return 2e-6 * max(rows, default=0) * max(matrices, default=0)

"""Several processes that train one learner, each on its share of every batch: `torchrun --nproc-per-node 4 train.py …`.

All hold the same data, parameters and random numbers; only gradients and what losses say of a whole batch are averaged.
So the result is that of one process with the same batch, up to rounding; a checkpoint fits any number of processes;
dropout repeats itself in each share. The first process alone asks, writes, prints and evaluates.
"""

import os
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._pytree import tree_map

from pbrl.types import UserError

T = TypeVar("T")
PATIENCE = timedelta(hours=24)  # people answer, and the first process evaluates, while the others wait


def count() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def first() -> bool:
    """Whether this process is the one that speaks."""
    return os.environ.get("RANK", "0") == "0"


def begin(device: torch.device) -> torch.device:
    """Finds the others, where `torchrun` has started any; returns the device of this process."""
    if count() > 1 and device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    if device.index is not None and device.type == "cuda":
        torch.cuda.set_device(device)  # streams and graphs are of the current one
    if count() == 1:
        return device
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    if not first():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    return device


def end() -> None:
    """Leaves the others."""
    if dist.is_initialized():
        dist.destroy_process_group()


def averaged(x: Tensor) -> Tensor:
    """The mean over processes, without gradient."""
    if count() == 1:
        return x.detach()
    total = x.detach().clone()
    dist.all_reduce(total)
    return total / count()


def share(batch: Any) -> Any:
    """This process's part of a batch of tensors [B, …]."""
    if count() == 1:
        return batch
    return tree_map(lambda x: x[int(os.environ["RANK"]) :: count()], batch)


def check_size(size: int) -> None:
    """Raises UserError where a batch cannot be shared evenly."""
    if size % count():
        raise UserError(
            f"batches of {size} cannot be shared by {count()} processes: choose another batch_size or number"
        )


def told_by_first(tell: Callable[[], T]) -> T:
    """What the first process finds; the others wait for it. Where it fails, all do."""
    if count() == 1:
        return tell()
    told: list[Any] = [None, None]
    if first():
        try:
            told[0] = tell()
        except Exception as error:
            told[1] = error
    dist.broadcast_object_list(told)
    if told[1] is not None:
        raise told[1]
    return told[0]


def after_first(make: Callable[[], T]) -> T:
    """What each process makes, once the first one has and left on the disk what the others then find."""
    mine: list[T] = []
    told_by_first(lambda: mine.append(make()))
    return mine[0] if mine else make()

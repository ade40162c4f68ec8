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
from torch.utils._pytree import tree_leaves, tree_map

from pbrl.types import UserError

T = TypeVar("T")
PATIENCE = timedelta(hours=24)  # people answer, and the first process evaluates, while the others wait


def world_size() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_rank_0() -> bool:
    """Whether this process asks, writes, prints and evaluates."""
    return os.environ.get("RANK", "0") == "0"


def begin(device: torch.device) -> torch.device:
    """Finds the others, where `torchrun` has started any; returns the device of this process."""
    if world_size() > 1 and device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    if device.index is not None and device.type == "cuda":
        torch.cuda.set_device(device)  # streams and graphs are of the current one
    if world_size() == 1:
        return device
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    if not is_rank_0():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    return device


def end() -> None:
    """Leaves the others."""
    if dist.is_initialized():
        dist.destroy_process_group()


def all_reduce_mean(x: Tensor) -> Tensor:
    """The mean over processes, without gradient."""
    if world_size() == 1:
        return x.detach()
    total = x.detach().clone()
    dist.all_reduce(total)
    return total / world_size()


def share(batch: Any) -> Any:
    """This process's part of a batch of tensors [B, …]. Raises UserError where it cannot be shared evenly."""
    if world_size() == 1:
        return batch
    for size in {len(x) for x in tree_leaves(batch)}:
        check_size(size)
    return tree_map(lambda x: x[int(os.environ["RANK"]) :: world_size()], batch)


def check_size(size: int) -> None:
    """Raises UserError where a batch cannot be shared evenly."""
    if size % world_size():
        raise UserError(
            f"batches of {size} cannot be shared by {world_size()} processes: choose another batch_size or number"
        )


def from_rank_0(find: Callable[[], T]) -> T:
    """What rank 0 finds; the other ranks wait for it. Where it fails, all do."""
    if world_size() == 1:
        return find()
    found: list[Any] = [None, None]
    if is_rank_0():
        try:
            found[0] = find()
        except Exception as error:
            found[1] = error
    dist.broadcast_object_list(found)
    if found[1] is not None:
        raise found[1]
    return found[0]


def on_rank_0(do: Callable[[], Any]) -> None:
    """Has rank 0 do something, whose outcome stays there; the other ranks wait for it. Where it fails, all do."""

    def do_it() -> None:
        do()

    from_rank_0(do_it)


def after_rank_0(make: Callable[[], T]) -> T:
    """What each rank makes, once rank 0 has and left on the disk what the others then find."""
    mine: list[T] = []
    from_rank_0(lambda: mine.append(make()))
    return mine[0] if mine else make()

"""How an update runs: eagerly, compiled into one graph, or replayed as a CUDA graph."""

import os
import shutil
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from pbrl.parallel import averaged
from pbrl.types import Metrics, UserError

WORTH_COMPILING = 1500  # updates; compiling takes 5 to 20 s and halves the time of an update
WARM_UP = 3  # updates before a CUDA graph is captured


def pick_device(name: str) -> torch.device:
    """auto: a GPU if there is one. Raises UserError when a GPU is asked for and none is there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(
            f"device={name}, but PyTorch {torch.__version__} finds no GPU here: use device=cpu or device=auto"
        )
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise UserError(f"device={name} is no device: use auto, cpu or cuda") from error


def wants_compile(setting: str, updates: int) -> bool:
    """Whether to compile: `auto` does when there are enough updates to pay for it and a compiler to do it with."""
    if setting not in ("auto", "always", "never"):
        raise UserError(f"compile={setting}: it is auto, always or never")
    if setting == "never" or (setting == "auto" and updates < WORTH_COMPILING):
        return False
    return has_compiler()


@cache
def has_compiler() -> bool:
    """Whether a C++ compiler is found; says once if not."""
    if any(shutil.which(name) for name in (os.environ.get("CXX", ""), "c++", "g++", "clang++") if name):
        return True
    print("no C++ compiler was found: updates run eagerly, which is slower (`apt-get install g++` to speed up)")
    return False


class Engine:
    """Runs a learner's updates on `device`, with bf16 matrix products if `bf16`."""

    def __init__(self, device: torch.device, *, compile: bool, bf16: bool):
        self.device, self.compile, self.bf16 = device, compile, bf16

    def prepare(self, update: Callable[[Any], Metrics]) -> Callable[[Any], Metrics]:
        """The update, ready to be called many times. Every call returns tensors that stay as they are."""

        def precise(batch: Any) -> Metrics:
            if not self.bf16:
                return update(batch)
            # uncached: networks move within an update, and what comes after must see their new weights
            with torch.autocast(self.device.type, torch.bfloat16, cache_enabled=False):
                return update(batch)

        if not self.compile or getattr(getattr(update, "__self__", None), "eager", False):
            return precise
        from torch import _dynamo  # takes a second, which short runs need not spend

        _dynamo.config.trace_autograd_ops = True
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path.home() / ".cache" / "pbrl" / "inductor"))
        compiled = torch.compile(precise, fullgraph=True, dynamic=False)
        return CudaGraph(compiled) if self.device.type == "cuda" else compiled


class CudaGraph:
    """Captures an update after a few ordinary ones and replays it on a copy of each batch."""

    def __init__(self, update: Callable[[Any], Metrics]):
        self.update, self.calls = update, 0

    def __call__(self, batch: Any) -> Metrics:
        self.calls += 1
        if self.calls <= WARM_UP:
            return self._aside(batch)
        if self.calls == WARM_UP + 1:
            self.batch = tree_map(torch.clone, batch)
            self.graph = torch.cuda.CUDAGraph()
            with warnings.catch_warnings(), torch.cuda.graph(self.graph):
                self.metrics = self.update(self.batch)
        else:
            tree_map(lambda ours, new: ours.copy_(new), self.batch, batch)
        self.graph.replay()
        return {name: value.clone() for name, value in self.metrics.items()}

    def _aside(self, batch: Any) -> Metrics:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            metrics = self.update(batch)
        torch.cuda.current_stream().wait_stream(stream)
        return metrics


class Mean:
    """Running means of metrics over updates and processes, kept on the device; `read` empties it."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.count = 0

    def add(self, metrics: Metrics) -> None:
        for name, value in metrics.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.count += 1

    def read(self) -> Metrics:
        means = {name: averaged(total / self.count) for name, total in self.sums.items()}
        self.sums, self.count = {}, 0
        return means

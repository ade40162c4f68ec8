"""How an update runs: eagerly, compiled into one graph, or replayed as a CUDA graph."""

import os
import shutil
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from pbrl.distributed import all_reduce_mean
from pbrl.training.vmap import LearnerStack
from pbrl.types import Metrics, Phase, Update, UserError

WORTH_COMPILING = 1500  # updates; compiling takes 5 to 20 s and halves the time of an update
WARM_UP = 3  # updates before a CUDA graph is captured
AT_ONCE = 25  # updates of one CUDA graph: a quarter of what lies between two lines of the log


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


def learner_of(phase: Phase) -> nn.Module:
    """The learner whose method the phase's update is."""
    return phase.update.__self__  # type: ignore[attr-defined]


class Engine:
    """Runs learners' updates on `device`, with bf16 matrix products if `bf16`."""

    def __init__(self, device: torch.device, *, compile: bool, bf16: bool):
        self.device, self.compile, self.bf16 = device, compile, bf16

    def prepare(self, phase: Phase) -> Update:
        """The phase's update, ready to be called many times."""
        return self._compile(self._autocast(phase.update), phase.compiles)

    def prepare_stack(self, stack: LearnerStack, phase: Phase, batch: Any) -> Update:
        """The same of several seeds of a learner: a batch of [S, …] as `batch` is → metrics of [S]."""
        method = phase.update.__func__  # type: ignore[attr-defined]  # an update is a method of its learner

        def update(learner: nn.Module, batch: Any) -> Metrics:
            return self._autocast(MethodType(method, learner))(batch)

        return self._compile(stack.update(update, batch), phase.compiles)

    def repeat(
        self, draw: Callable[[], Any], update: Update, generators: Sequence[torch.Generator]
    ) -> "Updates | CapturedUpdates":
        """Draws and updates, for as long as is asked. `generators` are what `draw` takes its random numbers from."""
        if self.compile and self.device.type == "cuda":
            return CapturedUpdates(draw, update, [g for g in generators if g.device.type == "cuda"])
        return Updates(draw, update)

    def _autocast(self, update: Update) -> Update:
        def in_bf16(batch: Any) -> Metrics:
            # uncached: networks move within an update, and what comes after must see their new weights
            with torch.autocast(self.device.type, torch.bfloat16, cache_enabled=False):
                return update(batch)

        return in_bf16 if self.bf16 else update

    def _compile(self, update: Update, compiles: bool) -> Update:
        if not (self.compile and compiles):
            return update
        from torch import _dynamo  # takes a second, which short runs need not spend

        _dynamo.config.trace_autograd_ops = True
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path.home() / ".cache" / "pbrl" / "inductor"))
        # PyTorch's random numbers cost a CPU less than Inductor's
        return torch.compile(
            update, fullgraph=True, dynamic=False, options={"fallback_random": self.device.type == "cpu"}
        )


class Updates:
    """Update after update, each with a batch drawn for it."""

    def __init__(self, draw: Callable[[], Any], update: Update):
        self.draw, self.update = draw, update
        self.mean, self.count = Mean(), 0

    def run(self, most: int) -> int:
        """Makes at least one update and at most `most`; returns how many."""
        count = self._run_some(most)
        self.count += count
        return count

    def read(self) -> Metrics:
        """Mean metrics of the updates since this was last called."""
        count, self.count = self.count, 0
        return self.mean.read(count)

    def state_dict(self) -> dict[str, Any]:
        """Sums of metrics since they were last read, and of how many updates."""
        return {"sums": dict(self.mean.sums), "count": self.count}

    def go_on_from(self, state: dict[str, Any]) -> None:
        """Adds to such sums, if there are any."""
        if state:
            self.mean.sums, self.count = dict(state["sums"]), state["count"]

    def forget(self) -> None:
        """To be called when what is drawn from has changed."""

    def _run_some(self, most: int) -> int:
        self.mean.add(self.update(self.draw()))
        return 1


class CapturedUpdates(Updates):
    """The same as CUDA graphs: after a few ordinary updates, AT_ONCE of them, drawing included, are one launch.

    Where what is drawn from lies on the host (`generators` is then empty), each batch is copied into the graph's.
    """

    def __init__(self, draw: Callable[[], Any], update: Update, generators: Sequence[torch.Generator]):
        super().__init__(draw, update)
        self.generators, self.warm, self.batch = generators, 0, None
        self.stream = None
        self.graphs: dict[int, torch.cuda.CUDAGraph] = {}

    def forget(self) -> None:
        if self.generators:
            self.graphs = {}

    def _run_some(self, most: int) -> int:
        if self.warm < WARM_UP:
            self.warm += 1
            return self._run_on_side_stream(most)
        if not self.generators:
            self._feed()
        count = AT_ONCE if self.generators and most >= AT_ONCE else 1
        if count not in self.graphs:
            self.graphs[count] = self._capture(count)
        self.graphs[count].replay()
        return count

    def _run_on_side_stream(self, most: int) -> int:
        self.stream = self.stream or torch.cuda.Stream()
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            count = super()._run_some(most)
        torch.cuda.current_stream().wait_stream(self.stream)
        return count

    def _feed(self) -> None:
        batch = self.draw()
        if self.batch is None:
            self.batch = tree_map(torch.clone, batch)
        else:
            tree_map(lambda ours, new: ours.copy_(new, non_blocking=True), self.batch, batch)

    def _capture(self, count: int) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        for generator in self.generators:
            graph.register_generator_state(generator)
        # other threads, of NCCL or of pinned memory, may call CUDA meanwhile
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            for _ in range(count):
                self.mean.add(self.update(self.draw() if self.generators else self.batch))
        return graph


class Mean:
    """Sums of metrics, kept on the device."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}

    def add(self, metrics: Metrics) -> None:
        """Adds an update's metrics to the sums, in place."""
        for name, value in metrics.items():
            if name not in self.sums:
                self.sums[name] = torch.zeros_like(value)
            self.sums[name].add_(value)  # in place, as a CUDA graph needs it

    def read(self, count: int) -> Metrics:
        """The means over `count` updates and over processes; empties the sums."""
        means = {name: all_reduce_mean(total / count) for name, total in self.sums.items()}
        for total in self.sums.values():
            total.zero_()
        return means

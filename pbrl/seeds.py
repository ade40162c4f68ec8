"""The seeds of a run: what each has for itself, and several of a learner as one.

Updates are written for one learner. For several one is traced, its gradients included, into plain tensor operations,
which `torch.vmap` gives a leading axis. What each learner holds becomes a view of the shared tensors, so that it is
still evaluated, saved and loaded by itself.
"""

import copy
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_map

from pbrl.log import Log
from pbrl.preferences import Preferences
from pbrl.table import Table
from pbrl.types import PairsAndSteps, PairsAndUnasked, PreferenceBatch, Transitions, Update, UserError, Windows

aten = torch.ops.aten
OTHERWISE = {aten.lerp_.Scalar: lambda x, end, weight: x.add_((end - x) * weight)}  # what `vmap` cannot do at once


class Seed:
    """What each seed of a run has for itself: learners, batches, its view of the table, a log and a folder."""

    def __init__(self, number: int, folder: Path, table: Table, algo: Any, reward: Any, log: Log):
        self.number, self.folder, self.table = number, folder, table
        self.algo, self.reward, self.log = algo, reward, log
        self.sampling = torch.Generator(table.device).manual_seed(number)  # which batches
        self.rows = algo.rows(table) if hasattr(algo, "rows") else table.rows
        self.evaluations: list[dict[str, Any]] = []

    def draw(self, learner: Any, preferences: Preferences | None) -> Any:
        """A batch of what the learner eats. Raises UserError."""
        size, table, sampling = learner.batch_size, self.table, self.sampling
        if learner.batch is Transitions:
            return table.transitions(self._rows(size))
        if learner.batch is Windows:
            return table.windows(self._rows(size), learner.context)
        if preferences is None:
            raise UserError(f"{type(learner).__name__} learns from answers: choose a teacher with feedback=…")
        if learner.batch is PreferenceBatch:
            segments = getattr(learner, "segments", 2)
            if self.reward is None or learner is self.reward:
                return preferences.sample(size, sampling, segments)
            return preferences.sample_judged(table.learned, size, sampling, segments)
        if learner.batch is PairsAndUnasked:
            return PairsAndUnasked(
                preferences.sample(size, sampling), preferences.sample_unasked(learner.unasked_batch_size, sampling)
            )
        if learner.batch is PairsAndSteps:
            return PairsAndSteps(
                preferences.sample(size, sampling), table.transitions(self._rows(learner.step_batch_size))
            )
        raise UserError(f"{type(learner).__name__} eats {learner.batch}, which this loop does not serve")

    def _rows(self, count: int) -> torch.Tensor:
        device = self.rows.device
        return self.rows[torch.randint(len(self.rows), (count,), generator=self.sampling, device=device)]

    def state_dict(self) -> dict[str, Any]:
        return {
            "algo": self.algo.state_dict(),
            "reward": None if self.reward is None else self.reward.state_dict(),
            "learned": None if self.reward is None else self.table.learned,
            "sampling": self.sampling.get_state(),
            "log": self.log.position(),
            "evaluations": self.evaluations,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.algo.load_state_dict(state["algo"])
        if self.reward is not None:
            self.reward.load_state_dict(state["reward"])
        if state["learned"] is not None:
            self.table.learned = state["learned"].to(self.table.device)
        sampling = state["sampling"].cpu()
        if len(sampling) != len(self.sampling.get_state()):
            raise UserError(
                "a GPU draws other batches than the host, and this run began on the other one: go on with it there, or "
                "choose another run folder with run=…"
            )
        self.sampling.set_state(sampling)
        self.log.rewind(state["log"])
        self.evaluations = state["evaluations"]

    def best_is_last(self) -> bool:
        """Whether no policy before did better than the one evaluated last."""
        scores = [
            e["success"] if e["success"] is not None else e["return_mean"]
            for e in self.evaluations
            if e["phase"] == "policy"
        ]
        return scores[-1] > max(scores[:-1], default=-math.inf)

    def summary(self) -> dict[str, Any]:
        """The last, best and running maximum (of means of up to 8 evaluations), and the clone's if there is one."""
        policy = [e for e in self.evaluations if e["phase"] == "policy"]
        clone = [e for e in self.evaluations if e["phase"] == "pretrain"]
        if not policy:
            return {}
        measure = "return_mean" if policy[-1]["success"] is None else "success"
        scores = [e[measure] for e in policy]
        windows = [scores[max(0, i - 8) : i] for i in range(min(8, len(scores)), len(scores) + 1)]
        return {
            "measure": measure,
            "last": policy[-1],
            "best": max(policy, key=lambda e: e[measure]),
            "running_max": max(sum(w) / len(w) for w in windows),
            "clone": clone[-1] if clone else None,
        }


class Together:
    """Learners of one kind, which differ in numbers alone; random numbers differ between them."""

    def __init__(self, learners: Sequence[nn.Module]):
        self.learners = learners
        self.held = share(learners)

    def update(self, update_of: Callable[[nn.Module], Update], batch: Any) -> Update:
        """An update of all at once: a batch of [S, …] → metrics of [S]. `batch` is one of them, for its shapes."""
        from torch.fx.experimental.proxy_tensor import make_fx  # takes a second, which runs of one seed need not spend

        example = copy.deepcopy(self.learners[0])  # tracing an update makes it
        one = tree_map(lambda x: x[0], batch)
        gpus = range(torch.cuda.device_count())
        with torch.random.fork_rng(gpus), sdpa_kernel(SDPBackend.MATH):  # attention in operations that have a `vmap`
            traced = make_fx(lambda _, batch: update_of(example)(batch), OTHERWISE)(tensors(example), one)
        for node in traced.graph.nodes:
            if node.target in (aten.view.default, aten._unsafe_view.default):
                node.target = aten.reshape.default  # with one axis more it may not be a view
        traced.recompile()
        batched = torch.vmap(traced, randomness="different")
        return lambda batch: batched(self.held, batch)


def share(learners: Sequence[nn.Module]) -> dict[str, Tensor]:
    """Moves what the learners hold into tensors [S, …], by name, of which theirs become views."""
    every = [tensors(learner) for learner in learners]
    shared = {name: torch.stack([own[name].data for own in every]) for name in every[0]}
    for i, own in enumerate(every):
        for name, tensor in own.items():
            tensor.data = shared[name][i]
    return shared


def tensors(learner: nn.Module) -> dict[str, Tensor]:
    return {**dict(learner.named_parameters()), **dict(learner.named_buffers())}

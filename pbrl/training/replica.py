"""What each seed of a run has for itself: learners, batches, its view of the table, a log and a folder."""

import math
from pathlib import Path
from typing import Any

import torch

from pbrl.data.table import Table
from pbrl.training.batches import Preferences
from pbrl.training.log import Log
from pbrl.types import PairsAndSteps, PairsAndUnasked, PreferenceBatch, Transitions, UserError, Windows


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

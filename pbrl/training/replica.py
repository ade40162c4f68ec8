"""What each seed of a run has for itself: learners, batches, its view of the table, a log and a folder."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pbrl import distributed
from pbrl.data.table import Table
from pbrl.feedback.labels import Labels
from pbrl.training.batches import Data
from pbrl.training.log import Log
from pbrl.types import Algorithm, Episode, RewardModel, UserError


class Replica:
    """One seed of a run. `data` is what its algorithm draws from, and its reward model.

    `show` makes the pictures of new episodes that the reward model looks at; None: it looks at none.
    """

    def __init__(
        self,
        seed: int,
        folder: Path,
        table: Table,
        algo: Algorithm,
        reward: RewardModel | None,
        log: Log,
        *,
        length: int = 1,
        held_out: float = 0.0,
        show: Callable[[Sequence[Episode]], np.ndarray | None] = lambda episodes: None,
    ):
        self.show = show
        self.seed, self.folder, self.table = seed, folder, table
        self.algo, self.reward, self.log = algo, reward, log
        self.generator = torch.Generator(table.device).manual_seed(seed)  # which batches
        self.data = Data(table, self.generator, length=length, held_out=held_out)
        self.evaluations: list[dict[str, Any]] = []

    def set_labels(self, labels: Labels) -> None:
        """Trains on these labels from now on."""
        self.data.set_labels(labels)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds: networks, learned rewards, random state, the log's position and the evaluations."""
        return {
            "algo": self.algo.state_dict(),
            "reward": None if self.reward is None else self.reward.state_dict(),
            "labels": {} if self.reward is None else self._learnt_labels(self.reward.gives),
            "generator": self.generator.get_state(),
            "log": self.log.position(),
            "evaluations": self.evaluations,
        }

    def _learnt_labels(self, name: str) -> dict[str, Tensor]:
        """The label that the reward model gave, once it has."""
        return {name: self.table.labels[name]} if name in self.table.labels else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from there. Raises UserError where another device drew the batches."""
        self.algo.load_state_dict(state["algo"])
        if self.reward is not None:
            self.reward.load_state_dict(state["reward"])
        for name, values in state["labels"].items():
            if len(values) == self.table.row_count:  # else the data set has grown, and the reward model labels it anew
                self.table.set_label(name, values)
        self.generator.set_state(self._check_generator(state["generator"].cpu()))
        if distributed.is_rank_0():  # the others' logs are of no run
            self.log.rewind(state["log"])
        self.evaluations = state["evaluations"]

    def _check_generator(self, generator: Tensor) -> Tensor:
        if len(generator) != len(self.generator.get_state()):
            raise UserError(
                "a GPU draws other batches than the host, and this run began on the other one: go on with it there, or "
                "choose another run folder with run=…"
            )
        return generator

    def is_last_best(self) -> bool:
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

"""Answers as tensors: what learners draw their batches from, and what is held out to judge a reward model by.

Three kinds of answer become pairs. A comparison is one pair. A rating gives its segment a score, and pairs are drawn
anew from all scored segments in each batch ("dense" in CPL, arXiv:2310.13639). A ranking does so within each list.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from pbrl.table import Table
from pbrl.types import PreferenceBatch, RewardModel, UserError


class Answers(NamedTuple):
    """Q answers: starts [Q, k], label [Q] (P(second preferred), score or rank) and group [Q], the list it is of."""

    starts: Tensor
    label: Tensor
    group: Tensor

    def plus(self, more: list[Tensor]) -> "Answers":
        return Answers(*(torch.cat(pair) for pair in zip(self, more, strict=True)))


class Preferences:
    """Grows by `add`; a fixed share of what is added is held out, chosen by `seed` and by the order of arrival."""

    def __init__(self, table: Table, *, kind: str, length: int, held_out: float, seed: int):
        self.table, self.kind, self.length, self.held_out = table, kind, length, held_out
        self.width = {"pair": 2, "rating": 1, "ranking": 1}[kind]
        self.random = np.random.default_rng([seed, 7])
        self.places: Tensor | None = None  # where a segment may start
        self.lists = 0
        none, index = torch.zeros(0, device=table.device), torch.zeros(0, dtype=torch.long, device=table.device)
        self.train = Answers(index.reshape(0, self.width), none, index)
        self.test = self.train

    def add(self, starts: np.ndarray, label: np.ndarray) -> None:
        """starts [Q, 2] and P(second preferred) [Q], or starts [Q, 1] and scores [Q]; of a ranking, one whole list."""
        test = np.zeros(len(label), bool)
        test[self.random.permutation(len(label))[: int(self.held_out * len(label))]] = True
        group = np.full(len(label), self.lists if self.kind == "ranking" else 0)
        self.lists += 1
        new = [torch.from_numpy(x).to(self.table.device) for x in (starts, label.astype(np.float32), group)]
        self.train = self.train.plus([x[torch.from_numpy(~test)] for x in new])
        self.test = self.test.plus([x[torch.from_numpy(test)] for x in new])

    def state_dict(self) -> dict[str, Any]:
        kept = {"train": tuple(self.train), "test": tuple(self.test), "lists": self.lists}
        return {**kept, "random": self.random.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in ("train", "test"):
            setattr(self, name, Answers(*(x.to(self.table.device) for x in state[name])))
        self.lists, self.random.bit_generator.state = state["lists"], state["random"]

    def __len__(self) -> int:
        return len(self.train.label)

    def sample(self, size: int, generator: torch.Generator) -> PreferenceBatch:
        """A batch of pairs, drawn on the device. Raises UserError when there is nothing to draw from."""
        if len(self) < 3 - self.width:
            raise UserError("there are no usable answers to learn from: every question was skipped")
        return self._batch(*self._pairs(self.train, size, generator))

    def sample_judged(self, size: int, generator: torch.Generator) -> PreferenceBatch:
        """Pairs of any segments in the data, the one with more of the table's learnt reward being preferred.

        That is how DPPO makes answers for all data of a few, An et al. 2023, arXiv:2301.12842.
        """
        if self.places is None:
            self.places = self.table.segment_starts(self.length)
        pick = torch.randint(len(self.places), (size, 2), generator=generator, device=self.table.device)
        starts = self.places[pick]
        earned = self.table.learned[self.table.segments(starts, self.length)].sum(-1)
        return self._batch(starts, 0.5 * (1 + torch.sign(earned[:, 1] - earned[:, 0])))

    def _pairs(self, answers: "Answers", size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        starts, label, group = answers
        n, device = len(label), self.table.device
        first = torch.randint(n, (size,), generator=generator, device=device)
        if self.kind == "pair":
            return starts[first], label[first]
        ends = torch.searchsorted(group, group[first], right=True)  # lists lie one after the other
        begins = torch.searchsorted(group, group[first])
        others = ends - begins - 1
        ahead = (torch.rand(size, generator=generator, device=device) * others).long()
        ahead = 1 + torch.minimum(ahead, others - 1)  # a product may round up
        second = begins + (first - begins + ahead) % (others + 1)  # another one of the same list
        pair = torch.stack([first, second], 1)
        return starts[pair, 0], 0.5 * (1 + torch.sign(label[second] - label[first]))

    def _batch(self, starts: Tensor, label: Tensor) -> PreferenceBatch:
        rows = self.table.segments(starts, self.length)  # [B, 2, L]
        return PreferenceBatch(self.table.obs[rows], self.table.action[rows], label)

    @torch.no_grad()
    def judge(self, model: RewardModel) -> dict[str, float]:
        """How well a reward model (its members' mean) does on answers it was not trained on.

        `held_out_accuracy` is over held-out answers that are no ties; `calibration_error` is how far the probability it
        gives lies from the share of such answers, in ten equal bins, weighted (Guo et al. 2017, arXiv:1706.04599);
        `rank_correlation` is Spearman's, between score and true return of the held-out segments.
        """
        if len(self.test.label) < 2:
            return {}
        generator = torch.Generator(self.table.device).manual_seed(0)
        starts, label, _ = self.test
        if self.kind != "pair":
            starts, label = self._pairs(self.test, 1000, generator)
        scores = model.score(*self._batch(starts, label)[:2]).mean(0)  # [B, 2]
        true = self.table.reward[self.table.segments(starts, self.length)].sum(-1)
        clear = label != 0.5
        correct = ((scores[:, 1] > scores[:, 0]) == (label > 0.5))[clear]
        probability = torch.sigmoid(scores[:, 1] - scores[:, 0])
        bins = (probability * 10).long().clamp(max=9)
        gap = torch.zeros(10, device=label.device).index_add_(0, bins, probability - label)
        rank = float(spearmanr(scores.flatten().cpu(), true.flatten().cpu())[0])  # type: ignore[arg-type]
        return {
            "held_out_accuracy": correct.float().mean().item() if len(correct) else float("nan"),
            "calibration_error": (gap.abs().sum() / len(label)).item(),
            "rank_correlation": float(rank),
        }

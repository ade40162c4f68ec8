"""Answers as tensors: what learners draw their batches from, and what is held out to judge a reward model by.

Four kinds of answer become pairs. A comparison is one pair. A rating gives its segment a score, and pairs are drawn
anew from all scored segments in each batch ("dense" in CPL, arXiv:2310.13639). A ranking does so within each list.
Spans that were marked as good or bad are segments rated 1 or 0. From ratings and rankings, lists of more than two
segments are drawn in the same way. For what learns from segments one by one, a pair's winner is good and its loser bad,
and so is what lies above or below the mean of its list, or of all ratings.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from pbrl.data.table import Table
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
        self.width = {"pair": 2, "rating": 1, "ranking": 1, "spans": 1}[kind]
        self.random = np.random.default_rng([seed, 7])
        self.places: Tensor | None = None  # where a segment may start
        self.lists = self.shortest = 0
        self.mean = torch.zeros(0, device=table.device)  # label of each list that is trained on, or of all ratings
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
        self._measure()

    def replace(self, starts: np.ndarray, label: np.ndarray, question: np.ndarray) -> None:
        """Forgets all answers and takes these; whether one is held out is up to its question's id alone.

        Of rankings, the clips [Q, 1] of one question are a list, and follow each other.
        """
        chance = np.array([int(str(q)[:8], 16) / 16**8 for q in question])
        test = torch.from_numpy(chance < self.held_out)
        starts = starts.reshape(-1, self.width)
        lists = {q: i for i, q in enumerate(dict.fromkeys(question))} if self.kind == "ranking" else {}
        group = np.array([lists.get(q, 0) for q in question], int)
        new = [torch.from_numpy(x).to(self.table.device) for x in (starts, label.astype(np.float32), group)]
        self.train, self.test = Answers(*(x[~test] for x in new)), Answers(*(x[test] for x in new))
        self.lists = max(1, len(lists))
        self._measure()

    def _measure(self) -> None:
        """How many segments the shortest list holds that is trained on, and each list's mean."""
        label, group = self.train.label.double().cpu(), self.train.group.cpu()
        count = torch.bincount(group, minlength=self.lists)
        self.mean = (torch.bincount(group, label, minlength=self.lists) / count).to(self.table.device)
        self.shortest = int(count[count > 0].min()) if len(self) else 0

    def state_dict(self) -> dict[str, Any]:
        kept = {"train": tuple(self.train), "test": tuple(self.test), "lists": self.lists}
        return {**kept, "random": self.random.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in ("train", "test"):
            setattr(self, name, Answers(*(x.to(self.table.device) for x in state[name])))
        self.lists, self.random.bit_generator.state = state["lists"], state["random"]
        self._measure()

    def __len__(self) -> int:
        return len(self.train.label)

    def sample(self, size: int, generator: torch.Generator, segments: int = 2) -> PreferenceBatch:
        """A batch of pairs, of lists of more `segments`, or of such as are good or bad by themselves (`segments=1`).

        All are drawn on the device. Raises UserError if they cannot be.
        """
        if len(self) < 3 - self.width:
            raise UserError("there are no usable answers to learn from: every question was skipped")
        if segments > 2 and self.shortest < segments:
            raise UserError(
                f"objective.segments={segments}, but a list holds {self.shortest} segments to learn from: lower it, or "
                "ask more (query.count, query.per_list)"
            )
        return self._batch(*self._drawn(self.train, size, generator, segments))

    def sample_judged(
        self, learned: Tensor, size: int, generator: torch.Generator, segments: int = 2
    ) -> PreferenceBatch:
        """The same of any segments in the data, the one with more of the `learned` reward [R] being preferred.

        That is how DPPO makes answers for all data of a few, An et al. 2023, arXiv:2301.12842.
        """
        starts = self._anywhere(size, generator, max(segments, 2))
        worth = learned[self.table.segments(starts, self.length)].sum(-1)
        return self._batch(starts, told(worth, segments, self.length * learned.mean()))

    def sample_unasked(self, size: int, generator: torch.Generator) -> PreferenceBatch:
        """Pairs of any segments in the data, which nobody has judged: their label is a tie."""
        starts = self._anywhere(size, generator, 2)
        return self._batch(starts, torch.full((size,), 0.5, device=self.table.device))

    def _anywhere(self, size: int, generator: torch.Generator, segments: int) -> Tensor:
        """Starts [size, segments] of segments from all over the data."""
        if self.places is None:
            self.places = self.table.segment_starts(self.length)
        pick = torch.randint(len(self.places), (size, segments), generator=generator, device=self.table.device)
        return self.places[pick]

    def _drawn(
        self, answers: "Answers", size: int, generator: torch.Generator, segments: int = 2
    ) -> tuple[Tensor, Tensor]:
        """Starts [size, 2 or segments] of distinct segments of one list each, or of one pair, and what is told of them.

        `segments=1` is for training answers alone.
        """
        starts, label, group = answers
        n, device = len(label), self.table.device
        first = torch.randint(n, (size,), generator=generator, device=device)
        if self.kind == "pair":
            chosen = label[first]
            return starts[first], torch.stack([1 - chosen, chosen], 1) if segments == 1 else chosen
        ends = torch.searchsorted(group, group[first], right=True)  # lists lie one after the other
        begins = torch.searchsorted(group, group[first])
        length = ends - begins
        steps: list[Tensor] = [torch.zeros_like(first)]  # ahead of the first, around the list
        for taken in range(1, max(segments, 2)):
            left = length - taken
            step = (torch.rand(size, generator=generator, device=device) * left).long()
            step = torch.minimum(step, left - 1)  # a product may round up
            for other in torch.stack(steps).sort(0).values:  # counts those not taken yet
                step = step + (step >= other)
            steps.append(step)
        drawn = begins + (first - begins + torch.stack(steps)) % length
        drawn = drawn.T  # [B, K]
        middle = self.mean[group[first]][:, None] if segments == 1 else 0.0
        return starts[drawn, 0], told(label[drawn], segments, middle)

    def _batch(self, starts: Tensor, label: Tensor) -> PreferenceBatch:
        rows = self.table.segments(starts, self.length)  # [B, 2, L]
        return self.table.near(PreferenceBatch(self.table.seen(rows), self.table.action[rows], label))

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
            starts, label = self._drawn(self.test, 1000, generator)
        scores = model.score(*self._batch(starts, label)[:2]).mean(0).to(self.table.device)  # [B, 2]
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


def told(worth: Tensor, segments: int, middle: Tensor | float) -> Tensor:
    """What a learner that compares so many segments is told of them, which are worth [B, K].

    Of pairs P(second preferred) [B], of lists what each is worth. With `segments=1` whether each is good [B, K]: worth
    more than the `middle` (1), less (0) or as much (0.5).
    """
    if segments > 2:
        return worth
    return 0.5 * (1 + torch.sign(worth - middle if segments == 1 else worth[:, 1] - worth[:, 0])).float()

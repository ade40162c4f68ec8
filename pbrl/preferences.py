"""Answers as tensors: what learners draw their batches from, and what is held out to judge a reward model by.

Two kinds of answer become pairs. A comparison is one pair. A rating gives its segment a score, and pairs are drawn anew
from all scored segments in each batch ("dense" in CPL, arXiv:2310.13639).
"""

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from pbrl.table import Table
from pbrl.types import PreferenceBatch, RewardModel, UserError


class Preferences:
    """Grows by `add`; a fixed share of what is added is held out, chosen by `seed` and by the order of arrival."""

    def __init__(self, table: Table, *, kind: str, length: int, held_out: float, seed: int):
        self.table, self.kind, self.length, self.held_out = table, kind, length, held_out
        self.width = {"pair": 2, "rating": 1}[kind]
        self.random = np.random.default_rng([seed, 7])
        self.places: Tensor | None = None  # where a segment may start
        none = torch.zeros(0, self.width, dtype=torch.long, device=table.device)
        self.train_starts, self.train_label = none, torch.zeros(0, device=table.device)
        self.test_starts, self.test_label = none, torch.zeros(0, device=table.device)

    def add(self, starts: np.ndarray, label: np.ndarray) -> None:
        """starts [Q, 2] and P(second preferred) [Q], or starts [Q, 1] and scores [Q]."""
        test = np.zeros(len(label), bool)
        test[self.random.permutation(len(label))[: int(self.held_out * len(label))]] = True
        for name, mask in (("train", ~test), ("test", test)):
            for what, new in (("starts", starts[mask]), ("label", label[mask].astype(np.float32))):
                old = getattr(self, f"{name}_{what}")
                setattr(self, f"{name}_{what}", torch.cat([old, torch.from_numpy(new).to(self.table.device)]))

    def __len__(self) -> int:
        return len(self.train_label)

    def sample(self, size: int, generator: torch.Generator) -> PreferenceBatch:
        """A batch of pairs, drawn on the device. Raises UserError when there is nothing to draw from."""
        if len(self) < 3 - self.width:
            raise UserError(
                "there are no usable answers to learn from: every question was skipped, or query.count is 0"
            )
        return self._batch(*self._pairs(self.train_starts, self.train_label, size, generator))

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

    def _pairs(self, starts: Tensor, label: Tensor, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        n, device = len(label), self.table.device
        if self.kind == "pair":
            pick = torch.randint(n, (size,), generator=generator, device=device)
            return starts[pick], label[pick]
        first = torch.randint(n, (size,), generator=generator, device=device)
        second = (first + 1 + torch.randint(n - 1, (size,), generator=generator, device=device)) % n  # never itself
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
        if len(self.test_label) < 2:
            return {}
        generator = torch.Generator(self.table.device).manual_seed(0)
        starts, label = self.test_starts, self.test_label
        if self.kind == "rating":
            starts, label = self._pairs(starts, label, 1000, generator)
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

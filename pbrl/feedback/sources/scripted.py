"""Scripted teachers: they know the true reward and answer as people might, all questions at once.

The six of B-Pref (Lee et al. 2021, arXiv:2111.03026) are one teacher with its dials turned: perfect (beta = inf),
Boltzmann (beta), myopic (gamma), mistake (epsilon), skip and equal (thresholds). Thresholds are shares of the mean
return of a segment in the data; the released code multiplies by the share twice from its second session on.
A `regret` teacher judges a segment by its advantage under a reference value, as in CPL (arXiv:2310.13639, D.2):
V(end) - V(start) + sum of rewards.
"""

from collections.abc import Callable

import numpy as np
import torch

from pbrl.data.table import Table
from pbrl.types import UserError

SKIP, TIE = "skip", "tie"


class Teacher:
    """Answers pairs with P(second preferred) and single segments with a score.

    `needs_value`: whether `value`, rows [...] → reference values [...], must be given before it is asked.
    """

    author = "scripted"
    value: Callable[[np.ndarray], np.ndarray]

    def __init__(
        self,
        *,
        judge: str,
        discount: float,
        beta: float,
        gamma: float,
        mistake: float,
        skip: float,
        equal: float,
        seed: int,
    ):
        if judge not in ("return", "regret"):
            raise UserError(f"feedback.judge={judge}: a teacher judges by return or by regret")
        for name, value in (("mistake", mistake), ("gamma", gamma)):
            if not 0 <= value <= 1:
                raise UserError(f"feedback.{name} lies in [0, 1], not at {value}")
        if judge == "regret" and not (0 <= discount < 1 and gamma == 1):
            raise UserError("feedback.judge=regret takes feedback.discount in [0, 1) and feedback.gamma=1")
        self.judge, self.discount, self.beta, self.gamma = judge, discount, beta, gamma
        self.mistake, self.skip, self.equal, self.seed = mistake, skip, equal, seed
        self.needs_value = judge == "regret"

    def answer(self, table: Table, starts: torch.Tensor, length: int, *part: int) -> tuple[np.ndarray, np.ndarray]:
        """starts [Q, 2] or [Q, 1] → label [Q] (NaN where skipped) and outcome [Q] of "answer", "tie", "skip".

        Seeded by the teacher's seed and by `part`, the round and perhaps a part of it, so that asking the same again
        gives the same answers.
        """
        random = np.random.default_rng([self.seed, *part])
        score = self.scores(table, starts, length)  # [Q, k]
        outcome = np.full(len(score), "answer", object)
        skipped = self.skips(table, starts, length, score)
        if score.shape[1] == 1:
            outcome[skipped] = SKIP
            return np.where(skipped, np.nan, score[:, 0]), outcome
        gap = score[:, 1] - score[:, 0]
        probability = (
            np.where(gap == 0, 0.5, gap > 0)
            if np.isinf(self.beta)
            else 1 / (1 + np.exp(-np.clip(self.beta * gap, -700, 700)))
        )
        label = (random.random(len(gap)) < probability).astype(np.float64)
        label = np.where(random.random(len(gap)) < self.mistake, 1 - label, label)
        tie = (np.abs(gap) < self.equal * self.scale(table, length)) | (gap == 0)
        label[tie], outcome[tie] = 0.5, TIE
        label[skipped], outcome[skipped] = np.nan, SKIP
        return label, outcome

    def skips(self, table: Table, starts: torch.Tensor, length: int, score: np.ndarray) -> np.ndarray:
        """Which questions [Q] are not worth an answer: all their segments earn less than a share `skip` of the mean.

        A regret teacher asks what the reference earns from their starts instead: where nothing can be won nothing can
        be lost, so hopeless segments have no regret.
        """
        if self.skip <= 0:
            return np.zeros(len(score), bool)
        worth, mean = score, length * float(table.returns.sum() / table.steps.sum())
        if self.judge == "regret":
            worth = self.value(starts.cpu().numpy())
            mean = float(worth.mean())
        if mean <= 0:
            raise UserError(f"feedback.skip is a share of the mean return, and that is not positive here ({mean:.3g})")
        return worth.max(1) < self.skip * mean

    def scores(self, table: Table, starts: torch.Tensor, length: int) -> np.ndarray:
        """What the teacher thinks each segment is worth [Q, k] float64."""
        rows = table.segment_rows(starts, length)
        reward = table.reward[rows].double().cpu().numpy()
        recency = self.gamma ** np.arange(length - 1, -1, -1)  # a myopic teacher remembers the end best
        score = (reward * recency).sum(-1)
        if self.judge == "regret":
            value = self.value(torch.stack([starts, starts + length]).cpu().numpy())
            discounts = self.discount ** np.arange(length)
            alive = 1 - table.done[rows].amax(-1).double().cpu().numpy()  # nothing follows a true terminal
            score = (reward * discounts).sum(-1) + alive * self.discount**length * value[1] - value[0]
        return score

    def scale(self, table: Table, length: int) -> float:
        """The mean return of a segment of this length in the data: what the thresholds are shares of."""
        return abs(float(table.returns.sum() / table.steps.sum())) * length

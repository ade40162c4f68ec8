"""Labels: answers as learners take them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from pbrl.data.table import Table


class Labels(NamedTuple):
    """Q labels of segments of one length."""

    starts: np.ndarray  # [Q, k] int64 rows of the table where segments begin; k = 2: comparisons, 3: triplets, else 1
    value: np.ndarray  # [Q] float64: P(second preferred), a rating, a place in a ranking (higher is better), or 1 / 0;
    # of attributes [Q, M]: P(second has more of it), NaN where the answer leaves it open; of triplets P(the third is
    # more like the first than the second is)
    group: np.ndarray  # [Q] int64: the ranking it belongs to, whose labels follow each other; 0 of other kinds
    rater: np.ndarray  # [Q] int64: place in `raters`; -1 where several raters' answers were aggregated
    confidence: np.ndarray  # [Q] float64: weight of the answer
    question: np.ndarray  # [Q] object: ids of the questions
    raters: tuple[str, ...]
    length: int  # steps of each segment
    kind: str  # pair, rating, ranking, attributes, triplet or spans
    attributes: tuple[str, ...] = ()  # [M] names; of triplets those by which clips are alike

    @property
    def size(self) -> int:
        """Q."""
        return len(self.value)

    def take(self, which: np.ndarray) -> "Labels":
        """Those at these places [n], or where the mask [Q] holds."""
        parts = (part[which] for part in self[:6])
        return Labels(*parts, *self[6:])  # type: ignore[call-arg]


@dataclass(frozen=True)
class Selection:
    """Which answers of a store are learnt from, and how."""

    rater: str | None = None  # whose; None: any rater's
    count: int | None = None  # those to the first so many questions; None: to all
    aggregate: bool = False  # one label for each question, by Dawid and Skene's model of the raters
    attribute: str | None = None  # comparisons by this attribute
    strengths: Sequence[float] | None = None  # P(better) for each strength of a preference; None: 1
    model: str | None = None  # of aggregation: a rater who answers everything, whom the others are asked to check


def split(labels: Labels, held_out: float) -> tuple[Labels, Labels]:
    """Labels to train on, and a share of about `held_out` to test on, chosen by the hash of the question alone.

    So a question stays on its side when more answers come, and has the same one in every run.
    """
    chance = np.array([int(str(question)[:8], 16) / 16**8 for question in labels.question])
    is_test = chance < held_out
    return labels.take(~is_test), labels.take(is_test)


def accuracy(labels: Labels, table: Table) -> float:
    """How often labels that are no ties agree with the true return; NaN where there are none.

    Labels of single segments are compared with their neighbours' in the same group. Of a triplet, the closer in return
    is the more alike.
    """
    if labels.attributes:  # of which the return says nothing
        return math.nan
    starts, value = labels.starts, labels.value
    if labels.kind not in ("pair", "triplet"):
        same = labels.group[1:] == labels.group[:-1]
        starts = np.concatenate([starts[:-1], starts[1:]], 1)[same]
        value = 0.5 * (1 + np.sign(value[1:] - value[:-1]))[same]
    if not len(value):
        return math.nan
    rows = table.segment_rows(torch.from_numpy(starts).to(table.device), labels.length)
    gap = (table.reward[rows].sum(-1) - table.reward[rows[:, :1]].sum(-1))[:, 1:].cpu().numpy()  # from the first
    gap = np.abs(gap[:, 0]) - np.abs(gap[:, 1]) if labels.kind == "triplet" else gap[:, 0]
    clear = (value != 0.5) & (gap != 0)
    agree = (value > 0.5) == (gap > 0)
    return float(agree[clear].mean()) if clear.any() else math.nan

"""Labels: what the answers in the store say about segments of a table, as arrays that learners take."""

from typing import NamedTuple

import numpy as np


class Labels(NamedTuple):
    """Q answers as learners take them; skipped ones are left out."""

    starts: np.ndarray  # [Q, k] int64, rows of the table where clips begin; k is 2 for comparisons, else 1
    value: np.ndarray  # [Q] float64, P(second preferred); or a rating, a place in a ranking, 1 for good and 0 for bad
    group: np.ndarray  # [Q] int64, the ranking it belongs to; those of one follow each other; 0 where there are none
    rater: np.ndarray  # [Q] int64, place in `raters`
    confidence: np.ndarray  # [Q] float64, weight of the answer
    question: np.ndarray  # [Q] object, ids of the questions
    raters: tuple[str, ...]
    length: int  # steps of each clip
    kind: str  # pair, rating, ranking or spans

    def take(self, keep: np.ndarray) -> "Labels":
        """Those at `keep` [Q] bool."""
        arrays = (part[keep] for part in self[:6])
        return Labels(*arrays, *self[6:])  # type: ignore[arg-type]


def split(labels: Labels, held_out: float) -> tuple[Labels, Labels]:
    """Labels to train on, and a share `held_out` to test with; which is up to the hash of its question alone."""
    chance = np.array([int(str(question)[:8], 16) / 16**8 for question in labels.question])
    test = chance < held_out
    return labels.take(~test), labels.take(test)

"""Rankings of many segments by comparisons: each new one is inserted by bisection into a list that is in order so far.

So few answers order many pairs (LiRE, Choi et al. 2024, arXiv:2408.04190). The comparisons are what the store keeps;
lists are built from them again whenever labels are read.
"""

import math
from collections.abc import Sequence
from itertools import groupby

from pbrl.data.table import Table
from pbrl.feedback.questions import Question
from pbrl.feedback.store.answers import Answer


class Ranking:
    """A list in the making. `groups` holds segments from worst to best; those that tied share a group."""

    def __init__(self, first: int):
        self.groups = [[first]]
        self.new: int | None = None
        self.low = self.high = 0

    def place(self, new: int) -> None:
        """Begins to look for the place of a new segment."""
        self.new, self.low, self.high = new, 0, len(self.groups)

    def middle(self) -> int:
        """A segment in the middle of where the new one may belong: what it is to be compared with."""
        return self.groups[(self.low + self.high) // 2][0]

    def compare(self, label: float) -> None:
        """Narrows the place of the new segment down, or finds it: then `new` is None.

        `label` is P(the new one is preferred). A segment that cannot be compared (NaN) is left out.
        """
        assert self.new is not None
        middle = (self.low + self.high) // 2
        if label == 0.5:
            self.groups[middle].append(self.new)
        elif label > 0.5:
            self.low = middle + 1
        elif label < 0.5:
            self.high = middle
        if self.low == self.high:
            self.groups.insert(self.low, [self.new])
        if self.low == self.high or label == 0.5 or math.isnan(label):
            self.new = None


def replay(clips: Sequence[tuple[int, int]], labels: Sequence[float]) -> Ranking:
    """The ranking that comparisons in their order have led to: rows (middle, new) and P(the new one is preferred)."""
    ranking = Ranking(clips[0][0])
    for (_, new), label in zip(clips, labels, strict=True):
        if ranking.new is None:
            ranking.place(new)
        ranking.compare(label)
    return ranking


def rank(
    answers: Sequence[tuple[Answer, Question]], table: Table, per_list: int
) -> list[tuple[Answer, int, list[int], float]]:
    """The rank of each segment in its list, from 0 for the worst, of lists that were asked for by comparisons.

    Each comes as (the answer to the question in which it was new, number of its list, [its row], rank).
    """
    found: list[tuple[Answer, int, list[int], float]] = []
    in_order = sorted(answers, key=lambda one: _list_and_place(one[1], per_list))
    for group, (_, own) in enumerate(groupby(in_order, key=lambda one: _list_and_place(one[1], per_list)[:2])):
        pairs, labels, origin = [], [], {}
        for answer, question in own:
            middle, new = (table.row(clip) for clip in question.clips)
            pairs.append((middle, new))
            labels.append(math.nan if answer.value is None or answer.value.label is None else answer.value.label)
            origin.setdefault(middle, answer)
            origin.setdefault(new, answer)
        for place, rows in enumerate(replay(pairs, labels).groups):
            found += [(origin[row], group, [row], float(place)) for row in rows]
    return found


def _list_and_place(question: Question, per_list: int) -> tuple[int, int, int]:
    """The round and number of the list that a comparison belongs to, and its place there."""
    return question.round, question.position // per_list, question.position % per_list

"""Labels: answers as learners take them, read from the store and from nowhere else.

A ranking of many segments may be asked for by comparisons: each new segment is inserted by bisection into a list that
is in order so far, so that few answers order many pairs (LiRE, Choi et al. 2024, arXiv:2408.04190). The lists are then
built from the stored comparisons.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch

from pbrl.data.table import Table
from pbrl.feedback.questions import KINDS, SKIP, TIE, Example, Question, Reading
from pbrl.feedback.raters import dawid_skene
from pbrl.feedback.store.answers import Answer
from pbrl.feedback.store.store import Store
from pbrl.settings import Query
from pbrl.types import Clip


class Labels(NamedTuple):
    """Q labels of segments of one length."""

    starts: np.ndarray  # [Q, k] int64 rows of the table where segments begin; k = 2 for comparisons, else 1
    value: np.ndarray  # [Q] float64: P(second preferred), a rating, a place in a ranking (higher is better), or 1 / 0
    group: np.ndarray  # [Q] int64: the ranking it belongs to, whose labels follow each other; 0 of other kinds
    rater: np.ndarray  # [Q] int64: place in `raters`; -1 where several raters' answers were aggregated
    confidence: np.ndarray  # [Q] float64: weight of the answer
    question: np.ndarray  # [Q] object: ids of the questions
    raters: tuple[str, ...]
    length: int  # steps of each segment
    kind: str  # pair, rating, ranking or spans

    def __len__(self) -> int:
        return len(self.value)

    def take(self, which: np.ndarray) -> "Labels":
        """Those at these places [n], or where the mask [Q] holds."""
        parts = (part[which] for part in self[:6])
        return Labels(*parts, *self[6:])


@dataclass(frozen=True)
class Selection:
    """Which answers of a store are learnt from, and how."""

    rater: str | None = None  # whose; None: any rater's
    count: int | None = None  # those to the first so many questions; None: to all
    aggregate: bool = False  # one label for each question, by Dawid and Skene's model of the raters
    attribute: str | None = None  # comparisons by this attribute
    strengths: Sequence[float] | None = None  # P(better) for each strength of a preference; None: 1


def stored_kind(query: Query, selection: Selection, by_comparisons: bool) -> str:
    """The kind of the questions in the store that a query is about."""
    if selection.attribute:
        return "attributes"
    return "pair" if by_comparisons else query.kind


def read(
    store: Store,
    table: Table,
    query: Query,
    selection: Selection,
    *,
    questions: Sequence[str] | None = None,
    until: int | None = None,
    by_comparisons: bool = False,
) -> tuple[Labels, list[tuple[Answer, Question]]]:
    """The labels that a query's answers give, and the answers with their questions, skipped ones too.

    Answers are those to `questions` (ids; None: all whose clips are in the table), that stand, or stood at the event
    number `until`. `by_comparisons`: rankings were asked for by pairs.
    """
    answers = read_answers(store, table, query, selection, questions, until, by_comparisons)
    if by_comparisons:
        return rank(answers, table, query), answers
    if selection.aggregate:
        return aggregate(answers, table, query), answers
    reading = Reading(query.span, selection.attribute, selection.strengths)
    found: list[tuple[Answer, int, list[int], float]] = []
    groups: dict[str, int] = {}
    for answer, question in answers:
        if answer.value is None or answer.value.outcome == SKIP:
            continue
        group = groups.setdefault(answer.uid, len(groups)) if query.kind == "ranking" else 0
        for example in KINDS[question.kind].examples(answer.value, reading, question.length):
            found.append((answer, group, rows_of(question.clips, example, table), example.label))
    return _labels(found, query), answers


def read_answers(
    store: Store,
    table: Table,
    query: Query,
    selection: Selection,
    questions: Sequence[str] | None = None,
    until: int | None = None,
    by_comparisons: bool = False,
) -> list[tuple[Answer, Question]]:
    """The answers that a query and a selection are about, with their questions, whose clips are all in the table."""
    about = {"kind": stored_kind(query, selection, by_comparisons), "length": query.length, "purpose": "learn"}
    answers = store.answers(questions, rater=selection.rater, until=until, **about)
    asked = store.questions(list(dict.fromkeys(answer.question for answer in answers)))
    known = {name: one for name, one in asked.items() if all(map(table.holds, one.clips))}
    first = dict.fromkeys(answer.question for answer in answers if answer.question in known)
    wanted = set(list(first)[: selection.count])
    return [(answer, known[answer.question]) for answer in answers if answer.question in wanted]


def count(answers: Sequence[tuple[Answer, Question]], asked: int) -> dict[str, int]:
    """How many of `asked` questions were answered, of them ties, and skips."""
    outcomes = [answer.value.outcome for answer, _ in answers if answer.value is not None]
    skipped = outcomes.count(SKIP)
    return {"asked": asked, "answered": len(outcomes) - skipped, "ties": outcomes.count(TIE), "skipped": skipped}


def rows_of(clips: Sequence[Clip], example: Example, table: Table) -> list[int]:
    """The rows at which an example's segments begin."""
    return [table.row(clips[place]) + example.first for place in example.clips]


def aggregate(answers: Sequence[tuple[Answer, Question]], table: Table, query: Query) -> Labels:
    """One label for each pair, by Dawid and Skene's model of which rater is right about what."""
    label = dawid_skene(answers).label
    first: dict[str, tuple[Answer, Question]] = {}
    for answer, question in answers:
        if answer.question in label:
            first.setdefault(answer.question, (answer, question))
    found = [
        (answer, 0, rows_of(question.clips, Example((0, 1), 0.0), table), label[name])
        for name, (answer, question) in first.items()
    ]
    labels = _labels(found, query)
    return labels._replace(rater=np.full(len(labels), -1), confidence=np.ones(len(labels)))


def _labels(found: Sequence[tuple[Answer, int, list[int], float]], query: Query) -> Labels:
    width = 2 if query.kind == "pair" else 1
    raters = tuple(dict.fromkeys(answer.rater for answer, *_ in found))
    place = {rater: i for i, rater in enumerate(raters)}
    return Labels(
        starts=np.array([rows for _, _, rows, _ in found], np.int64).reshape(-1, width),
        value=np.array([value for *_, value in found], np.float64),
        group=np.array([group for _, group, _, _ in found], np.int64),
        rater=np.array([place[answer.rater] for answer, *_ in found], np.int64),
        confidence=np.array([answer.confidence for answer, *_ in found], np.float64),
        question=np.array([answer.question for answer, *_ in found], object),
        raters=raters,
        length=query.learnt_length,
        kind=query.kind,
    )


def split(labels: Labels, held_out: float) -> tuple[Labels, Labels]:
    """Labels to train on, and a share of about `held_out` to test on, chosen by the hash of the question alone.

    So a question stays on its side when more answers come, and has the same one in every run.
    """
    chance = np.array([int(str(question)[:8], 16) / 16**8 for question in labels.question])
    is_test = chance < held_out
    return labels.take(~is_test), labels.take(is_test)


def accuracy(labels: Labels, table: Table) -> float:
    """How often labels that are no ties agree with the true return; NaN where there are none.

    Labels of single segments are compared with their neighbours' in the same group.
    """
    starts, value = labels.starts, labels.value
    if labels.kind != "pair":
        same = labels.group[1:] == labels.group[:-1]
        starts = np.concatenate([starts[:-1], starts[1:]], 1)[same]
        value = 0.5 * (1 + np.sign(value[1:] - value[:-1]))[same]
    if not len(value):
        return math.nan
    rows = table.segment_rows(torch.from_numpy(starts).to(table.device), labels.length)
    gap = table.reward[rows].sum(-1).diff(dim=1)[:, 0].cpu().numpy()
    clear = (value != 0.5) & (gap != 0)
    agree = (value > 0.5) == (gap > 0)
    return float(agree[clear].mean()) if clear.any() else math.nan


# Rankings by comparisons


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


def rank(answers: Sequence[tuple[Answer, Question]], table: Table, query: Query) -> Labels:
    """The rank of each segment in its list, from 0 for the worst, of lists that were asked for by comparisons.

    A segment's question is the one in which it was new.
    """
    found: list[tuple[Answer, int, list[int], float]] = []
    in_order = sorted(answers, key=lambda one: _list_and_place(one[1], query))
    for group, (_, own) in enumerate(groupby(in_order, key=lambda one: _list_and_place(one[1], query)[:2])):
        pairs, labels, origin = [], [], {}
        for answer, question in own:
            middle, new = (table.row(clip) for clip in question.clips)
            pairs.append((middle, new))
            labels.append(math.nan if answer.value is None or answer.value.label is None else answer.value.label)
            origin.setdefault(middle, answer)
            origin.setdefault(new, answer)
        for place, rows in enumerate(replay(pairs, labels).groups):
            found += [(origin[row], group, [row], float(place)) for row in rows]
    return _labels(found, query)


def _list_and_place(question: Question, query: Query) -> tuple[int, int, int]:
    """The round and number of the list that a comparison belongs to, and its place there."""
    return question.round, question.position // query.per_list, question.position % query.per_list

"""Answers from people who took an arm over: what they did is good, and what made them do it is bad.

APO's labels (2025): a policy's own steps are good in an episode that succeeded, a person's corrections are good, and
the steps right before a take-over are bad. As marked stretches, unpaired losses learn from them: query.kind=spans,
algo=cpl algo.reference=true objective=kto.
"""

from collections.abc import Sequence

import numpy as np

from pbrl.data.table import Table
from pbrl.feedback.labels import Selection
from pbrl.feedback.questions import ANSWER, SKIP, Question, Value, identity
from pbrl.feedback.sources.context import Context
from pbrl.feedback.store.answers import Answer
from pbrl.ranges import Size
from pbrl.settings import Query
from pbrl.types import Environment, UserError


class Interventions:
    """Marks `before` steps ahead of each take-over as bad, and the person's own steps as good.

    With `own`, the rest of an episode that succeeded is good, too. Recordings say which steps were a person's.
    """

    kinds = ("spans",)

    def __init__(self, *, before: Size, own: bool):
        self.before, self.own = before, own
        self.rater = f"interventions-{identity({'before': before, 'own': own})[:8]}"
        self.selection = Selection(rater=self.rater)

    def check(self, query: Query, env: Environment) -> None:
        """Raises UserError where anything but spans is asked for."""
        if query.kind != "spans":
            raise UserError(
                "feedback=interventions marks stretches: query.kind=spans objective=kto algo.reference=true"
            )

    def start(self, context: Context) -> None:
        """Makes it known to the store as a rater. Raises UserError where nobody took over."""
        self.store, self.table = context.store, context.table
        if not self.table.person.any():
            raise UserError(
                "feedback=interventions needs episodes in which a person took over: press t during python -m "
                "real.deploy, or save person [T] beside action in a recording's npz"
            )
        self.store.add_rater(self.rater, "script", {"before": self.before, "own": self.own})
        self.marks = mark(self.table, self.before, self.own)

    def form(self, question: Question) -> Question:
        """The question as it is."""
        return question

    def answer(self, questions: Sequence[str]) -> None:
        """Answers those that it has not answered yet; it skips clips in which nothing is marked."""
        known = {answer.question for answer in self.store.answers(questions, rater=self.rater)}
        asked = self.store.questions([question for question in questions if question not in known])
        self.store.append([
            Answer(identity("answer", name, self.rater), name, self.rater, self._value_of(question))
            for name, question in asked.items()
        ])  # fmt: skip

    def _value_of(self, question: Question) -> Value:
        row = self.table.row(question.clips[0])
        spans = spans_of(self.marks[row : row + question.length])
        return Value(ANSWER, None, {"spans": spans, "marks": []}) if spans else Value(SKIP)

    def stop(self) -> None:
        """Nothing is left to end."""


def mark(table: Table, before: int, own: bool) -> np.ndarray:
    """1 for good rows, -1 for bad ones, 0 for others: [R]."""
    marks = np.zeros(table.row_count, np.int8)
    for i, (first, steps) in enumerate(zip(table.first, table.steps, strict=True)):
        person = table.person[first : first + steps]
        marked = marks[first : first + steps]
        if own and table.success is not None and table.success[i]:
            marked[:] = 1
        for begin in np.flatnonzero(np.diff(person.astype(np.int8), prepend=0) == 1):
            marked[max(begin - before, 0) : begin] = -1
        marked[person] = 1
    return marks


def spans_of(marks: np.ndarray) -> list[dict[str, int | bool]]:
    """Stretches of equal marks [L], without those of 0, from their first frame to their last."""
    edges = np.flatnonzero(np.diff(marks, prepend=0, append=0))
    return [
        {"start": int(a), "end": int(b) - 1, "good": bool(marks[a] > 0)}
        for a, b in zip(edges[:-1], edges[1:], strict=True)
        if marks[a]
    ]

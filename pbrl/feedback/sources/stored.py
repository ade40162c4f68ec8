"""Answers that are in the store already: a run asks nothing, and learns from what it holds about the run's episodes."""

from collections.abc import Sequence
from contextlib import suppress

from pbrl.feedback.kinds import check_strengths
from pbrl.feedback.labels import Selection
from pbrl.feedback.questions import Question
from pbrl.feedback.read import check_attributes, count_held, describe_left_out, read, stored_kind
from pbrl.feedback.sources.context import Context
from pbrl.feedback.store.database import Unavailable
from pbrl.ranges import Share
from pbrl.settings import Query
from pbrl.types import Environment, UserError


class Stored:
    """The answers of `rater` (None: of any), to the first `count` questions (None: to all).

    With `aggregate`, all answers to a pair become one label, by Dawid and Skene's model of the raters. With
    `attribute`, comparisons are by that attribute. `strengths` has P(better) for each strength of a preference (None:
    1); aggregation reads none.
    """

    kinds = ()

    def __init__(
        self,
        *,
        rater: str | None,
        count: int | None,
        aggregate: bool,
        attribute: str | None,
        strengths: list[Share] | None,
    ):
        if count is not None and count < 1:
            raise UserError(f"feedback.count={count} must be at least 1; null: all there are")
        if aggregate and attribute:
            raise UserError("feedback.aggregate is about plain pairs: leave feedback.attribute out")
        if aggregate and rater:
            raise UserError("feedback.aggregate weighs all raters' answers: leave feedback.rater out")
        strengths = None if aggregate else check_strengths(strengths)  # type: ignore[assignment]
        self.selection = Selection(rater, count, aggregate, attribute, strengths)

    def check(self, query: Query, env: Environment) -> None:
        """Raises UserError where a query does not fit stored answers."""
        if query.rounds > 1:
            raise UserError("feedback=stored asks nothing: query.rounds=1")
        if query.kind != "pair" and (self.selection.aggregate or self.selection.attribute):
            raise UserError("feedback.aggregate and feedback.attribute are about comparisons: query.kind=pair")

    def start(self, context: Context) -> None:
        """Raises UserError if the store holds no answers that fit."""
        query, store, table = context.query, context.store, context.table
        with suppress(Unavailable):  # a store that may only be read is; its report counts what is about other data too
            store.register(table.ids)
        labels, answers = read(store, table, query, self.selection)
        left_out = describe_left_out(answers, table)
        if left_out:
            print(f"answers {left_out}")
        if answers:
            check_attributes(labels, answers)
        if labels.size:
            return
        held = [f"{n} × {kind} of {length} steps" for (kind, length), n in count_held(store, table).items()]
        whose = f" by {self.selection.rater}" if self.selection.rater else ""
        what = f" of feedback.attribute={self.selection.attribute}" if self.selection.attribute else ""
        kind = stored_kind(query, self.selection, False)
        raise UserError(
            f"{store.address} holds no answers{whose}{what} of query.kind={kind} and query.length={query.length} about "
            f"this data set; it holds {', '.join(held) or 'none about it'}: choose other query.… or another store=…"
        )

    def form(self, question: Question) -> Question:
        """The question as it is."""
        return question

    def answer(self, questions: Sequence[str]) -> None:
        """There is nothing to answer."""

    def stop(self) -> None:
        """Nothing is left to end."""

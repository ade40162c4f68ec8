"""Leases: which questions are with which rater. Each question gets as many answers as it wants, by different raters."""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, delete, or_, select, update

from pbrl.feedback.questions import Question
from pbrl.feedback.store.answers import IS_OPEN, current, recount
from pbrl.feedback.store.database import add
from pbrl.feedback.store.datasets import is_inside
from pbrl.feedback.store.reading import read_questions
from pbrl.feedback.store.schema import EventRow, LeaseRow, QuestionRow, RaterRow
from pbrl.feedback.store.store import Store

ORDER = (QuestionRow.priority.desc(), QuestionRow.round, QuestionRow.position, QuestionRow.id)


class Leased(NamedTuple):
    """A question that was handed out, `until` then (seconds since 1970)."""

    id: str
    question: Question
    until: float


def lease(
    store: Store, rater: str, n: int, *, seconds: float = 120.0, now: float | None = None, **about: Any
) -> list[Leased]:
    """Hands `rater` up to n questions, those held already first; no question gets an answer too many.

    A question that the rater has answered or passed on is not handed out again. `about` narrows down as for `Store`.
    """
    now = time.time() if now is None else now
    with store.writing() as connection:
        late = delete(LeaseRow).where(LeaseRow.until < now, LeaseRow.rater != rater).returning(LeaseRow.question)
        recount(connection, connection.execute(late).scalars().all())
        conditions, until = store.conditions(connection, about), now + seconds
        mine = select(LeaseRow.question).where(LeaseRow.rater == rater)
        held = select(QuestionRow.id).where(QuestionRow.id.in_(mine), *conditions).order_by(*ORDER).limit(n)
        held = list(connection.execute(held).scalars())
        if held:
            again = update(LeaseRow).where(LeaseRow.rater == rater, LeaseRow.question.in_(held))
            connection.execute(again.values(until=until))
        new = _next(store, connection, rater, n - len(held), about)
        add(connection, LeaseRow, [{"question": q, "rater": rater, "until": until} for q in new])
        recount(connection, new)
        found = read_questions(connection, [*held, *new])
        return [Leased(question, found[question], until) for question in [*held, *new]]


def _next(store: Store, connection: Connection, rater: str, n: int, about: dict[str, Any]) -> list[str]:
    """The first n open questions that the rater has not dealt with, each data set's found by the index of open ones."""
    if n < 1:
        return []
    about = dict(about)
    dataset = about.pop("dataset", None)
    kind = connection.execute(select(RaterRow.kind).where(RaterRow.name == rater)).scalar()
    held = select(LeaseRow.question).where(LeaseRow.rater == rater)
    answered = current(EventRow.question).where(EventRow.rater == rater)
    passed = select(EventRow.question).where(EventRow.rater == rater, EventRow.kind == "pass")
    dealt_with = [~QuestionRow.id.in_(those) for those in (held, answered, passed)]  # hashed, whatever the plan
    may = or_(QuestionRow.rater_kind.is_(None), QuestionRow.rater_kind == kind)
    columns = QuestionRow.priority, QuestionRow.round, QuestionRow.position, QuestionRow.id
    query = select(*columns).where(IS_OPEN, may, *dealt_with, *store.conditions(connection, about))
    query = query.order_by(*ORDER).limit(n)
    if dataset is None:
        return [row.id for row in connection.execute(query)]
    found = []
    for other in store.sharing_datasets.find(connection, dataset):
        own = query.where(QuestionRow.dataset == other.id)
        found += connection.execute(own if other.is_within else own.where(is_inside(dataset))).all()
    found.sort(key=lambda row: (-row.priority, row.round, row.position, row.id))
    return [row.id for row in found[:n]]


def release(store: Store, rater: str, questions: Sequence[str] | None = None) -> None:
    """Gives leases back: of these questions (None: all)."""
    with store.writing() as connection:
        query = delete(LeaseRow).where(LeaseRow.rater == rater)
        if questions is not None:
            query = query.where(LeaseRow.question.in_(questions))
        recount(connection, connection.execute(query.returning(LeaseRow.question)).scalars().all())

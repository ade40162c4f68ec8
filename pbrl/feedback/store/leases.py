"""Who looks at which question: handed out so that each gets as many answers as it wants, by different people."""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, delete, select, update

from pbrl.feedback.store.database import add
from pbrl.feedback.store.events import IS_OPEN, current, recount
from pbrl.feedback.store.schema import Event, Item, Lease, Question
from pbrl.feedback.store.store import Store, about_question

ORDER = (Question.priority.desc(), Question.round, Question.position, Question.id)


class Leased(NamedTuple):
    """A question that was handed out, `until` then (seconds since 1970)."""

    question: str
    kind: str
    clips: tuple[str, ...]
    wording: str | None
    purpose: str
    expected: float | None  # the right label, of practice and gold
    until: float


def lease(
    store: Store, rater: str, n: int, *, seconds: float = 120.0, now: float | None = None, **about: Any
) -> list[Leased]:
    """Hands `rater` up to n questions, those held already first; nobody is given an answer too many to give.

    A question that the rater has answered or passed on is not handed out again. `about` narrows down as in
    `answers`.
    """
    now = time.time() if now is None else now
    with store.writing() as connection:
        late = delete(Lease).where(Lease.until < now, Lease.rater != rater).returning(Lease.question)
        recount(connection, connection.execute(late).scalars().all())
        mine = select(Lease.question).where(Lease.rater == rater)
        held = select(Question.id).where(Question.id.in_(mine), *about_question(about)).order_by(*ORDER).limit(n)
        held = connection.execute(held).scalars().all()
        until = now + seconds
        if held:
            again = update(Lease).where(Lease.rater == rater, Lease.question.in_(held))
            connection.execute(again.values(until=until))
        answered = current(Event.question).where(Event.rater == rater)
        passed = select(Event.question).where(Event.rater == rater, Event.kind == "pass")
        seen = [~Question.id.in_(those) for those in (mine, answered, passed)]  # hashed, whatever the planner knows
        new = select(Question.id).where(IS_OPEN, *seen, *about_question(about)).order_by(*ORDER).limit(n - len(held))
        new = connection.execute(new).scalars().all()
        add(connection, Lease, [{"question": q, "rater": rater, "until": until} for q in new])
        recount(connection, new)
        return _leased(connection, [*held, *new], until)


def asked(store: Store, question: str) -> Leased | None:
    """What was asked, if it was."""
    with store.reading() as connection:
        try:
            return _leased(connection, [question], 0.0)[0]
        except KeyError:
            return None


def release(store: Store, rater: str, questions: Sequence[str] | None = None) -> None:
    """Gives leases back: of these questions (None: all)."""
    with store.writing() as connection:
        query = delete(Lease).where(Lease.rater == rater)
        if questions is not None:
            query = query.where(Lease.question.in_(questions))
        recount(connection, connection.execute(query.returning(Lease.question)).scalars().all())


def _leased(connection: Connection, questions: Sequence[str], until: float) -> list[Leased]:
    rows = connection.execute(select(Question.__table__).where(Question.id.in_(questions)))
    found = {row.id: row for row in rows}
    clips: dict[str, list[str]] = {}
    items = select(Item.question, Item.clip).where(Item.question.in_(questions)).order_by(Item.question, Item.place)
    for question, clip in connection.execute(items):
        clips.setdefault(question, []).append(clip)
    in_order = [found[q] for q in questions]
    return [Leased(q.id, q.kind, tuple(clips[q.id]), q.wording, q.purpose, q.expected, until) for q in in_order]

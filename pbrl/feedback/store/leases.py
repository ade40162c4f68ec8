"""Leases: which questions are with which rater. Each question gets as many answers as it wants, by different raters.

A lease that has run out stays, with `until` 0: it no longer holds the question back, and it says that the question was
handed out to this rater, whose answer counts however late it comes.
"""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, and_, bindparam, delete, or_, select, update

from pbrl.feedback.questions import Question
from pbrl.feedback.store.answers import IS_OPEN, STANDS, recount
from pbrl.feedback.store.database import insert
from pbrl.feedback.store.datasets import SharingDataset, is_about, is_inside
from pbrl.feedback.store.reading import read_questions
from pbrl.feedback.store.schema import EventRow, LeaseRow, QuestionRow, RaterRow
from pbrl.feedback.store.store import Store

ORDER = (QuestionRow.priority.desc(), QuestionRow.round, QuestionRow.position, QuestionRow.id)
SECONDS = 120.0  # of a lease
RENEW = 0.75  # of a lease that is left when it is made longer: to ask again at once writes nothing

# Built once: to build a statement takes longer than to run it. `question = … AND rater = …` is looked up by question,
# which has few events; the rater, who may have thousands, is kept out of the index by the empty text.
_RATER = bindparam("who")
_HELD = select(LeaseRow.question).where(
    LeaseRow.question == QuestionRow.id, LeaseRow.rater == _RATER, LeaseRow.until > 0
)
_DEALT_WITH = (
    select(EventRow.seq)
    .where(EventRow.question == QuestionRow.id, EventRow.rater.concat("") == _RATER)
    .where(or_(EventRow.kind == "pass", and_(EventRow.kind == "answer", STANDS)))
    .correlate(QuestionRow)
)
IS_NEW = (~_HELD.correlate(QuestionRow).exists(), ~_DEALT_WITH.exists())  # to the rater `who`
_MAY = or_(
    QuestionRow.rater_kind.is_(None),
    QuestionRow.rater_kind == select(RaterRow.kind).where(RaterRow.name == _RATER).scalar_subquery(),
)
NEXT = (
    select(QuestionRow.priority, QuestionRow.round, QuestionRow.position, QuestionRow.id)
    .where(IS_OPEN, _MAY, *IS_NEW)
    .order_by(*ORDER)
    .limit(bindparam("n"))
)
_MINE = select(QuestionRow.id, LeaseRow.until).join(LeaseRow, LeaseRow.question == QuestionRow.id)
MINE = _MINE.where(LeaseRow.rater == _RATER, LeaseRow.until > 0).order_by(*ORDER).limit(bindparam("n"))
LATE = (
    update(LeaseRow)
    .where(LeaseRow.until > 0, LeaseRow.until < bindparam("now"))
    .values(until=0.0)
    .returning(LeaseRow.question)
    .execution_options(synchronize_session=False)
)
RENEWED = (
    update(LeaseRow)
    .where(LeaseRow.rater == _RATER, LeaseRow.question.in_(bindparam("questions", expanding=True)))
    .values(until=bindparam("to"))
    .execution_options(synchronize_session=False)
)


class Leased(NamedTuple):
    """A question that was handed out, `until` then (seconds since 1970)."""

    id: str
    question: Question
    until: float


@dataclass(frozen=True)
class Wish:
    """Up to n questions for a rater; `about` narrows them down as for `Store`, `but_purpose` leaves one purpose out."""

    rater: str
    n: int
    about: Mapping[str, Any] = field(default_factory=dict)
    but_purpose: str | None = None


class Handed(NamedTuple):
    """What a wish got; `is_all` where there was no more to be had."""

    leased: list[Leased]
    new: int  # of them, not held before
    is_all: bool


def lease(
    store: Store, rater: str, n: int, *, seconds: float = SECONDS, now: float | None = None, **about: Any
) -> list[Leased]:
    """Hands `rater` up to n questions, those held already first; no question gets an answer too many.

    A question that the rater has answered or passed on is not handed out again. `about` narrows down as for `Store`.
    """
    return lease_each(store, [Wish(rater, n, about)], seconds=seconds, now=now)[0].leased


def lease_each(
    store: Store,
    wishes: Sequence[Wish],
    *,
    seconds: float = SECONDS,
    now: float | None = None,
    known: Mapping[str, Question] | None = None,
) -> list[Handed]:
    """The same for several raters, in one transaction. `known` are questions that need not be read again."""
    now = time.time() if now is None else now
    with store.writing() as connection:
        mine = [_renew(store, connection, wish, now, seconds) for wish in wishes]  # a rater's own wait for her
        recount(connection, sorted(set(connection.execute(LATE, {"now": now}).scalars())))
        given = [
            (held, _lease_new(store, connection, wish, wish.n - len(held), now + seconds))
            for wish, held in zip(wishes, mine, strict=True)
        ]
        ids = [question for held, new in given for question in (*held, *new)]
        found = dict(known or {})
        missing = [question for question in dict.fromkeys(ids) if question not in found]
        found |= read_questions(connection, missing) if missing else {}
    return [
        Handed(
            [Leased(question, found[question], now + seconds) for question in (*held, *new)],
            len(new),
            len(held) + len(new) < wish.n,
        )
        for wish, (held, new) in zip(wishes, given, strict=True)
    ]


def _renew(store: Store, connection: Connection, wish: Wish, now: float, seconds: float) -> list[str]:
    """The questions that the rater holds, their leases made longer."""
    values = {"who": wish.rater, "n": wish.n}
    held = connection.execute(_statements(store, connection, wish).mine, values).tuples().all()
    short = [question for question, until in held if until < now + RENEW * seconds]
    if short:
        connection.execute(RENEWED, {"who": wish.rater, "questions": short, "to": now + seconds})
    return [question for question, _ in held]


def _lease_new(store: Store, connection: Connection, wish: Wish, n: int, until: float) -> list[str]:
    """The first n open questions that the rater has not dealt with, leased."""
    if n < 1:
        return []
    found: list[Any] = []
    for query in _statements(store, connection, wish).next:
        found += connection.execute(query, {"who": wish.rater, "n": n}).all()
    found.sort(key=lambda row: (-row.priority, row.round, row.position, row.id))
    new = [row.id for row in found[:n]]
    if new:
        rows = [{"question": question, "rater": wish.rater, "until": until} for question in new]
        again = insert(connection, LeaseRow)
        again = again.on_conflict_do_update(index_elements=["question", "rater"], set_={"until": until})
        connection.execute(again, rows)
        recount(connection, new)
    return new


class _Statements(NamedTuple):
    mine: Select
    next: list[Select]  # each data set's questions are found by the index of open ones


def _statements(store: Store, connection: Connection, wish: Wish) -> _Statements:
    dataset = wish.about.get("dataset")
    sharing = () if dataset is None else tuple(store.sharing_datasets.find(connection, dataset))
    others = tuple((name, value) for name, value in wish.about.items() if name != "dataset")
    return _build(dataset, sharing, others, wish.but_purpose)


@lru_cache(64)
def _build(
    dataset: str | None, sharing: tuple[SharingDataset, ...], about: tuple[tuple[str, Any], ...], but: str | None
) -> _Statements:
    conditions = [QuestionRow.__table__.c[name] == value for name, value in about]
    conditions += [] if but is None else [QuestionRow.purpose != but]
    if dataset is None:
        return _Statements(MINE.where(*conditions), [NEXT.where(*conditions)])
    mine = MINE.where(is_about(dataset, sharing), *conditions)
    each = [[QuestionRow.dataset == other.id, *([] if other.is_within else [is_inside(dataset)])] for other in sharing]
    return _Statements(mine, [NEXT.where(*own, *conditions) for own in each])


def find_open(store: Store, rater: str, rater_kind: str, **about: Any) -> list[str]:
    """The questions that a rater could have at most, in their order; it need not be known to the store yet.

    Those that it holds or has dealt with are not among them; `about` narrows down as for `Store`.
    """
    may = or_(QuestionRow.rater_kind.is_(None), QuestionRow.rater_kind == rater_kind)
    query = select(QuestionRow.id).where(IS_OPEN, may, *IS_NEW)
    with store.reading() as connection:
        query = query.where(*store.conditions(connection, about)).order_by(*ORDER)
        return list(connection.execute(query, {"who": rater}).scalars())


def was_handed_out(store: Store, rater: str, question: str) -> bool:
    """Whether the question is or was with this rater, or has an answer, retraction or pass by the same."""
    leased = select(LeaseRow.question).where(LeaseRow.question == question, LeaseRow.rater == rater).exists()
    event = select(EventRow.seq).where(EventRow.question == question, EventRow.rater.concat("") == rater).exists()
    with store.reading() as connection:
        return bool(connection.execute(select(or_(leased, event))).scalar())


def release(store: Store, rater: str, questions: Collection[str] | None = None) -> None:
    """Gives leases back: of these questions (None: all)."""
    with store.writing() as connection:
        query = delete(LeaseRow).where(LeaseRow.rater == rater)
        if questions is not None:
            query = query.where(LeaseRow.question.in_(questions))
        recount(connection, connection.execute(query.returning(LeaseRow.question)).scalars().all())

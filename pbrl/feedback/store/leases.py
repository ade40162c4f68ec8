"""Leases: which questions are with which rater. Each question gets as many answers as it wants, by different raters.

A lease that has run out stays, with `until` 0: it no longer holds the question back, and it says that the question was
handed out to this rater, whose answer counts however late it comes.
"""

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, and_, bindparam, delete, or_, select, union_all, update

from pbrl.feedback.questions import Question
from pbrl.feedback.store.answers import IS_OPEN, STANDS, recount
from pbrl.feedback.store.database import insert
from pbrl.feedback.store.datasets import SharingDataset, is_about, is_inside
from pbrl.feedback.store.reading import read_questions
from pbrl.feedback.store.schema import EventRow, LeaseRow, QuestionRow, RaterRow
from pbrl.feedback.store.store import Store

ORDER = (QuestionRow.priority.desc(), QuestionRow.round, QuestionRow.position, QuestionRow.id)
PLACE = (QuestionRow.priority, QuestionRow.round, QuestionRow.position, QuestionRow.id)
SECONDS = 120.0  # of a lease
SPARE = 20  # questions that are looked at beyond those asked for: some raters know some of them
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
NEXT = select(*PLACE).where(IS_OPEN, _MAY, *IS_NEW).order_by(*ORDER).limit(bindparam("n"))
OPEN = select(*PLACE, QuestionRow.open, QuestionRow.rater_kind).where(IS_OPEN).order_by(*ORDER).limit(bindparam("n"))
_RATERS = bindparam("raters", expanding=True)
_QUESTIONS = bindparam("questions", expanding=True)
HELD = (
    select(LeaseRow.rater, QuestionRow.id, LeaseRow.until)
    .join(LeaseRow, LeaseRow.question == QuestionRow.id)
    .where(LeaseRow.rater.in_(_RATERS), LeaseRow.until > 0)
    .order_by(*ORDER)
)
NOT_NEW = union_all(
    select(LeaseRow.question, LeaseRow.rater).where(
        LeaseRow.question.in_(_QUESTIONS), LeaseRow.rater.in_(_RATERS), LeaseRow.until > 0
    ),
    select(EventRow.question, EventRow.rater)
    .where(EventRow.question.in_(_QUESTIONS), EventRow.rater.concat("").in_(_RATERS))
    .where(or_(EventRow.kind == "pass", and_(EventRow.kind == "answer", STANDS))),
)
KINDS = select(RaterRow.name, RaterRow.kind).where(RaterRow.name.in_(_RATERS))
LATE = (
    update(LeaseRow)
    .where(LeaseRow.until > 0, LeaseRow.until < bindparam("now"))
    .values(until=0.0)
    .returning(LeaseRow.question)
    .execution_options(synchronize_session=False)
)
RENEWED = (
    update(LeaseRow)
    .where(LeaseRow.rater == _RATER, LeaseRow.question.in_(_QUESTIONS))
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
    """The same for several raters, each named once, in one transaction, which costs little more than for one.

    `known` are questions that need not be read again.
    """
    now = time.time() if now is None else now
    with store.writing() as connection:
        groups = _group(store, connection, wishes)
        held = _join(_find_held(connection, *group, now, seconds) for group in groups)  # a rater's own wait for her
        recount(connection, sorted(set(connection.execute(LATE, {"now": now}).scalars())))
        new = _join(_lease_new(connection, *group, held, now + seconds) for group in groups)
        found = dict(known or {})
        missing = [
            question for own in (held, new) for some in own.values() for question in some if question not in found
        ]
        found |= read_questions(connection, list(dict.fromkeys(missing))) if missing else {}
    handed = [(wish, (*held[wish.rater], *new[wish.rater])) for wish in wishes]
    return [
        Handed([Leased(q, found[q], now + seconds) for q in own], len(new[wish.rater]), len(own) < wish.n)
        for wish, own in handed
    ]


Found = dict[str, list[str]]  # questions by the rater


def _join(parts: Iterable[Found]) -> Found:
    return {rater: own for part in parts for rater, own in part.items()}


def _group(store: Store, connection: Connection, wishes: Sequence[Wish]) -> list[tuple["_Statements", dict[str, int]]]:
    """Statements, and how many questions each rater wishes whose questions they find."""
    groups: dict[int, tuple[_Statements, dict[str, int]]] = {}
    for wish in wishes:
        statements = _statements(store, connection, wish)
        groups.setdefault(id(statements), (statements, {}))[1][wish.rater] = wish.n
    return list(groups.values())


def _find_held(
    connection: Connection, statements: "_Statements", wished: dict[str, int], now: float, seconds: float
) -> Found:
    """The questions that raters hold, their leases made longer."""
    found: Found = {rater: [] for rater in wished}
    short: Found = {}
    for rater, question, until in connection.execute(statements.held, {"raters": list(wished)}):
        if len(found[rater]) < wished[rater]:
            found[rater].append(question)
            if until < now + RENEW * seconds:
                short.setdefault(rater, []).append(question)
    for rater, questions in short.items():
        connection.execute(RENEWED, {"who": rater, "questions": questions, "to": now + seconds})
    return found


def _lease_new(
    connection: Connection, statements: "_Statements", wished: dict[str, int], held: Found, until: float
) -> Found:
    """The first open questions that raters have not dealt with, leased: as many as they lack."""
    lacking = {rater: n - len(held[rater]) for rater, n in wished.items()}
    found, is_all = _choose(connection, statements, {rater: n for rater, n in lacking.items() if n > 0})
    _insert(connection, found, until)
    for rater, own in () if is_all else found.items():
        if len(own) < lacking[rater]:
            rows: list[Any] = []
            for query in statements.next:
                rows += connection.execute(query, {"who": rater, "n": lacking[rater] - len(own)}).all()
            more = [row.id for row in sorted(rows, key=_place)[: lacking[rater] - len(own)]]
            _insert(connection, {rater: more}, until)
            own += more
    return {rater: found.get(rater, []) for rater in wished}


def _choose(connection: Connection, statements: "_Statements", lacking: dict[str, int]) -> tuple[Found, bool]:
    """For each rater the first open questions that are new to it, and whether these were looked for among all."""
    if not lacking:
        return {}, True
    most, rows = sum(lacking.values()) + SPARE, []
    for query in statements.open:
        rows += connection.execute(query, {"n": most}).all()
    rows = sorted(rows, key=_place)[:most]
    about = {"questions": [row.id for row in rows], "raters": list(lacking)}
    not_new = set(connection.execute(NOT_NEW, about).tuples())
    kinds = dict(connection.execute(KINDS, about).tuples().all())
    left = {row.id: row.open for row in rows}
    found: Found = {}
    for rater, n in lacking.items():
        may = (None, kinds.get(rater))
        own = (row.id for row in rows if left[row.id] > 0 and row.rater_kind in may and (row.id, rater) not in not_new)
        found[rater] = list(islice(own, n))
        for question in found[rater]:
            left[question] -= 1
    return found, len(rows) < most


def _place(row: Any) -> tuple[Any, ...]:
    """Of a question, in `ORDER`."""
    return -row.priority, row.round, row.position, row.id


def _insert(connection: Connection, found: Found, until: float) -> None:
    rows = [{"question": question, "rater": rater, "until": until} for rater, own in found.items() for question in own]
    if rows:
        connection.execute(_lease_again(connection.dialect.name), rows)
        recount(connection, sorted({row["question"] for row in rows}))


@lru_cache
def _lease_again(dialect: str) -> Any:
    """Leases that are new, or begin once more."""
    leased = insert(dialect, LeaseRow)
    return leased.on_conflict_do_update(index_elements=["question", "rater"], set_={"until": leased.excluded.until})


class _Statements(NamedTuple):
    held: Select
    open: list[Select]  # each data set's questions are found by the index of open ones
    next: list[Select]  # of these, new to one rater


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
    each, held = [conditions], HELD.where(*conditions)
    if dataset is not None:
        within = [(QuestionRow.dataset == one.id, *(() if one.is_within else (is_inside(dataset),))) for one in sharing]
        each, held = [[*own, *conditions] for own in within], held.where(is_about(dataset, sharing))
    return _Statements(held, [OPEN.where(*own) for own in each], [NEXT.where(*own) for own in each])


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

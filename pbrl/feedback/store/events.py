"""What has been told, and which of it stands: events are only added, and an answer stands until a later event names it.

A batch of events is looked up and written together: a statement costs as much for one as for many. With it go the
counts of its questions, so that what is open need not be counted when somebody asks for the next.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Select, bindparam, delete, func, literal_column, select, tuple_, update

from pbrl.feedback.store.database import batches, insert
from pbrl.feedback.store.schema import Event, Lease, Question, Rater
from pbrl.types import UserError

IS_OPEN = Question.open > literal_column("0")  # no bound value: an index of open questions serves it


@dataclass(frozen=True)
class Told:
    """An event before it is kept; its columns are explained at `schema.Event`."""

    uid: str
    question: str
    rater: str
    kind: str = "answer"
    outcome: str | None = None
    label: float | None = None
    detail: dict[str, Any] | None = None
    shown: dict[str, Any] | None = None
    confidence: float = 1.0
    seconds: float | None = None
    told: datetime | None = None
    supersedes: str | None = None

    def row(self) -> dict[str, Any]:
        """What the table of events keeps of it, as of now."""
        return {**vars(self), "kept": datetime.now(UTC)}


class Refused(UserError):
    """What was told cannot be: of no question or rater there is, or taking back what is another's."""


def keep(connection: Connection, told: Sequence[Told]) -> list[int | Refused]:
    """Writes events but those that cannot be; returns their numbers, or why not. Those kept before keep theirs."""
    return _Batch(connection, told).keep()


class _Batch:
    """Events of one transaction, looked up and written together: a statement costs as much for one as for many."""

    def __init__(self, connection: Connection, told: Sequence[Told]):
        self.connection, self.told = connection, told
        uids = [t.uid for t in told] + [t.supersedes for t in told if t.supersedes]
        questions = sorted({t.question for t in told})
        event = select(Event.uid, Event.seq, Event.question, Event.rater, Event.kind)
        self.events = {row.uid: row for row in self._find(event, Event.uid, uids)}
        self.questions = {row.id for row in self._find(select(Question.id), Question.id, questions)}
        self.raters = {row.name for row in self._find(select(Rater.name), Rater.name, sorted({t.rater for t in told}))}
        standing = self._find(current(Event.uid, Event.question, Event.rater), Event.question, questions)
        self.current = {(row.question, row.rater): row.uid for row in standing}
        self.new: dict[str, Told] = {}

    def _find(self, query: Select, column: Any, values: Sequence[str]) -> list[Any]:
        return [row for batch in batches(values) for row in self.connection.execute(query.where(column.in_(batch)))]

    def keep(self) -> list[int | Refused]:
        """One after another, since an event may be about the one before it. What is refused is not written."""
        refused = [self._take(one) for one in self.told]
        rows = [one.row() for one in self.new.values()]
        numbers = {uid: row.seq for uid, row in self.events.items()}
        if rows:
            numbered = insert(self.connection, Event).returning(Event.seq, sort_by_parameter_order=True)
            numbers |= zip(self.new, self.connection.execute(numbered, rows).scalars(), strict=True)
            done = [(one.question, one.rater) for one in self.new.values() if one.kind != "retract"]
            for batch in batches(done):
                self.connection.execute(delete(Lease).where(tuple_(Lease.question, Lease.rater).in_(batch)))
            recount(self.connection, sorted({one.question for one in self.new.values()}))
        return [why or numbers[one.uid] for why, one in zip(refused, self.told, strict=True)]

    def _take(self, told: Told) -> Refused | None:
        if told.uid in self.events or told.uid in self.new:
            return None
        if told.question not in self.questions:
            return Refused(f"there is no question {told.question}")
        if told.rater not in self.raters:
            return Refused(f"there is no rater {told.rater}")
        about = told.question, told.rater
        if told.kind == "answer":  # a second answer stands for the first
            told = replace(told, supersedes=self.current.get(about))
            self.current[about] = told.uid
        elif told.kind == "retract":
            old = self.new.get(told.supersedes or "") or self.events.get(told.supersedes or "")
            if old is None or (old.question, old.rater, old.kind) != (*about, "answer"):
                return Refused(f"{told.supersedes} is no answer to that question by {told.rater}")
            if self.current.get(about) == told.supersedes:
                del self.current[about]
        self.new[told.uid] = told
        return None


def current(*columns: Any) -> Select:
    """Of the answers that stand: those that no later event names."""
    return select(*columns).select_from(Event).where(Event.kind == "answer", STANDS)


LATER = Event.__table__.alias("later")
STANDS = ~select(LATER.c.seq).where(LATER.c.supersedes == Event.uid).exists()
# Built once: to build a statement takes longer than to run it.
GIVEN = current(func.count()).where(Event.question == Question.id).correlate(Question).scalar_subquery()
LEASED = select(func.count()).where(Lease.question == Question.id).correlate(Question).scalar_subquery()
RECOUNT = (
    update(Question)
    .where(Question.id.in_(bindparam("questions", expanding=True)))
    .values(given=GIVEN, open=Question.wanted - GIVEN - LEASED)
    .execution_options(synchronize_session=False)
)


def recount(connection: Connection, questions: Sequence[str]) -> None:
    """Counts what these questions have been given and may still be leased for."""
    for batch in batches(list(questions)):
        connection.execute(RECOUNT, {"questions": list(batch)})

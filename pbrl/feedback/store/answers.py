"""Answers as the store keeps them: events are only added, and an answer stands until a later event names it.

A batch of events is looked up and written together: a statement costs as much for one as for many. With it go the
counts of its questions, so that what is open need not be counted when a rater asks for the next.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, Select, bindparam, delete, func, literal_column, select, tuple_, update

from pbrl.feedback.limits import check_json, check_text, is_number, to_utc
from pbrl.feedback.questions import SHOWN, Value, check_outcome
from pbrl.feedback.store.database import batches, insert
from pbrl.feedback.store.schema import EventRow, LeaseRow, QuestionRow, RaterRow
from pbrl.types import UserError

IS_OPEN = QuestionRow.open > literal_column("0")  # no bound value: an index of open questions serves it
CONTENT = [
    EventRow.__table__.c[name] for name in ("question", "rater", "kind", "outcome", "label", "detail", "supersedes")
]
COLUMNS = [column for column in EventRow.__table__.c if column.name not in ("seq", "stored")]


@dataclass(frozen=True)
class Answer:
    """A rater's answer to a question. `uid` is made by the rater, so that sending it twice changes nothing.

    With `kind="retract"` it takes back the answer that `supersedes` names, and with `kind="pass"` it leaves the
    question to others; neither has a value.
    """

    uid: str
    question: str  # id
    rater: str  # name
    value: Value | None = None
    kind: str = "answer"
    confidence: float = 1.0  # from 0 to 1, the weight it is learnt with
    seconds: float | None = None  # how long it took
    time: datetime | None = None  # by the rater's clock
    shown: dict[str, Any] | None = None  # order of the clips, what was played, page version
    supersedes: str | None = None  # uid of an earlier answer

    def row(self) -> dict[str, Any]:
        """What the table of events keeps of it, as of now."""
        own = {name: value for name, value in vars(self).items() if name != "value"}
        outcome, label, detail = self.value or (None, None, None)
        now, time = datetime.now(UTC), self.time and to_utc(self.time)
        return {**own, "time": time, "outcome": outcome, "label": label, "detail": detail, "stored": now}

    def content(self) -> tuple[Any, ...]:
        """What must be the same in an event that is sent again, whenever and from wherever it comes."""
        named = self.supersedes if self.kind == "retract" else None
        return content_of(self.question, self.rater, self.kind, *(self.value or (None, None, None)), named)


def from_row(row: Row) -> Answer:
    """The answer of a row with `COLUMNS`."""
    own = dict(row._mapping)
    outcome, label, detail = own.pop("outcome"), own.pop("label"), own.pop("detail")
    own["time"] = as_utc(own["time"])
    return Answer(**own, value=None if outcome is None else Value(outcome, label, detail))


def as_utc(time: datetime | None) -> datetime | None:
    """A time out of a database, in UTC: SQLite gives UTC without saying so, PostgreSQL a zone of its own."""
    if time is None or time.tzinfo is None:
        return time and time.replace(tzinfo=UTC)
    return time.astimezone(UTC)


def content_of(
    question: str,
    rater: str,
    kind: str,
    outcome: str | None,
    label: float | None,
    detail: dict[str, Any] | None,
    supersedes: str | None,
) -> tuple[Any, ...]:
    """The content of an event, to be compared with another's; `supersedes` counts for retractions alone."""
    return question, rater, kind, outcome, label, json.dumps(detail, sort_keys=True), supersedes


class Refused(UserError):
    """An event that cannot be: about no question or rater there is, or taking back what is another rater's."""


class Conflict(Refused):
    """An event whose uid another event has, of another rater or with other content."""


def check_event(answer: Answer) -> None:
    """Raises UserError where no database could keep an event, whatever it is about."""
    for name, most in (("uid", 36), ("question", 32), ("rater", 64)):
        if not check_text(vars(answer)[name], most, f"an answer's {name}"):
            raise UserError(f"an answer's {name} is empty")
    check_text(answer.supersedes or "", 36, "an answer's supersedes")
    if answer.kind not in ("answer", "retract", "pass") or (answer.kind == "answer") != (answer.value is not None):
        raise UserError(f"an event is an answer with a value, a retract or a pass, not {answer.kind!r:.40}")
    if answer.value is not None:
        check_outcome(answer.value)
    if answer.shown is not None:
        check_json(answer.shown, "`shown`", SHOWN)
    if answer.supersedes is not None and answer.supersedes == answer.uid:
        raise UserError("an answer's supersedes names an earlier one, and not itself")
    if not is_number(answer.confidence, 0, 1):
        raise UserError(f"an answer's confidence is a number from 0 to 1, not {answer.confidence!r:.60}")
    if not (answer.seconds is None or is_number(answer.seconds, 0)):
        raise UserError(f"an answer's seconds are a finite number from 0, not {answer.seconds!r:.60}")
    if answer.time is not None:
        to_utc(answer.time, "an answer's time")


def check_rater_name(name: Any, what: str) -> str:
    """The name of a rater, to which blanks would make another. Raises UserError where it is none."""
    text = check_text(name, 64, what)
    if not text or text != text.strip():
        raise UserError(f"{what} is 1 to 64 characters, without blanks around them, not {text!r:.60}")
    return text


def add_events(connection: Connection, answers: Sequence[Answer]) -> list[int | Refused]:
    """Writes events but those that cannot be; returns their numbers, or why not. Those kept before keep theirs."""
    faults = [_find_fault(one) for one in answers]
    numbers = iter(_Batch(connection, [one for one, why in zip(answers, faults, strict=True) if why is None]).write())
    return [why or next(numbers) for why in faults]


def _find_fault(answer: Answer) -> Refused | None:
    try:
        check_event(answer)
    except UserError as error:
        return Refused(str(error))
    return None


class _Batch:
    """Events of one transaction, looked up and written together: a statement costs as much for one as for many."""

    def __init__(self, connection: Connection, answers: Sequence[Answer]):
        self.connection, self.answers = connection, answers
        uids = [a.uid for a in answers] + [a.supersedes for a in answers if a.supersedes]
        questions = sorted({a.question for a in answers})
        raters = sorted({a.rater for a in answers})
        event = select(EventRow.uid, EventRow.seq, *CONTENT)
        self.events = {row.uid: row for row in self._find(event, EventRow.uid, uids)}
        self.questions = {row.id for row in self._find(select(QuestionRow.id), QuestionRow.id, questions)}
        self.raters = {row.name for row in self._find(select(RaterRow.name), RaterRow.name, raters)}
        standing = current(EventRow.uid, EventRow.question, EventRow.rater)
        found = self._find(standing, EventRow.question, questions)
        self.current = {(row.question, row.rater): row.uid for row in found}
        self.new: dict[str, Answer] = {}

    def _find(self, query: Select, column: Any, values: Sequence[str]) -> list[Any]:
        return [row for batch in batches(values) for row in self.connection.execute(query.where(column.in_(batch)))]

    def write(self) -> list[int | Refused]:
        """One after another, since an event may be about the one before it. What is refused is not written."""
        refused = [self._take(one) for one in self.answers]
        rows = [one.row() for one in self.new.values()]
        numbers = {uid: row.seq for uid, row in self.events.items()}
        if rows:
            new = insert(self.connection.dialect.name, EventRow)
            numbered = new.returning(EventRow.seq, sort_by_parameter_order=True)
            numbers |= zip(self.new, self.connection.execute(numbered, rows).scalars(), strict=True)
            done = [(one.question, one.rater) for one in self.new.values() if one.kind != "retract"]
            for batch in batches(done):
                self.connection.execute(delete(LeaseRow).where(tuple_(LeaseRow.question, LeaseRow.rater).in_(batch)))
            recount(self.connection, sorted({one.question for one in self.new.values()}))
        return [why or numbers[one.uid] for why, one in zip(refused, self.answers, strict=True)]

    def _take(self, answer: Answer) -> Refused | None:
        kept = self._content(answer.uid)
        if kept is not None:
            same = kept == answer.content()
            return None if same else Conflict(f"{answer.uid} is kept already, with another answer or of another rater")
        if answer.question not in self.questions:
            return Refused(f"there is no question {answer.question}")
        if answer.rater not in self.raters:
            return Refused(f"there is no rater {answer.rater}")
        about = answer.question, answer.rater
        if answer.kind == "answer":  # a second answer stands for the first
            answer = replace(answer, supersedes=self.current.get(about))
            self.current[about] = answer.uid
        elif answer.kind == "retract":
            old = self._content(answer.supersedes or "")
            if old is None or old[:3] != (*about, "answer"):
                return Refused(f"{answer.supersedes} is no answer to that question by {answer.rater}")
            if self.current.get(about) == answer.supersedes:
                del self.current[about]
        self.new[answer.uid] = answer
        return None

    def _content(self, uid: str) -> tuple[Any, ...] | None:
        if uid in self.new:
            return self.new[uid].content()
        return row_content(self.events[uid]) if uid in self.events else None


def row_content(row: Row) -> tuple[Any, ...]:
    """The content of a row with the columns of `CONTENT`."""
    named = row.supersedes if row.kind == "retract" else None
    return content_of(row.question, row.rater, row.kind, row.outcome, row.label, row.detail, named)


def current(*columns: Any) -> Select:
    """Of the answers that stand: those that no later event names."""
    return select(*columns).select_from(EventRow).where(EventRow.kind == "answer", STANDS)


def current_at(event: int, *columns: Any) -> Select:
    """Of the answers that stood when the event of that number was the last."""
    later = select(LATER.c.seq).where(LATER.c.supersedes == EventRow.uid, LATER.c.seq <= event).exists()
    return select(*columns).select_from(EventRow).where(EventRow.kind == "answer", EventRow.seq <= event, ~later)


LATER = EventRow.__table__.alias("later")
STANDS = ~select(LATER.c.seq).where(LATER.c.supersedes == EventRow.uid).exists()
# Built once: to build a statement takes longer than to run it.
GIVEN = current(func.count()).where(EventRow.question == QuestionRow.id).correlate(QuestionRow).scalar_subquery()
LEASED = (
    select(func.count())
    .where(LeaseRow.question == QuestionRow.id, LeaseRow.until > literal_column("0"))  # 0: it has run out
    .correlate(QuestionRow)
    .scalar_subquery()
)
RECOUNT = (
    update(QuestionRow)
    .where(QuestionRow.id.in_(bindparam("questions", expanding=True)))
    .values(given=GIVEN, open=QuestionRow.wanted - GIVEN - LEASED)
    .execution_options(synchronize_session=False)
)


def recount(connection: Connection, questions: Sequence[str]) -> None:
    """Counts what these questions have been given and may still be leased for."""
    for batch in batches(list(questions)):
        connection.execute(RECOUNT, {"questions": list(batch)})

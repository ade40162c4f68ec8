"""What the page shows of a data set's questions: how many are open, what a rater has done, how practice goes.

`Progress` keeps up with the events of all raters, whichever server or import adds them: it reads those after the last
one that it knows, and counts nothing twice. Events are numbered in the order of their commits, so none is skipped.
"""

import time
from collections import defaultdict
from dataclasses import dataclass, field
from threading import Lock

from sqlalchemy import Connection, Row, bindparam, func, literal_column, or_, select, union

from pbrl.feedback.questions import Question
from pbrl.feedback.store.answers import IS_OPEN, Answer
from pbrl.feedback.store.schema import EventRow, LeaseRow, QuestionRow
from pbrl.feedback.store.store import Store

LONG_S, PAUSE = 3e-4, 500  # a count that takes longer is made anew after so many times as long
FEW = 50  # questions, which are always counted
EVENTS = (
    select(
        *(EventRow.__table__.c[name] for name in ("seq", "uid", "question", "rater", "kind", "label", "supersedes")),
        QuestionRow.purpose,
        QuestionRow.expected,
    )
    .join(QuestionRow, EventRow.question == QuestionRow.id)
    .where(EventRow.seq > bindparam("since"))
    .order_by(EventRow.seq)
)
_RATER = bindparam("who")
_FOR_PEOPLE = or_(QuestionRow.rater_kind.is_(None), QuestionRow.rater_kind == "human")
OPEN = select(func.count()).select_from(QuestionRow).where(IS_OPEN, _FOR_PEOPLE, QuestionRow.purpose != "practice")
_OWN = union(
    select(EventRow.question).where(EventRow.rater == _RATER, EventRow.kind != "retract"),
    select(LeaseRow.question).where(LeaseRow.rater == _RATER, LeaseRow.until > literal_column("0")),
).subquery()
OWN = (  # each looked up by its id
    select(func.count())
    .select_from(_OWN)
    .join(QuestionRow, QuestionRow.id == _OWN.c.question)
    .where(IS_OPEN, _FOR_PEOPLE, QuestionRow.purpose != "practice")
)


@dataclass
class Record:
    """What one rater has done about a data set."""

    standing: dict[str, str] = field(default_factory=dict)  # question → uid of the answer that stands
    practice: dict[str, tuple[str, bool]] = field(default_factory=dict)  # of these, to practice: uid, whether right
    passed: set[str] = field(default_factory=set)  # questions
    left: int = 0  # questions to be handed out, when they were last counted
    recount_at: float = 0.0  # s

    @property
    def done(self) -> int:
        """Answers that stand, practice aside."""
        return len(self.standing) - len(self.practice)


class Progress:
    """The records of a data set's raters."""

    def __init__(self, store: Store, dataset: str):
        self.store, self.dataset = store, dataset
        self.since = 0  # number of the last event that the records know
        self.records: defaultdict[str, Record] = defaultdict(Record)
        self.lock = Lock()
        self.open, self.recount_at = 0, 0.0  # questions for people, when they were last counted; s

    def catch_up(self) -> None:
        """Reads the events that have come since last time."""
        with self.lock, self.store.reading() as connection:
            self._catch_up(connection)

    def of(self, rater: str) -> Record:
        """The rater's record, as of now."""
        self.catch_up()
        return self.records[rater]

    def count_left(self, rater: str, *, is_all: bool = False, taken: int = 0) -> int:
        """How many questions, practice aside, could still be handed to a rater besides those that are.

        `is_all` says that there was none; `taken` were handed out since the last count. Where counting takes long the
        number may be some seconds old, but not where few are left.
        """
        record, now = self.records[rater], time.monotonic()
        if is_all:
            record.left, record.recount_at = 0, 0.0
        elif now >= record.recount_at or record.left - taken < FEW:
            with self.lock, self.store.reading() as connection:
                record.left = max(0, self._count(connection, rater))
            took = time.monotonic() - now
            record.recount_at = now + (PAUSE * took if took > LONG_S else 0.0)
        else:
            record.left -= taken
        return record.left

    def _count(self, connection: Connection, rater: str) -> int:
        about, now = self.store.conditions(connection, {"dataset": self.dataset}), time.monotonic()
        if now >= self.recount_at or self.open < FEW:
            self.open = connection.execute(OPEN.where(*about)).scalar() or 0
            took = time.monotonic() - now
            self.recount_at = now + (PAUSE * took if took > LONG_S else 0.0)
        return self.open - (connection.execute(OWN.where(*about), {"who": rater}).scalar() or 0)

    def _catch_up(self, connection: Connection) -> None:
        newest = connection.execute(select(func.max(EventRow.seq))).scalar() or 0
        if newest <= self.since:
            return
        about = self.store.conditions(connection, {"dataset": self.dataset})
        for event in connection.execute(EVENTS.where(*about), {"since": self.since}):
            self._take(event)
            newest = max(newest, event.seq)
        self.since = newest

    def _take(self, event: Row) -> None:
        record = self.records[event.rater]
        if event.kind == "pass":
            record.passed.add(event.question)
            return
        if event.supersedes is not None and record.standing.get(event.question) == event.supersedes:
            del record.standing[event.question]
            record.practice.pop(event.question, None)
        if event.kind == "answer":
            record.standing[event.question] = event.uid
            if event.purpose == "practice":
                record.practice[event.question] = event.uid, event.label == event.expected


def count_open(store: Store, dataset: str) -> int:
    """How many questions about a data set still want an answer that no rater is giving yet."""
    with store.reading() as connection:
        conditions = store.conditions(connection, {"dataset": dataset})
        query = select(func.count()).select_from(QuestionRow).where(IS_OPEN, *conditions)
        return connection.execute(query).scalar() or 0


def find_practice(store: Store, dataset: str) -> set[str]:
    """The practice questions about a data set whose right answer is known."""
    with store.reading() as connection:
        wanted = store.conditions(connection, {"dataset": dataset, "purpose": "practice"})
        query = select(QuestionRow.id).where(QuestionRow.expected.is_not(None), *wanted)
        return set(connection.execute(query).scalars())


def answers_with_questions(store: Store, dataset: str) -> list[tuple[Answer, Question]]:
    """All answers about a data set that stand, each with its question."""
    answers = store.answers(dataset=dataset)
    questions = store.questions(sorted({answer.question for answer in answers}))
    return [(answer, questions[answer.question]) for answer in answers]

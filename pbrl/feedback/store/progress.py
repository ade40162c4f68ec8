"""What the page shows of a data set's questions: how many are open, what a rater has done, how practice goes.

`Progress` keeps up with the events of all raters, whichever server or import adds them: it reads those after the last
one that it knows, and counts nothing twice. Events are numbered in the order of their commits, so none is skipped.

How many questions are left for a rater is kept up too, so that it costs the same after ten answers and after ten
thousand; where few are open they are counted in the store, leases included.
"""

import time
from collections import defaultdict
from dataclasses import dataclass, field
from threading import Lock

from sqlalchemy import Connection, Row, bindparam, func, or_, select

from pbrl.feedback.questions import Question
from pbrl.feedback.store.answers import IS_OPEN, Answer
from pbrl.feedback.store.leases import IS_NEW, Handed, Leased
from pbrl.feedback.store.schema import EventRow, QuestionRow
from pbrl.feedback.store.store import Store

LONG_S, PAUSE = 3e-4, 500  # a count that takes longer is made anew after so many times as long
FEW = 50  # questions, which are always counted
EVENTS = (
    select(
        *(EventRow.__table__.c[name] for name in ("seq", "uid", "question", "rater", "kind", "label", "supersedes")),
        QuestionRow.purpose,
        QuestionRow.expected,
        QuestionRow.wanted,
        QuestionRow.rater_kind,
    )
    .join(QuestionRow, EventRow.question == QuestionRow.id)
    .where(EventRow.seq > bindparam("since"))
    .order_by(EventRow.seq)
)
_FOR_PEOPLE = or_(QuestionRow.rater_kind.is_(None), QuestionRow.rater_kind == "human")
OPEN = select(func.count()).select_from(QuestionRow).where(IS_OPEN, _FOR_PEOPLE, QuestionRow.purpose != "practice")
OPEN_TO = OPEN.where(*IS_NEW)  # the rater `who`


@dataclass
class Record:
    """What one rater has done about a data set."""

    standing: dict[str, str] = field(default_factory=dict)  # question → uid of the answer that stands
    practice: dict[str, tuple[str, bool]] = field(default_factory=dict)  # of these, to practice: uid, whether right
    passed: set[str] = field(default_factory=set)  # questions
    open: int = 0  # of all these questions, that still want answers of others

    @property
    def done(self) -> int:
        """Answers that stand, practice aside."""
        return len(self.standing) - len(self.practice)


@dataclass(slots=True)
class Dealt:
    """A question that raters have dealt with. Practice, and what is not for people, wants no answers here."""

    wanted: int
    by: dict[str, str] = field(default_factory=dict)  # rater → "answer" or "pass"

    @property
    def is_open(self) -> bool:
        """Whether it wants more answers."""
        return self.left > 0

    @property
    def left(self) -> int:
        """How many answers it still wants."""
        return self.wanted - sum(kind == "answer" for kind in self.by.values())


class Progress:
    """The records of a data set's raters."""

    def __init__(self, store: Store, dataset: str):
        self.store, self.dataset = store, dataset
        self.since = 0  # number of the last event that the records know
        self.records: defaultdict[str, Record] = defaultdict(Record)
        self.dealt: dict[str, Dealt] = {}  # by the question's id
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

    def count_left(self, rater: str, handed: Handed | None = None) -> int:
        """How many questions, practice aside, could still be handed to a rater besides those that are.

        Where many are open the number may be some seconds old, and off by what others hold.
        """
        if handed is not None and handed.is_all:
            return 0
        held = [] if handed is None else [one for one in handed.leased if self._is_open_besides(one)]
        with self.lock:
            if handed is not None:
                new = handed.leased[len(handed.leased) - handed.new :]
                self.open -= len(new) - sum(one in held for one in new)
            if self.open < FEW or time.monotonic() >= self.recount_at:
                return self._count(rater, len(held))
            return self._left(rater, len(held))

    def _is_open_besides(self, one: Leased) -> bool:
        """Whether a question that one rater holds can still be handed to others."""
        dealt = self.dealt.get(one.id)
        return (one.question.wanted if dealt is None else dealt.left) > 1

    def _left(self, rater: str, held: int) -> int:
        return max(0, self.open - self.records[rater].open - held)

    def _count(self, rater: str, held: int) -> int:
        with self.store.reading() as connection:
            about, began = self.store.conditions(connection, {"dataset": self.dataset}), time.monotonic()
            self.open = connection.execute(OPEN.where(*about)).scalar() or 0
            took = time.monotonic() - began
            self.recount_at = began + (PAUSE * took if took > LONG_S else 0.0)
            if self.open < FEW:
                return connection.execute(OPEN_TO.where(*about), {"who": rater}).scalar() or 0
        return self._left(rater, held)

    def _catch_up(self, connection: Connection) -> None:
        newest = connection.execute(select(func.max(EventRow.seq))).scalar() or 0
        if newest <= self.since:
            return
        about = self.store.conditions(connection, {"dataset": self.dataset})
        for event in connection.execute(EVENTS.where(*about), {"since": self.since}).all():
            self._take(event)
            newest = max(newest, event.seq)
        self.since = newest

    def _take(self, event: Row) -> None:
        record, dealt = self.records[event.rater], self._find(event)
        self._add_open(dealt, -1)
        if event.kind == "pass":
            record.passed.add(event.question)
        elif event.supersedes is not None and record.standing.get(event.question) == event.supersedes:
            del record.standing[event.question]
            record.practice.pop(event.question, None)
        if event.kind == "answer":
            record.standing[event.question] = event.uid
            if event.purpose == "practice":
                record.practice[event.question] = event.uid, event.label == event.expected
        if event.question in record.standing:
            dealt.by[event.rater] = "answer"
        elif event.question in record.passed:
            dealt.by[event.rater] = "pass"
        else:
            dealt.by.pop(event.rater, None)
        self._add_open(dealt, 1)

    def _find(self, event: Row) -> Dealt:
        if event.question not in self.dealt:
            counts = event.purpose != "practice" and event.rater_kind in (None, "human")
            self.dealt[event.question] = Dealt(event.wanted if counts else 0)
        return self.dealt[event.question]

    def _add_open(self, dealt: Dealt, n: int) -> None:
        """Adds n to the count of each rater who has dealt with the question, where it is open."""
        for rater in dealt.by if dealt.is_open else ():
            self.records[rater].open += n


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

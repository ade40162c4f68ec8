"""Where questions and answers are kept: append-only, in SQLite or PostgreSQL, by as many programs as like.

A clip is known by its episode, first step and length, a question by its clips, wording and round; ids are hashes of
just that. An event has an id that its rater made. So storing the same again changes nothing, and a run that was killed
between asking and saving asks again without doubling an answer. A writer holds one lock from its first read to its
commit: leases are exact, and the order of events is the order of commits, so that a reader with a cursor skips none.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, func, select, text, update

from pbrl.feedback.questions import Question, clip_id
from pbrl.feedback.store.answers import (
    GIVEN,
    IS_OPEN,
    LEASED,
    Answer,
    Refused,
    add_events,
    check_rater_name,
    current,
    recount,
)
from pbrl.feedback.store.database import Database, add, batches
from pbrl.feedback.store.datasets import SharingDatasets, register
from pbrl.feedback.store.merging import Merged, Rows, fill_in, merge
from pbrl.feedback.store.reading import read_answers, read_questions
from pbrl.feedback.store.schema import ClipRow, DatasetRow, EventRow, ItemRow, QuestionRow, RaterRow, WordingRow
from pbrl.types import Clip


class Store(Database):
    """Questions and answers at a database `url`, such as `sqlite:///answers.sqlite`.

    `about` narrows questions down: `dataset` (one that was registered), `kind`, `length`, `purpose`.
    """

    def __init__(self, url: str):
        super().__init__(url)
        self.sharing_datasets = SharingDatasets()

    # Asking

    def register(self, episodes: Collection[str]) -> str:
        """Makes a data set of episodes with these ids known; returns its id."""
        with self.writing() as connection:
            dataset = register(connection, episodes)
        self.sharing_datasets = SharingDatasets()
        return dataset

    def has_dataset(self, dataset: str | None) -> bool:
        """Whether a data set with this id was registered."""
        with self.reading() as connection:
            return connection.execute(select(DatasetRow.id).where(DatasetRow.id == dataset)).first() is not None

    def ask(self, questions: Sequence[Question], dataset: str | None = None) -> list[str]:
        """Stores questions; returns their ids, which are the old ones where they were asked before.

        Other words make another question. Where more answers are wanted than before, so many are; never fewer.
        `dataset` is a registered one that holds all clips' episodes; None registers one of just these.
        """
        with self.writing() as connection:
            dataset = dataset or register(connection, {clip.episode for q in questions for clip in q.clips})
            ids = self._ask(connection, questions, dataset)
            _raise_wanted(connection, dict(zip(ids, questions, strict=True)))
            recount(connection, ids)
            if connection.dialect.name == "postgresql" and len(ids) > 1000:
                connection.execute(text("ANALYZE questions"))  # else it sorts them all to find the next
        self.sharing_datasets = SharingDatasets()
        return ids

    def _ask(self, connection: Connection, questions: Sequence[Question], dataset: str) -> list[str]:
        known = {}
        for batch in batches([question.id for question in questions]):
            found = connection.execute(
                select(QuestionRow.same_as, QuestionRow.id).where(QuestionRow.same_as.in_(batch))
            )
            known.update({same_as: question for same_as, question in found})
        new = [question for question in questions if question.id not in known]
        now = datetime.now(UTC)
        clips = {clip_id(clip): clip for question in new for clip in question.clips}
        wordings = {question.wording_id: question.wording for question in new if question.wording}
        add(connection, WordingRow, [{"id": i, "words": dict(words)} for i, words in wordings.items()])
        add(connection, ClipRow, [{"id": i, **clip._asdict()} for i, clip in clips.items()])
        rows = [_row(question, dataset, now) for question in new]
        add(connection, QuestionRow, rows)
        fill_in(connection, rows)
        items = [
            {"question": question.id, "place": place, "clip": clip_id(clip)}
            for question in new
            for place, clip in enumerate(question.clips)
        ]
        add(connection, ItemRow, items)
        return [known.get(question.id, question.id) for question in questions]

    def set_priorities(self, priorities: Mapping[str, float]) -> None:
        """Which questions come first: the higher, the sooner."""
        with self.writing() as connection:
            for question, priority in priorities.items():
                connection.execute(update(QuestionRow).where(QuestionRow.id == question).values(priority=priority))

    def withdraw(self, questions: Sequence[str]) -> int:
        """Asks no more for answers to those of these questions that are open; returns how many they were."""
        with self.writing() as connection:
            found = [
                question
                for batch in batches(questions)
                for question in connection.execute(
                    select(QuestionRow.id).where(IS_OPEN, QuestionRow.id.in_(batch))
                ).scalars()
            ]
            for batch in batches(found):
                closed = update(QuestionRow).where(QuestionRow.id.in_(batch)).values(wanted=QuestionRow.given)
                connection.execute(closed)
                recount(connection, batch)
        return len(found)

    def hand_on(self, questions: Sequence[str], rater_kind: str | None, more: int) -> None:
        """Asks raters of a kind (None: of any) for `more` answers to these questions than were given."""
        with self.writing() as connection:
            for batch in batches(questions):
                handed_on = update(QuestionRow).where(QuestionRow.id.in_(batch))
                connection.execute(handed_on.values(rater_kind=rater_kind, wanted=QuestionRow.given + more))
                recount(connection, batch)

    def questions(self, ids: Sequence[str]) -> dict[str, Question]:
        """The questions with these ids, of those that there are."""
        with self.reading() as connection:
            return read_questions(connection, ids)

    def clips(self, ids: Sequence[str]) -> dict[str, Clip]:
        """The clips with these ids, of those that there are."""
        query = select(ClipRow.id, ClipRow.episode, ClipRow.first, ClipRow.length)
        with self.reading() as connection:
            found = connection.execute(query.where(ClipRow.id.in_(ids), ClipRow.episode.is_not(None)))
            return {name: Clip(*clip) for name, *clip in found}  # type: ignore[arg-type]

    def has_missing(self, questions: Sequence[str]) -> bool:
        """Whether any of these questions still lacks an answer."""
        with self.reading() as connection:
            lacking = (
                select(QuestionRow.id).where(QuestionRow.id.in_(batch), QuestionRow.given < QuestionRow.wanted).limit(1)
                for batch in batches(questions)
            )
            return any(connection.execute(query).first() for query in lacking)

    # Answers

    def add_rater(self, name: str, kind: str, about: dict[str, Any] | None = None, token: str | None = None) -> None:
        """Makes a rater known, once: a human, a vlm or a script. Raises UserError where the name is none."""
        check_rater_name(name, "a rater's name")
        with self.writing() as connection:
            add(connection, RaterRow, [{"name": name, "kind": kind, "about": about, "token": token}])

    def append(self, answers: Sequence[Answer]) -> list[int]:
        """Keeps answers, all or none; returns their numbers. Those kept before keep theirs. Raises Refused."""
        with self.writing() as connection:
            numbers = add_events(connection, answers)
            for one in numbers:
                if isinstance(one, Refused):
                    raise one
        return numbers  # type: ignore[return-value]

    def append_each(self, answers: Sequence[Answer]) -> list[int | Refused]:
        """Keeps answers in one transaction, leaving out those that cannot be; returns their numbers, or why not."""
        with self.writing() as connection:
            return add_events(connection, answers)

    def answers(
        self,
        questions: Sequence[str] | None = None,
        *,
        rater: str | None = None,
        until: int | None = None,
        **about: Any,
    ) -> list[Answer]:
        """Answers that stand, to these questions (None: to all) by `rater` (None: by any), by rounds and positions.

        With `until`, those that stood when the event of that number was the last: events are only ever added.
        """
        with self.reading() as connection:
            conditions = self.conditions(connection, about)
            if rater is not None:
                conditions.append(EventRow.rater == rater)
            return read_answers(connection, conditions, questions, until)

    def last(self) -> int:
        """The number of the last event: while it stays the same, no rater has answered or taken back."""
        with self.reading() as connection:
            return connection.execute(select(func.max(EventRow.seq))).scalar() or 0

    def tail(self, since: int, most: int = 1000) -> list[dict[str, Any]]:
        """Up to `most` events after number `since`, in order: the last one's `seq` is where to go on."""
        query = select(EventRow.__table__).where(EventRow.seq > since).order_by(EventRow.seq).limit(most)
        with self.reading() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def answer_counts(self) -> list[tuple[str, int, int]]:
        """What answers there are: kind of question, steps of the clips, and how many."""
        columns = QuestionRow.kind, QuestionRow.length
        query = current(*columns, func.count()).join(QuestionRow, EventRow.question == QuestionRow.id)
        with self.reading() as connection:
            return [tuple(row) for row in connection.execute(query.group_by(*columns))]  # type: ignore[misc]

    def counts(self, **about: Any) -> dict[str, int]:
        """How many questions were asked, and how many answers given, of them ties, and skips."""
        with self.reading() as connection:
            conditions = self.conditions(connection, about)
            asked = connection.execute(select(func.count()).select_from(QuestionRow).where(*conditions)).scalar() or 0
            outcomes = current(EventRow.outcome, func.count()).join(QuestionRow, EventRow.question == QuestionRow.id)
            outcomes = outcomes.where(*conditions).group_by(EventRow.outcome)
            counted: dict[str, int] = {outcome: count for outcome, count in connection.execute(outcomes)}
        skipped, ties = counted.get("skip", 0), counted.get("tie", 0)
        return {"asked": asked, "answered": sum(counted.values()) - skipped, "ties": ties, "skipped": skipped}

    def conditions(self, connection: Connection, about: Mapping[str, Any]) -> list[Any]:
        """What `about` says of questions, as SQL."""
        columns = QuestionRow.__table__.c
        found: list[Any] = [columns[name] == value for name, value in about.items() if name != "dataset"]
        if about.get("dataset") is not None:
            found.append(self.sharing_datasets.concern(connection, about["dataset"]))
        return found

    def merge(self, rows: Rows) -> Merged:
        """Adds what is not there yet of another store's rows, all or nothing. Raises UserError."""
        with self.writing() as connection:
            merged = merge(connection, rows)
        self.sharing_datasets = SharingDatasets()
        return merged

    def find_miscounted(self) -> list[str]:
        """Questions whose counts differ from their events: none, unless another program has changed them."""
        wrong = (QuestionRow.given != GIVEN) | (QuestionRow.open != QuestionRow.wanted - GIVEN - LEASED)
        with self.reading() as connection:
            return list(connection.execute(select(QuestionRow.id).where(wrong)).scalars())


def _raise_wanted(connection: Connection, asked: Mapping[str, Question]) -> None:
    """Lets the questions with these ids want as many answers as they are asked for now, where that is more."""
    by_wanted: dict[int, list[str]] = {}
    for name, question in asked.items():
        by_wanted.setdefault(question.wanted, []).append(name)
    for wanted, ids in by_wanted.items():
        for batch in batches(ids):
            fewer = QuestionRow.id.in_(batch), QuestionRow.wanted < wanted
            connection.execute(update(QuestionRow).where(*fewer).values(wanted=wanted))


def _row(question: Question, dataset: str, now: datetime) -> dict[str, Any]:
    own = {name: value for name, value in vars(question).items() if name not in ("clips", "wording")}
    return {
        **own,
        "id": question.id,
        "dataset": dataset,
        "length": question.length,
        "asked": now,
        "wording": question.wording_id,
    }

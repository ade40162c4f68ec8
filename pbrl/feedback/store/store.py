"""Where clips, questions and answers are kept: append-only, in SQLite or PostgreSQL, by as many programs as like.

A clip is known by its data set and place, a question by its clips and round; ids are hashes of just that. An event has
an id that its teller made. So storing the same again changes nothing, and whoever was killed between asking and saving
tells again without doubling an answer. Whoever writes holds one lock from the first read to the commit: leases are
exact, and the order of events is the order of commits, so that a reader with a cursor skips none.
"""

import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
from sqlalchemy import Connection, func, select, text, update

from pbrl.feedback.store.database import Database, add, batches
from pbrl.feedback.store.events import GIVEN, IS_OPEN, LEASED, Refused, Told, current, keep, recount
from pbrl.feedback.store.schema import Base, Clip, Event, Item, Question, Rater, Wording


class Answered(NamedTuple):
    """The answers of a round in the order of its questions."""

    starts: np.ndarray  # [Q, k] rows
    label: np.ndarray  # [Q], NaN where skipped
    outcome: np.ndarray  # [Q]
    question: np.ndarray  # [Q] ids


class Store(Database):
    """Questions and answers at a database `url`, such as `sqlite:///answers.sqlite`."""

    # Asking

    def ask(
        self, *, dataset: str, length: int, kind: str, strategy: str, round_: int, starts: np.ndarray, first: int = 0,
        positions: Sequence[int] | None = None, wanted: int = 1, priority: float = 0.0,
        wording: dict[str, Any] | None = None, purpose: str = "learn", expected: Sequence[float] | None = None,
        repeats: Sequence[str] | None = None,
    ) -> list[str]:  # fmt: skip
        """Stores questions about segments that begin at rows `starts` [Q, k]; returns their ids.

        They follow each other in the round from place `first` on, or have `positions` of their own; `wanted` answers by
        different raters are asked for.
        """
        if positions is None:
            positions = range(first, first + len(starts))
        with self.writing() as connection:
            ids = self._ask(
                connection, dataset, length, kind, strategy, round_, starts, positions, wanted=wanted,
                priority=priority, wording=wording, purpose=purpose, expected=expected, repeats=repeats,
            )  # fmt: skip
            recount(connection, ids)
            if connection.dialect.name == "postgresql" and len(ids) > 1000:
                connection.execute(text("ANALYZE questions"))  # else it sorts them all to find the next
        return ids

    def _ask(
        self, connection: Connection, dataset: str, length: int, kind: str, strategy: str, round_: int,
        starts: np.ndarray, positions: Sequence[int], *, wording: dict[str, Any] | None = None,
        expected: Sequence[float] | None = None, repeats: Sequence[str] | None = None, **columns: Any,
    ) -> list[str]:  # fmt: skip
        now = datetime.now(UTC)
        clip_ids = [[identity("clip", dataset, int(row), length) for row in question] for question in starts]
        places = {i: int(r) for ids, rows in zip(clip_ids, starts, strict=True) for i, r in zip(ids, rows, strict=True)}
        questions, items = [], []
        words = identity("wording", wording) if wording else None
        for i, (ids, position) in enumerate(zip(clip_ids, positions, strict=True)):
            question = identity("question", kind, *ids, round_, position)
            questions.append({
                "id": question, "kind": kind, "dataset": dataset, "length": length, "strategy": strategy,
                "round": round_, "position": position, "asked": now, "wording": words,
                "expected": None if expected is None else float(expected[i]),
                "repeats": None if repeats is None else repeats[i], **columns,
            })  # fmt: skip
            items += [{"question": question, "place": place, "clip": clip} for place, clip in enumerate(ids)]
        if wording:
            add(connection, Wording, [{"id": words, "words": wording}])
        clips = [{"id": i, "dataset": dataset, "row": row, "length": length} for i, row in places.items()]
        add(connection, Clip, clips)
        add(connection, Question, questions)
        add(connection, Item, items)
        return [question["id"] for question in questions]

    def set_priorities(self, priorities: dict[str, float]) -> None:
        """Which questions come first: the higher, the sooner."""
        with self.writing() as connection:
            for question, priority in priorities.items():
                connection.execute(update(Question).where(Question.id == question).values(priority=priority))

    def withdraw(self, **about: Any) -> int:
        """Asks no more for answers to the open questions narrowed down as in `answers`; returns how many there were."""
        with self.writing() as connection:
            found = connection.execute(select(Question.id).where(IS_OPEN, *about_question(about))).scalars().all()
            for batch in batches(found):
                connection.execute(update(Question).where(Question.id.in_(batch)).values(wanted=Question.given))
                recount(connection, batch)
        return len(found)

    # What the page asks

    def places(self, clips: Sequence[str], dataset: str | None = None) -> dict[str, tuple[int, int]]:
        """The row at which each of these clips begins and how many steps it has; of those that are there."""
        query = select(Clip.id, Clip.row, Clip.length).where(Clip.id.in_(clips))
        if dataset is not None:
            query = query.where(Clip.dataset == dataset)
        with self.reading() as connection:
            return {clip: (row, length) for clip, row, length in connection.execute(query)}

    def wordings(self, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """What was asked, word for word."""
        with self.reading() as connection:
            found = connection.execute(select(Wording.id, Wording.words).where(Wording.id.in_(ids)))
            return {wording: words for wording, words in found}

    def wanting(self, dataset: str) -> int:
        """How many questions about a data set still want an answer that nobody is giving yet."""
        query = select(func.count()).select_from(Question).where(Question.dataset == dataset, IS_OPEN)
        with self.reading() as connection:
            return connection.execute(query).scalar() or 0

    def wants(self, questions: Sequence[str]) -> bool:
        """Whether any of these questions still lacks an answer, or somebody is looking at it."""
        with self.reading() as connection:
            lacking = (
                select(Question.id).where(Question.id.in_(batch), Question.given < Question.wanted).limit(1)
                for batch in batches(questions)
            )
            return any(connection.execute(query).first() for query in lacking)

    def answered_by(self, rater: str, dataset: str) -> int:
        """How many answers of a rater about a data set stand."""
        query = current(func.count()).join(Question, Event.question == Question.id)
        with self.reading() as connection:
            return connection.execute(query.where(Event.rater == rater, Question.dataset == dataset)).scalar() or 0

    # Answers

    def add_rater(self, name: str, kind: str, about: dict[str, Any] | None = None, token: str | None = None) -> None:
        """Makes somebody known, once: a human, a vlm or a script."""
        with self.writing() as connection:
            add(connection, Rater, [{"name": name, "kind": kind, "about": about, "token": token}])

    def append(self, told: Sequence[Told]) -> list[int]:
        """Keeps events, all or none; returns their numbers. Those kept before keep theirs. Raises Refused."""
        with self.writing() as connection:
            kept = keep(connection, told)
            for one in kept:
                if isinstance(one, Refused):
                    raise one
        return kept  # type: ignore[return-value]

    def append_each(self, told: Sequence[Told]) -> list[int | Refused]:
        """Keeps events in one transaction, leaving out those that cannot be; returns their numbers, or why not."""
        with self.writing() as connection:
            return keep(connection, told)

    def record(
        self, *, dataset: str, length: int, kind: str, strategy: str, round_: int, starts: np.ndarray, author: str,
        label: np.ndarray, outcome: np.ndarray, confidence: float = 1.0, first: int = 0, by: str = "script",
    ) -> list[str]:  # fmt: skip
        """Stores questions, starts [Q, k], with their answers, all or nothing; returns the questions' ids."""
        with self.writing() as connection:
            add(connection, Rater, [{"name": author, "kind": by}])
            positions = range(first, first + len(starts))
            ids = self._ask(connection, dataset, length, kind, strategy, round_, starts, positions)
            told = [
                Told(identity("answer", question, author), question, author, outcome=str(o), confidence=confidence,
                     label=None if np.isnan(value) else float(value))
                for question, value, o in zip(ids, label, outcome, strict=True)
            ]  # fmt: skip
            add(connection, Event, [one.row() for one in told])
            recount(connection, ids)
        return ids

    def answers(
        self, questions: Sequence[str] | None = None, author: str | None = None, *,
        sureness: Sequence[float] | None = None, **about: Any,
    ) -> Answered:  # fmt: skip
        """Answers that stand, to these questions (None: to all) by `author` (None: by anyone), by rounds and positions.

        `about` narrows down what they are about: `dataset`, `length`, `kind`, `purpose`. Where it was said by how much
        a clip is better, `sureness` has P(better) for each strength; without, it is 1.
        """
        found = self._standing((Event.label, Event.outcome, Event.question, Event.detail), questions, author, about)
        starts, label, outcome, question, detail = zip(*found, strict=True) if found else ((), (), (), (), ())
        value = np.array([np.nan if x is None else x for x in label], np.float64)
        for i, more in enumerate(detail):
            if sureness and more and "strength" in more:
                sure = sureness[more["strength"] - 1]
                value[i] = sure if value[i] > 0.5 else 1 - sure
        return Answered(np.array(starts, np.int64), value, np.array(outcome, object), np.array(question, object))

    def details(
        self, author: str | None = None, questions: Sequence[str] | None = None, **about: Any
    ) -> list[tuple[list[int], str, dict[str, Any]]]:
        """The same of answers that are more than a number: first rows of the clips, the question, what was said."""
        return self._standing(
            (Event.question, Event.detail), questions, author, {**about, "outcome": ("answer", "tie")}
        )

    def _standing(
        self, columns: tuple[Any, ...], questions: Sequence[str] | None, author: str | None, about: dict[str, Any]
    ) -> list[tuple]:
        about = dict(about)
        query = (
            current(Event.seq, Clip.row, *columns)
            .join(Question, Event.question == Question.id)
            .join(Item, Item.question == Question.id)
            .join(Clip, Item.clip == Clip.id)
            .where(Event.outcome.in_(about.pop("outcome", ("answer", "tie", "skip"))), *about_question(about))
            .order_by(Question.round, Question.position, Event.seq, Item.place)
        )
        if author is not None:
            query = query.where(Event.rater == author)
        queries = [query]
        if questions is not None:
            queries = [query.where(Question.id.in_(batch)) for batch in batches(questions)]
        with self.reading() as connection:
            rows = [row for query in queries for row in connection.execute(query).all()]
        found: dict[int, tuple] = {}
        for seq, row, *said in rows:
            found.setdefault(seq, ([], *said))[0].append(row)
        return list(found.values())

    def practice(self, rater: str, dataset: str) -> tuple[int, dict[str, tuple[str, bool]]]:
        """How many practice questions there are, and of those that a rater has answered the uid and whether right."""
        wanted = Question.purpose == "practice", Question.dataset == dataset
        asked = select(func.count()).select_from(Question).where(*wanted)
        query = current(Event.question, Event.uid, Event.label, Question.expected)
        query = query.join(Question, Event.question == Question.id).where(*wanted, Event.rater == rater)
        with self.reading() as connection:
            found = {question: (uid, label == right) for question, uid, label, right in connection.execute(query)}
            return connection.execute(asked).scalar() or 0, found

    def standing(self, dataset: str) -> list[dict[str, Any]]:
        """Answers that stand about a data set, with what their questions were for, in order."""
        columns = (Event.question, Event.rater, Question.kind, Event.outcome, Event.label, Event.seconds, Event.shown,
                   Question.purpose, Question.expected, Question.repeats)  # fmt: skip
        query = current(*columns).join(Question, Event.question == Question.id)
        with self.reading() as connection:
            rows = connection.execute(query.where(Question.dataset == dataset).order_by(Event.seq)).mappings()
            return [dict(row) for row in rows]

    def last(self) -> int:
        """The number of the last event: while it stays the same, nobody has said anything."""
        with self.reading() as connection:
            return connection.execute(select(func.max(Event.seq))).scalar() or 0

    def tail(self, since: int, most: int = 1000) -> list[dict[str, Any]]:
        """Up to `most` events after number `since`, in order: the last one's `seq` is where to go on."""
        query = select(Event.__table__).where(Event.seq > since).order_by(Event.seq).limit(most)
        with self.reading() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def held(self) -> list[tuple[str, str, int, int]]:
        """What there are answers about: data set, kind of question, length of segments, and how many."""
        columns = Question.dataset, Question.kind, Question.length
        query = current(*columns, func.count()).join(Question, Event.question == Question.id).group_by(*columns)
        with self.reading() as connection:
            return [tuple(row) for row in connection.execute(query)]  # type: ignore[misc]

    def counts(self, **about: Any) -> dict[str, int]:
        """How many questions were asked, and how many answers given, of them ties, and skips."""
        asked = select(func.count()).select_from(Question).where(*about_question(about))
        outcomes = (
            current(Event.outcome, func.count())
            .join(Question, Event.question == Question.id)
            .where(*about_question(about))
            .group_by(Event.outcome)
        )
        with self.reading() as connection:
            n = connection.execute(asked).scalar() or 0
            by_outcome: dict[str, int] = {outcome: count for outcome, count in connection.execute(outcomes)}
        skipped, ties = by_outcome.get("skip", 0), by_outcome.get("tie", 0)
        return {"asked": n, "answered": sum(by_outcome.values()) - skipped, "ties": ties, "skipped": skipped}

    def add(self, rows: dict[type[Base], list[dict]]) -> None:
        """Adds rows of tables that are not there yet, as another store gave them."""
        with self.writing() as connection:
            for model, entries in rows.items():
                add(connection, model, entries)
            recount(connection, [row["id"] for row in rows[Question]])

    def miscounted(self) -> list[str]:
        """Questions whose counts differ from their events: none, unless somebody else has changed them."""
        wrong = (Question.given != GIVEN) | (Question.open != Question.wanted - GIVEN - LEASED)
        with self.reading() as connection:
            return list(connection.execute(select(Question.id).where(wrong)).scalars())


def about_question(about: dict[str, Any]) -> list[Any]:
    return [getattr(Question, name) == value for name, value in about.items()]


def identity(*parts: Any) -> str:
    """A hash of what makes a thing what it is: the same everywhere."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]

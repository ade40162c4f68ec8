"""Where clips, questions and answers are kept: append-only, in SQLite or PostgreSQL, by as many programs as like.

A clip is known by its data set and place, a question by its clips and round; ids are hashes of just that. An event has
an id that its teller made. So storing the same again changes nothing, and whoever was killed between asking and saving
tells again without doubling an answer. Whoever writes holds one lock from the first read to the commit: leases are
exact, and the order of events is the order of commits, so that a reader with a cursor skips none.
"""

import hashlib
import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
from sqlalchemy import Connection, Engine, Select, create_engine, delete, event, func, make_url, select, tuple_, update
from sqlalchemy.exc import DatabaseError, SQLAlchemyError

from pbrl.feedback import migrations
from pbrl.feedback.schema import HEAD, Base, Clip, Event, Item, Lease, Question, Rater, Wording
from pbrl.types import UserError

BATCH = 500  # rows per statement, below SQLite's limit on bound values
LOCK = 7_263_401  # of PostgreSQL's advisory locks: whoever writes holds it


class Answered(NamedTuple):
    """The answers of a round in the order of its questions."""

    starts: np.ndarray  # [Q, k] rows
    label: np.ndarray  # [Q], NaN where skipped
    outcome: np.ndarray  # [Q]
    question: np.ndarray  # [Q] ids


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


class Leased(NamedTuple):
    """A question that was handed out, `until` then (seconds since 1970)."""

    question: str
    kind: str
    clips: tuple[str, ...]
    wording: str | None
    purpose: str
    expected: float | None  # the right label, of practice and gold
    until: float


class Refused(UserError):
    """What was told cannot be: of no question or rater there is, or taking back what is another's."""


class Store:
    """Answers at a database `url`, such as `sqlite:///answers.sqlite`. On any trouble a UserError says what to do."""

    def __init__(self, url: str):
        self.url = url
        try:
            kind = make_url(url).get_backend_name()
            if kind not in ("sqlite", "postgresql"):
                raise UserError(f"answers are kept in SQLite or PostgreSQL, not in {kind}")
            self.engine: Engine = create_engine(url, pool_pre_ping=True)
            if kind == "sqlite":
                event.listen(self.engine, "connect", _patient)
                event.listen(self.engine, "begin", _begin)
            self._bring_up_to_date()
        except (SQLAlchemyError, ImportError) as error:
            raise _trouble(url, error) from error

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
        with self._writing() as connection:
            ids = self._ask(
                connection, dataset, length, kind, strategy, round_, starts, positions, wanted=wanted,
                priority=priority, wording=wording, purpose=purpose, expected=expected, repeats=repeats,
            )  # fmt: skip
            _recount(connection, ids)
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
            _add(connection, Wording, [{"id": words, "words": wording}])
        clips = [{"id": i, "dataset": dataset, "row": row, "length": length} for i, row in places.items()]
        _add(connection, Clip, clips)
        _add(connection, Question, questions)
        _add(connection, Item, items)
        return [question["id"] for question in questions]

    def set_priorities(self, priorities: dict[str, float]) -> None:
        """Which questions come first: the higher, the sooner."""
        with self._writing() as connection:
            for question, priority in priorities.items():
                connection.execute(update(Question).where(Question.id == question).values(priority=priority))

    def withdraw(self, **about: Any) -> int:
        """Asks no more for answers to the open questions narrowed down as in `answers`; returns how many there were."""
        with self._writing() as connection:
            found = connection.execute(select(Question.id).where(Question.open > 0, *_about(about))).scalars().all()
            for batch in _batches(found):
                connection.execute(update(Question).where(Question.id.in_(batch)).values(wanted=Question.given))
                _recount(connection, batch)
        return len(found)

    # Leases

    def lease(
        self, rater: str, n: int, *, seconds: float = 120.0, now: float | None = None, **about: Any
    ) -> list[Leased]:
        """Hands `rater` up to n questions, those held already first; nobody is given an answer too many to give.

        A question that the rater has answered or passed on is not handed out again. `about` narrows down as in
        `answers`.
        """
        now = time.time() if now is None else now
        with self._writing() as connection:
            late = delete(Lease).where(Lease.until < now, Lease.rater != rater).returning(Lease.question)
            _recount(connection, connection.execute(late).scalars().all())
            mine = select(Lease.question).where(Lease.rater == rater)
            held = select(Question.id).where(Question.id.in_(mine), *_about(about)).order_by(*_ORDER).limit(n)
            held = connection.execute(held).scalars().all()
            until = now + seconds
            if held:
                again = update(Lease).where(Lease.rater == rater, Lease.question.in_(held))
                connection.execute(again.values(until=until))
            by_rater = Event.question == Question.id, Event.rater == rater
            new = (
                select(Question.id)
                .where(Question.open > 0, ~Question.id.in_(mine), *_about(about))
                .where(~_current(Event.seq).where(*by_rater).exists())
                .where(~select(Event.seq).where(*by_rater, Event.kind == "pass").exists())
                .order_by(*_ORDER)
                .limit(n - len(held))
            )
            new = connection.execute(new).scalars().all()
            _add(connection, Lease, [{"question": q, "rater": rater, "until": until} for q in new])
            _recount(connection, new)
            return _leased(connection, [*held, *new], until)

    def question(self, question: str) -> Leased | None:
        """What was asked, if it was."""
        with self.reading() as connection:
            try:
                return _leased(connection, [question], 0.0)[0]
            except KeyError:
                return None

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
        query = select(func.count()).select_from(Question).where(Question.dataset == dataset, Question.open > 0)
        with self.reading() as connection:
            return connection.execute(query).scalar() or 0

    def wants(self, questions: Sequence[str]) -> bool:
        """Whether any of these questions still lacks an answer, or somebody is looking at it."""
        with self.reading() as connection:
            lacking = (
                select(Question.id).where(Question.id.in_(batch), Question.given < Question.wanted).limit(1)
                for batch in _batches(questions)
            )
            return any(connection.execute(query).first() for query in lacking)

    def answered_by(self, rater: str, dataset: str) -> int:
        """How many answers of a rater about a data set stand."""
        query = _current(func.count()).join(Question, Event.question == Question.id)
        with self.reading() as connection:
            return connection.execute(query.where(Event.rater == rater, Question.dataset == dataset)).scalar() or 0

    def release(self, rater: str, questions: Sequence[str] | None = None) -> None:
        """Gives leases back: of these questions (None: all)."""
        with self._writing() as connection:
            query = delete(Lease).where(Lease.rater == rater)
            if questions is not None:
                query = query.where(Lease.question.in_(questions))
            _recount(connection, connection.execute(query.returning(Lease.question)).scalars().all())

    # Answers

    def add_rater(self, name: str, kind: str, about: dict[str, Any] | None = None, token: str | None = None) -> None:
        """Makes somebody known, once: a human, a vlm or a script."""
        with self._writing() as connection:
            _add(connection, Rater, [{"name": name, "kind": kind, "about": about, "token": token}])

    def append(self, told: Sequence[Told]) -> list[int]:
        """Keeps events, all or none; returns their numbers. Those kept before keep theirs. Raises Refused."""
        with self._writing() as connection:
            kept = _Batch(connection, told).keep()
            for one in kept:
                if isinstance(one, Refused):
                    raise one
        return kept  # type: ignore[return-value]

    def append_each(self, told: Sequence[Told]) -> list[int | Refused]:
        """Keeps events in one transaction, leaving out those that cannot be; returns their numbers, or why not."""
        with self._writing() as connection:
            return _Batch(connection, told).keep()

    def record(
        self, *, dataset: str, length: int, kind: str, strategy: str, round_: int, starts: np.ndarray, author: str,
        label: np.ndarray, outcome: np.ndarray, confidence: float = 1.0, first: int = 0, by: str = "script",
    ) -> list[str]:  # fmt: skip
        """Stores questions, starts [Q, k], with their answers, all or nothing; returns the questions' ids."""
        with self._writing() as connection:
            _add(connection, Rater, [{"name": author, "kind": by}])
            positions = range(first, first + len(starts))
            ids = self._ask(connection, dataset, length, kind, strategy, round_, starts, positions)
            told = [
                Told(identity("answer", question, author), question, author, outcome=str(o), confidence=confidence,
                     label=None if np.isnan(value) else float(value))
                for question, value, o in zip(ids, label, outcome, strict=True)
            ]  # fmt: skip
            _add(connection, Event, [_row(one) for one in told])
            _recount(connection, ids)
        return ids

    def answers(self, questions: Sequence[str] | None = None, author: str | None = None, **about: Any) -> Answered:
        """Answers that stand, to these questions (None: to all) by `author` (None: by anyone), by rounds and positions.

        `about` narrows down what they are about: `dataset`, `length`, `kind`, `purpose`.
        """
        found = self._standing((Event.label, Event.outcome, Event.question), questions, author, about)
        starts, label, outcome, question = zip(*found, strict=True) if found else ((), (), (), ())
        value = np.array([np.nan if x is None else x for x in label], np.float64)
        return Answered(np.array(starts, np.int64), value, np.array(outcome, object), np.array(question, object))

    def details(self, author: str | None = None, **about: Any) -> list[tuple[list[int], str, dict[str, Any]]]:
        """The same of answers that are more than a number: first rows of the clips, the question, what was said."""
        return self._standing((Event.question, Event.detail), None, author, {**about, "outcome": ("answer", "tie")})

    def _standing(
        self, columns: tuple[Any, ...], questions: Sequence[str] | None, author: str | None, about: dict[str, Any]
    ) -> list[tuple]:
        about = dict(about)
        query = (
            _current(Event.seq, Clip.row, *columns)
            .join(Question, Event.question == Question.id)
            .join(Item, Item.question == Question.id)
            .join(Clip, Item.clip == Clip.id)
            .where(Event.outcome.in_(about.pop("outcome", ("answer", "tie", "skip"))), *_about(about))
            .order_by(Question.round, Question.position, Event.seq, Item.place)
        )
        if author is not None:
            query = query.where(Event.rater == author)
        queries = [query]
        if questions is not None:
            queries = [query.where(Question.id.in_(batch)) for batch in _batches(questions)]
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
        query = _current(Event.question, Event.uid, Event.label, Question.expected)
        query = query.join(Question, Event.question == Question.id).where(*wanted, Event.rater == rater)
        with self.reading() as connection:
            found = {question: (uid, label == right) for question, uid, label, right in connection.execute(query)}
            return connection.execute(asked).scalar() or 0, found

    def standing(self, dataset: str) -> list[dict[str, Any]]:
        """Answers that stand about a data set, with what their questions were for, in order."""
        columns = (Event.question, Event.rater, Question.kind, Event.outcome, Event.label, Event.seconds, Event.shown,
                   Question.purpose, Question.expected, Question.repeats)  # fmt: skip
        query = _current(*columns).join(Question, Event.question == Question.id)
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
        query = _current(*columns, func.count()).join(Question, Event.question == Question.id).group_by(*columns)
        with self.reading() as connection:
            return [tuple(row) for row in connection.execute(query)]  # type: ignore[misc]

    def counts(self, **about: Any) -> dict[str, int]:
        """How many questions were asked, and how many answers given, of them ties, and skips."""
        asked = select(func.count()).select_from(Question).where(*_about(about))
        outcomes = (
            _current(Event.outcome, func.count())
            .join(Question, Event.question == Question.id)
            .where(*_about(about))
            .group_by(Event.outcome)
        )
        with self.reading() as connection:
            n = connection.execute(asked).scalar() or 0
            by_outcome: dict[str, int] = {outcome: count for outcome, count in connection.execute(outcomes)}
        skipped, ties = by_outcome.get("skip", 0), by_outcome.get("tie", 0)
        return {"asked": n, "answered": sum(by_outcome.values()) - skipped, "ties": ties, "skipped": skipped}

    def add(self, rows: dict[type[Base], list[dict]]) -> None:
        """Adds rows of tables that are not there yet, as another store gave them."""
        with self._writing() as connection:
            for model, entries in rows.items():
                _add(connection, model, entries)
            _recount(connection, [row["id"] for row in rows[Question]])

    def miscounted(self) -> list[str]:
        """Questions whose counts differ from their events: none, unless somebody else has changed them."""
        wrong = (Question.given != _given()) | (Question.open != Question.wanted - _given() - _out())
        with self.reading() as connection:
            return list(connection.execute(select(Question.id).where(wrong)).scalars())

    # The database

    def _bring_up_to_date(self) -> None:
        with self.engine.connect() as connection:
            if migrations.version(connection) == HEAD:
                return
        with self._writing() as connection:
            migrations.upgrade(connection)

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        """A transaction that nobody else writes beside."""
        try:
            with self.engine.connect().execution_options(writes=True) as connection, connection.begin():
                if self.engine.dialect.name == "postgresql":
                    connection.execute(select(func.pg_advisory_xact_lock(LOCK)))
                yield connection
        except SQLAlchemyError as error:
            raise _trouble(self.url, error) from error

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection to look, whoever writes meanwhile."""
        try:
            with self.engine.connect() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise _trouble(self.url, error) from error


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
        current = self._find(_current(Event.uid, Event.question, Event.rater), Event.question, questions)
        self.current = {(row.question, row.rater): row.uid for row in current}
        self.new: dict[str, Told] = {}

    def _find(self, query: Select, column: Any, values: Sequence[str]) -> list[Any]:
        return [row for batch in _batches(values) for row in self.connection.execute(query.where(column.in_(batch)))]

    def keep(self) -> list[int | Refused]:
        """One after another, since an event may be about the one before it. What is refused is not written."""
        refused = [self._take(one) for one in self.told]
        rows = [_row(one) for one in self.new.values()]
        numbers = {uid: row.seq for uid, row in self.events.items()}
        if rows:
            insert = _insert(self.connection, Event).returning(Event.seq, sort_by_parameter_order=True)
            numbers |= zip(self.new, self.connection.execute(insert, rows).scalars(), strict=True)
            done = [(one.question, one.rater) for one in self.new.values() if one.kind != "retract"]
            for batch in _batches(done):
                self.connection.execute(delete(Lease).where(tuple_(Lease.question, Lease.rater).in_(batch)))
            _recount(self.connection, sorted({one.question for one in self.new.values()}))
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


_ORDER = (Question.priority.desc(), Question.round, Question.position, Question.id)


def _current(*columns: Any) -> Select:
    """Of the answers that stand: those that no later event names."""
    later = Event.__table__.alias("later")
    stands = ~select(later.c.seq).where(later.c.supersedes == Event.uid).exists()
    return select(*columns).select_from(Event).where(Event.kind == "answer", stands)


def _given() -> Any:
    return _current(func.count()).where(Event.question == Question.id).correlate(Question).scalar_subquery()


def _out() -> Any:
    return select(func.count()).where(Lease.question == Question.id).correlate(Question).scalar_subquery()


def _recount(connection: Connection, questions: Sequence[str]) -> None:
    """Counts what these questions have been given and may still be leased for."""
    for batch in _batches(list(questions)):
        connection.execute(
            update(Question)
            .where(Question.id.in_(batch))
            .values(given=_given(), open=Question.wanted - _given() - _out())
        )


def _leased(connection: Connection, questions: Sequence[str], until: float) -> list[Leased]:
    rows = connection.execute(select(Question.__table__).where(Question.id.in_(questions)))
    found = {row.id: row for row in rows}
    clips: dict[str, list[str]] = {}
    items = select(Item.question, Item.clip).where(Item.question.in_(questions)).order_by(Item.question, Item.place)
    for question, clip in connection.execute(items):
        clips.setdefault(question, []).append(clip)
    in_order = [found[q] for q in questions]
    return [Leased(q.id, q.kind, tuple(clips[q.id]), q.wording, q.purpose, q.expected, until) for q in in_order]


def _about(about: dict[str, Any]) -> list[Any]:
    return [getattr(Question, name) == value for name, value in about.items()]


def _batches(rows: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (rows[i : i + BATCH] for i in range(0, len(rows), BATCH))


def _row(told: Told) -> dict[str, Any]:
    return {**vars(told), "kept": datetime.now(UTC)}


def _insert(connection: Connection, model: type[Base]) -> Any:
    if connection.dialect.name == "sqlite":
        from sqlalchemy.dialects.sqlite import insert
    else:
        from sqlalchemy.dialects.postgresql import insert
    return insert(model)


def _add(connection: Connection, model: type[Base], rows: list[dict]) -> None:
    """Adds rows that are not there yet."""
    for batch in _batches(rows):
        connection.execute(_insert(connection, model).on_conflict_do_nothing(), batch)


def _patient(connection, _record) -> None:
    connection.isolation_level = None  # transactions begin where we say so
    connection.execute("PRAGMA busy_timeout = 5000")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = FULL")
    try:
        connection.execute("PRAGMA journal_mode = WAL")
    except sqlite3.OperationalError:  # a read-only file: reading works, and writing says so
        return


def _begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get("writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def identity(*parts: Any) -> str:
    """A hash of what makes a thing what it is: the same everywhere."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _trouble(url: str, error: Exception) -> UserError:
    reason = str(getattr(error, "orig", None) or error).splitlines()[0]
    hints: Iterable[tuple[str, str]] = (
        ("locked", "another program holds it: close that, then start again with the same command"),
        ("readonly", "make the file and its folder writable, or name another store with store=sqlite:///…"),
        ("full", "free some space, then start again with the same command"),
        ("unable to open", "its folder must exist and be writable"),
        ("not a database", "the file is damaged or something else; move it away"),
        ("No module named", "install that driver"),
    )
    advice = next((hint for word, hint in hints if word in reason), "check the address and the database")
    kind = "database" if isinstance(error, DatabaseError) else "store"
    return UserError(f"the {kind} of answers at {url} refused ({reason}): {advice}. Answers stored before are safe.")

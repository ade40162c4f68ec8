"""Where clips, questions and answers are kept: three SQL tables, append-only, on any database that SQLAlchemy speaks.

A clip is known by its data set and place, a question by its clips and round, an answer by its question and author; ids
are hashes of just that. So storing the same again changes nothing, and a run that was killed between asking and saving
asks again without doubling an answer.
"""

import hashlib
import json
import sqlite3
import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sqlalchemy import DateTime, Engine, Float, ForeignKey, Integer, String, create_engine, event, func, select
from sqlalchemy.exc import DatabaseError, SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from pbrl.types import UserError

BATCH = 500  # rows per statement, below SQLite's limit on bound values


class Base(DeclarativeBase):
    pass


class Clip(Base):
    """A segment of an episode of a data set."""

    __tablename__ = "clips"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    dataset: Mapped[str] = mapped_column(String(64))  # content hash
    row: Mapped[int] = mapped_column(Integer)  # start row in the table of that data set
    length: Mapped[int] = mapped_column(Integer)  # steps


class Question(Base):
    """Clips to be judged: `kind` is pair or rating."""

    __tablename__ = "questions"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    first: Mapped[str] = mapped_column(ForeignKey("clips.id"))
    second: Mapped[str | None] = mapped_column(ForeignKey("clips.id"))
    strategy: Mapped[str] = mapped_column(String(32))
    round: Mapped[int] = mapped_column(Integer)
    position: Mapped[int] = mapped_column(Integer)  # in its round
    asked: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class Answer(Base):
    """Who said what of a question. `outcome` is answer, tie or skip; `label` is P(second preferred), or a rating."""

    __tablename__ = "answers"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    question: Mapped[str] = mapped_column(ForeignKey("questions.id"), index=True)
    author: Mapped[str] = mapped_column(String(64))
    outcome: Mapped[str] = mapped_column(String(8))
    label: Mapped[float | None] = mapped_column(Float)
    confidence: Mapped[float] = mapped_column(Float)
    seconds: Mapped[float | None] = mapped_column(Float)  # how long it took, where a clock ran
    answered: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class Answered(NamedTuple):
    """The answers of a round in the order of its questions."""

    starts: np.ndarray  # [Q, k] rows
    label: np.ndarray  # [Q], NaN where skipped
    outcome: np.ndarray  # [Q]


class Store:
    """Answers at a database `url`, such as `sqlite:///answers.sqlite`. On any trouble a UserError says what to do."""

    def __init__(self, url: str):
        self.url = url
        try:
            self.engine: Engine = create_engine(url)
            if self.engine.dialect.name == "sqlite":
                event.listen(self.engine, "connect", _patient)
            Base.metadata.create_all(self.engine)
        except (SQLAlchemyError, ImportError) as error:
            raise _trouble(url, error) from error

    def record(
        self, *, dataset: str, length: int, kind: str, strategy: str, round_: int, starts: np.ndarray, author: str,
        label: np.ndarray, outcome: np.ndarray, confidence: float = 1.0, first: int = 0,
    ) -> list[str]:  # fmt: skip
        """Stores questions of a round, starts [Q, k], with their answers, all or nothing; returns the questions' ids.

        `first` is the place in the round of the first one.
        """
        now = datetime.now(UTC)
        clip_ids = [[_id("clip", dataset, int(row), length) for row in question] for question in starts]
        places = {
            i: int(row) for ids, rows in zip(clip_ids, starts, strict=True) for i, row in zip(ids, rows, strict=True)
        }
        clips = [{"id": i, "dataset": dataset, "row": row, "length": length} for i, row in places.items()]
        questions, answers = [], []
        for i, ids in enumerate(clip_ids):
            position = first + i
            question = _id("question", kind, *ids, round_, position)
            second = ids[1] if len(ids) > 1 else None
            questions.append({"id": question, "kind": kind, "first": ids[0], "second": second, "strategy": strategy,
                              "round": round_, "position": position, "asked": now})  # fmt: skip
            value = None if np.isnan(label[i]) else float(label[i])
            answers.append({"id": _id("answer", question, author), "question": question, "author": author,
                            "outcome": str(outcome[i]), "label": value, "confidence": confidence,
                            "seconds": None, "answered": now})  # fmt: skip
        self._insert({Clip: clips, Question: questions, Answer: answers})
        return [question["id"] for question in questions]

    def answers(self, questions: Sequence[str] | None = None, author: str | None = None, **about: Any) -> Answered:
        """Answers to these questions (None: to all) by `author` (None: by anyone), by rounds and positions.

        `about` narrows down what they are about: `dataset`, `length`, `kind`.
        """
        first, second = Clip.__table__.alias("first"), Clip.__table__.alias("second")
        query = (
            select(Question.position, first.c.row, second.c.row, Answer.label, Answer.outcome)
            .join(Question, Answer.question == Question.id)
            .join(first, Question.first == first.c.id)
            .outerjoin(second, Question.second == second.c.id)
            .order_by(Question.round, Question.position, Answer.answered, Answer.id)
        )
        if author is not None:
            query = query.where(Answer.author == author)
        for name, value in about.items():
            query = query.where((Question.kind if name == "kind" else first.c[name]) == value)
        queries = [query]
        if questions is not None:
            batches = [questions[i : i + BATCH] for i in range(0, len(questions), BATCH)]
            queries = [query.where(Question.id.in_(batch)) for batch in batches]
        try:
            with self.engine.connect() as connection:
                rows = [row for query in queries for row in connection.execute(query).all()]
        except SQLAlchemyError as error:
            raise _trouble(self.url, error) from error
        starts = np.array([[a] if b is None else [a, b] for _, a, b, _, _ in rows], np.int64)
        label = np.array([np.nan if r[3] is None else r[3] for r in rows], np.float64)
        return Answered(starts, label, np.array([r[4] for r in rows], object))

    def held(self) -> list[tuple[str, str, int, int]]:
        """What there are answers about: data set, kind of question, length of segments, and how many."""
        clip = Clip.__table__
        columns = clip.c.dataset, Question.kind, clip.c.length
        query = (
            select(*columns, func.count())
            .select_from(Answer)
            .join(Question, Answer.question == Question.id)
            .join(clip, Question.first == clip.c.id)
            .group_by(*columns)
        )
        try:
            with self.engine.connect() as connection:
                return [tuple(row) for row in connection.execute(query)]  # type: ignore[misc]
        except SQLAlchemyError as error:
            raise _trouble(self.url, error) from error

    def counts(self) -> dict[str, int]:
        """How many questions were asked, and how many of them answered, called a tie, and skipped."""
        try:
            with Session(self.engine) as session:
                asked = session.scalar(select(func.count()).select_from(Question)) or 0
                by_outcome = {
                    o: n for o, n in session.execute(select(Answer.outcome, func.count()).group_by(Answer.outcome))
                }
        except SQLAlchemyError as error:
            raise _trouble(self.url, error) from error
        skipped, ties = by_outcome.get("skip", 0), by_outcome.get("tie", 0)
        return {"asked": asked, "answered": sum(by_outcome.values()) - skipped, "ties": ties, "skipped": skipped}

    def export(self, path: str | Path) -> int:
        """Writes every answer, with its question and clips, to .jsonl or .parquet; returns how many."""
        rows = list(self._flat())
        path = Path(path)
        if path.suffix == ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        elif path.suffix == ".parquet":
            pyarrow = _pyarrow()
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        else:
            raise UserError(f"{path}: answers are exported to .jsonl or .parquet")
        return len(rows)

    def load(self, path: str | Path) -> int:
        """Adds the answers of an exported file to what is there; returns how many the file held. Raises UserError."""
        path = Path(path)
        try:
            if path.suffix == ".parquet":
                rows = _pyarrow().parquet.read_table(path).to_pylist()
            else:
                rows = [json.loads(line) for line in path.read_text().splitlines()]
            parts: dict[type[Base], dict[str, dict]] = {Clip: {}, Question: {}, Answer: {}}
            for row in rows:
                for model, prefix in (
                    (Clip, "first_"),
                    (Clip, "second_"),
                    (Question, "question_"),
                    (Answer, "answer_"),
                ):
                    entry = {key.removeprefix(prefix): value for key, value in row.items() if key.startswith(prefix)}
                    if entry["id"] is not None:
                        for when in ("asked", "answered"):
                            if when in entry:
                                entry[when] = datetime.fromisoformat(entry[when])
                        parts[model][entry["id"]] = entry
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is not an export of answers ({error!r})") from error
        self._insert({model: list(entries.values()) for model, entries in parts.items()})
        return len(rows)

    def _flat(self) -> Iterator[dict[str, Any]]:
        first, second = Clip.__table__.alias("first"), Clip.__table__.alias("second")
        tables = (
            ("answer_", Answer.__table__),
            ("question_", Question.__table__),
            ("first_", first),
            ("second_", second),
        )
        columns = [column.label(prefix + column.name) for prefix, table in tables for column in table.c]
        query = (
            select(*columns)
            .select_from(Answer)
            .join(Question, Answer.question == Question.id)
            .join(first, Question.first == first.c.id)
            .outerjoin(second, Question.second == second.c.id)
            .order_by(Question.round, Question.position, Answer.id)
        )
        with self.engine.connect() as connection:
            for row in connection.execute(query).mappings():
                yield {key: value.isoformat() if isinstance(value, datetime) else value for key, value in row.items()}

    def _insert(self, rows: dict[type[Base], list[dict]]) -> None:
        dialect = self.engine.dialect.name
        if dialect == "sqlite":
            from sqlalchemy.dialects.sqlite import insert
        elif dialect == "postgresql":
            from sqlalchemy.dialects.postgresql import insert
        else:
            raise UserError(f"answers are kept in SQLite or PostgreSQL, not in {dialect}")
        try:
            with self.engine.begin() as connection:
                for model, entries in rows.items():
                    for i in range(0, len(entries), BATCH):
                        connection.execute(insert(model).on_conflict_do_nothing(), entries[i : i + BATCH])
        except SQLAlchemyError as error:
            raise _trouble(self.url, error) from error


def _patient(connection, _record) -> None:
    connection.execute("PRAGMA busy_timeout = 5000")
    connection.execute("PRAGMA foreign_keys = ON")
    try:
        connection.execute("PRAGMA journal_mode = WAL")
    except sqlite3.OperationalError:  # a read-only file: reading works, and writing says so
        return


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError("Parquet needs pyarrow: `pip install pbrl[label]`, or use .jsonl") from error
    return pyarrow


def _id(*parts: Any) -> str:
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


def main() -> None:
    """`python -m pbrl.feedback.store <database> counts | export <file> | import <file>`"""
    import argparse

    parser = argparse.ArgumentParser(description="Counts, exports and imports answers (.jsonl or .parquet).")
    parser.add_argument("database", help="a file such as runs/…/answers.sqlite, or any SQLAlchemy URL")
    parser.add_argument("action", choices=("counts", "export", "import"))
    parser.add_argument("file", nargs="?", type=Path)
    args = parser.parse_args()
    if args.action != "counts" and args.file is None:
        parser.error(f"{args.action} needs a file")
    try:
        if "://" not in args.database and args.action != "import" and not Path(args.database).exists():
            raise UserError(f"there is no store of answers at {args.database}")
        store = Store(args.database if "://" in args.database else f"sqlite:///{args.database}")
        if args.action == "counts":
            print(json.dumps(store.counts()))
        else:
            print(f"{store.export(args.file) if args.action == 'export' else store.load(args.file)} answers")
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()

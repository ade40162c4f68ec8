"""Answers as files: every event with its question, clips and rater, out of one store and into another.

python -m pbrl.feedback.exchange runs/…/answers.sqlite counts
python -m pbrl.feedback.exchange runs/…/answers.sqlite export answers.parquet     # or .jsonl
python -m pbrl.feedback.exchange runs/…/answers.sqlite export answers/            # for `datasets.load_dataset`
python -m pbrl.feedback.exchange another.sqlite import answers.parquet
"""

import argparse
import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import select

from pbrl.feedback.questions import clip_id, identity
from pbrl.feedback.store.datasets import dataset_id
from pbrl.feedback.store.schema import Base, ClipRow, EventRow, ItemRow, QuestionRow, RaterRow, WordingRow
from pbrl.feedback.store.store import Store
from pbrl.types import Clip, UserError

LEFT_OUT = {  # columns that another store sets itself, or that repeat another column
    ("event", "seq"),
    ("event", "question"),
    ("event", "rater"),
    ("question", "given"),
    ("question", "open"),
    ("question", "wording"),
    ("rater", "token"),
}
AS_JSON = ("event_detail", "event_shown", "rater_about", "words")
TIMES = ("event_time", "event_stored", "question_asked")
OLDER = {"event_told": "event_time", "event_kept": "event_stored"}  # columns of exports before clips had episodes
CLIP = {"episodes": "episode", "firsts": "first", "lengths": "length", "old_rows": "old_row"}  # lists, a place each
SHARD = "data/train-00000-of-00001.parquet"  # where `datasets` looks in a folder
CARD = """---
pretty_name: {name}
task_categories: [reinforcement-learning]
tags: [preferences, robotics, pbrl]
size_categories: [{size}]
---
# {name}

Answers about segments of robot episodes: {counts}.

| kind of question | steps in a segment | answers |
|---|---|---|
{held}

What was asked, word for word: {texts}.

A line is an event, in order: a rater answered, took an answer back (`event_supersedes` names it), or passed a question
on. `episodes`, `firsts` and `lengths` are the clips it is about: the hash of each one's episode, its first step and its
number of steps. `event_label` is P(the second is preferred), or a rating; `event_outcome` answer, tie or skip ("can't
tell"). `python -m pbrl.feedback.exchange answers.sqlite import <this folder>` imports all of it.
"""


def export(store: Store, path: str | Path) -> int:
    """Writes every event, in order, to .jsonl, .parquet or a folder for Hugging Face's `datasets`; returns how many."""
    rows = list(flat(store))
    path = Path(path)
    try:
        if path.suffix == ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        elif path.suffix == ".parquet":
            _write_parquet(rows, path)
        elif path.suffix:
            raise UserError(f"{path}: answers are exported to .jsonl, .parquet or a folder")
        else:
            (path / SHARD).parent.mkdir(parents=True, exist_ok=True)
            _write_parquet(rows, path / SHARD)
            (path / "README.md").write_text(card(store, path.name, rows))
    except OSError as error:
        raise UserError(f"cannot write {path} ({error}): free some space, or choose another place") from error
    return len(rows)


def card(store: Store, name: str, rows: list[dict[str, Any]]) -> str:
    """What a person should know of exported answers."""
    held = "\n".join(f"| {kind} | {length} | {n} |" for kind, length, n in store.answer_counts())
    texts = sorted({json.loads(row["words"]).get("text", "") for row in rows if row["words"]})
    sizes = {10**3: "n<1K", 10**4: "1K<n<10K", 10**5: "10K<n<100K", 10**6: "100K<n<1M"}
    size = next((words for most, words in sizes.items() if len(rows) < most), "n>1M")
    counts = ", ".join(f"{n} {what}" for what, n in store.counts().items())
    asked = ", ".join(f'"{text}"' for text in texts) or "nothing"
    return CARD.format(name=name, size=size, counts=counts, held=held, texts=asked)


def load(store: Store, path: str | Path) -> int:
    """Adds exported events to what is there; returns how many the file or folder held. Raises UserError."""
    path = Path(path)
    path = path / SHARD if path.is_dir() else path
    parts = Tables()
    try:
        if path.suffix == ".parquet":
            rows = _pyarrow().parquet.read_table(path).to_pylist()
        else:
            rows = [json.loads(line) for line in path.read_text().splitlines()]
        for row in rows:
            parts.add(row)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not an export of answers ({error!r})") from error
    for episodes in parts.episodes.values():
        store.register(episodes)
    store.add(parts.rows())
    return len(rows)


def flat(store: Store) -> Iterator[dict[str, Any]]:
    """Events in order, with what they are about: numbers, strings, lists of numbers and strings."""
    tables = {"event": EventRow.__table__, "question": QuestionRow.__table__, "rater": RaterRow.__table__}
    columns = [
        column.label(f"{name}_{column.name}")
        for name, table in tables.items()
        for column in table.c
        if (name, column.name) not in LEFT_OUT
    ]
    query = (
        select(*columns, WordingRow.words)
        .select_from(EventRow)
        .join(QuestionRow, EventRow.question == QuestionRow.id)
        .join(RaterRow, EventRow.rater == RaterRow.name)
        .outerjoin(WordingRow, QuestionRow.wording == WordingRow.id)
        .order_by(EventRow.seq)
    )
    parts = [ClipRow.__table__.c[column] for column in CLIP.values()]
    placed = select(ItemRow.question, *parts).join(ClipRow, ItemRow.clip == ClipRow.id)
    with store.reading() as connection:
        clips: dict[str, list[Any]] = {}
        for question, *clip in connection.execute(placed.order_by(ItemRow.question, ItemRow.place)):
            clips.setdefault(question, []).append(clip)
        for row in connection.execute(query).mappings():
            lists = zip(*clips[row["question_id"]], strict=True)
            about = {name: list(values) for name, values in zip(CLIP, lists, strict=True)}
            yield {key: _plain(value) for key, value in row.items()} | about


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC).isoformat()  # SQLite gives back what is UTC without saying so
    return json.dumps(value) if isinstance(value, dict) else value


class Tables:
    """Rows of each table, by their keys, as exported events add up to them."""

    def __init__(self) -> None:
        models: tuple[type[Base], ...] = (WordingRow, ClipRow, RaterRow, QuestionRow, ItemRow, EventRow)
        self.parts: dict[type[Base], dict[Any, dict]] = {model: {} for model in models}
        self.episodes: dict[str, set[str]] = {}  # of the clips of the questions that were asked about a data set

    def rows(self) -> dict[type[Base], list[dict]]:
        """What to add to a store, in which the data sets of `episodes` are registered."""
        for question in self.parts[QuestionRow].values():
            if question["dataset"] in self.episodes:
                question["dataset"] = dataset_id(self.episodes[question["dataset"]])
        return {model: list(entries.values()) for model, entries in self.parts.items()}

    def add(self, row: dict[str, Any]) -> None:
        """Takes an exported event apart."""
        row = {OLDER.get(key, key): value for key, value in row.items()}
        row |= {key: json.loads(row[key]) for key in AS_JSON if row[key] is not None}
        row |= {key: datetime.fromisoformat(row[key]) for key in TIMES if row[key] is not None}
        event, question, rater = (
            {key.removeprefix(prefix): value for key, value in row.items() if key.startswith(prefix)}
            for prefix in ("event_", "question_", "rater_")
        )
        event |= {"question": question["id"], "rater": rater["name"]}
        question |= {"rater_kind": question.get("rater_kind"), "same_as": question.get("same_as"), "wording": None}
        if row["words"] is not None:
            question["wording"] = identity("wording", row["words"])
            self.parts[WordingRow][question["wording"]] = {"id": question["wording"], "words": row["words"]}
        for place, clip in enumerate(_clips(row, question)):
            self.parts[ClipRow][clip["id"]] = clip
            self.parts[ItemRow][question["id"], place] = {
                "question": question["id"],
                "place": place,
                "clip": clip["id"],
            }
            if clip["episode"] is not None:
                self.episodes.setdefault(question["dataset"], set()).add(clip["episode"])
        self.parts[QuestionRow][question["id"]], self.parts[RaterRow][rater["name"]] = question, rater
        self.parts[EventRow][event["uid"]] = event


def _clips(row: dict[str, Any], question: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The clips of an exported event; older exports have rows of a data set, as `starts`."""
    n = len(row["lengths"] if "lengths" in row else row["starts"])
    old_rows = row["starts"] if "starts" in row else row["old_rows"]
    episodes, firsts = row.get("episodes", [None] * n), row.get("firsts", [None] * n)
    lengths = row.get("lengths", [question["length"]] * n)
    for episode, first, length, old_row in zip(episodes, firsts, lengths, old_rows, strict=True):
        clip = {"episode": episode, "first": first, "length": length, "old_dataset": None, "old_row": None}
        if episode is None:
            clip |= {"old_dataset": question["dataset"], "old_row": old_row}
            yield {"id": identity("clip", question["dataset"], old_row, length), **clip}
        else:
            yield {"id": clip_id(Clip(episode, first, length)), **clip}


def _write_parquet(rows: list[dict[str, Any]], path: Path) -> None:
    pyarrow = _pyarrow()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError("Parquet needs pyarrow: `pip install pbrl[label]`, or use .jsonl") from error
    return pyarrow


def main() -> None:
    """Counts, exports or imports answers from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
            print(f"{export(store, args.file) if args.action == 'export' else load(store, args.file)} answers")
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()

"""Answers as files: every event with its question, clips and rater, out of one store and into another.

python -m pbrl.feedback.exchange runs/…/answers.sqlite counts
python -m pbrl.feedback.exchange runs/…/answers.sqlite export answers.parquet     # or .jsonl
python -m pbrl.feedback.exchange runs/…/answers.sqlite export answers/            # for `datasets.load_dataset`
python -m pbrl.feedback.exchange another.sqlite import answers.parquet more.jsonl
python -m pbrl.feedback.exchange another.sqlite import answers.jsonl --data hopper.hdf5   # are its clips in there?
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any

from sqlalchemy import select

from pbrl.data import episodes as storage
from pbrl.data.table import Table
from pbrl.feedback.answer_files import import_pyarrow
from pbrl.feedback.importing import CLIP, LEFT_OUT, PARTS, import_files
from pbrl.feedback.store.answers import as_utc
from pbrl.feedback.store.schema import ClipRow, EventRow, ItemRow, QuestionRow, RaterRow, WordingRow
from pbrl.feedback.store.store import Store
from pbrl.types import UserError

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
            _replace(path, "".join(json.dumps(row) + "\n" for row in rows).encode())
        elif path.suffix == ".parquet":
            _replace(path, _to_parquet(rows))
        elif path.suffix:
            raise UserError(f"{path}: answers are exported to .jsonl, .parquet or a folder")
        else:
            (path / SHARD).parent.mkdir(parents=True, exist_ok=True)
            _replace(path / SHARD, _to_parquet(rows))
            _replace(path / "README.md", card(store, path.name, rows).encode())
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
    """Adds the answers of a file or folder to what is there; returns how many rows it holds. Raises UserError."""
    return import_files(store, [Path(path)]).rows


def flat(store: Store) -> Iterator[dict[str, Any]]:
    """Events in order, with what they are about: numbers, strings, lists of numbers and strings."""
    columns = [
        column.label(f"{name}_{column.name}")
        for name, model in PARTS.items()
        for column in model.__table__.c
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
        time = as_utc(value)
        return time and time.isoformat()
    return json.dumps(value) if isinstance(value, dict) else value


def _to_parquet(rows: list[dict[str, Any]]) -> bytes:
    pyarrow, file = import_pyarrow(), BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    return file.getvalue()


def _replace(path: Path, content: bytes) -> None:
    """Writes a file whole, or leaves the one that is there."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def main() -> None:
    """Counts, exports or imports answers from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("database", help="a file such as runs/…/answers.sqlite, or any SQLAlchemy URL")
    parser.add_argument("action", choices=("counts", "export", "import"))
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--data", type=Path, help="refuse clips that do not lie within this data set's episodes")
    args = parser.parse_args()
    if (args.action == "export" and len(args.files) != 1) or (args.action == "import" and not args.files):
        parser.error(f"{args.action} needs a file")
    try:
        if "://" not in args.database and args.action != "import" and not Path(args.database).exists():
            raise UserError(f"there is no store of answers at {args.database}")
        store = Store(args.database if "://" in args.database else f"sqlite:///{args.database}")
        if args.action == "counts":
            print(json.dumps(store.counts()))
        elif args.action == "export":
            print(f"{export(store, args.files[0])} answers")
        else:
            print(_import(store, args.files, args.data))
    except UserError as error:
        sys.exit(str(error))


def _import(store: Store, files: list[Path], data: Path | None) -> str:
    """Imports, and says what that did."""
    found = import_files(store, files, None if data is None else Table(storage.read(data)))
    parts = [f"{found.rows} answers"]
    if found.new < found.rows:
        parts.append(f"{found.new} of them new")
    if found.gave_way:
        parts.append(f"{found.gave_way} gave way to later ones of the same rater")
    if found.elsewhere:
        parts.append(f"{found.elsewhere} are about episodes that {data} has not, and are kept")
    return ", ".join(parts)


if __name__ == "__main__":
    main()

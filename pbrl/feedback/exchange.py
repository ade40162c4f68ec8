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

from pbrl.feedback.store.schema import Base, Clip, Event, Item, Question, Rater, Wording
from pbrl.feedback.store.store import Store, identity
from pbrl.types import UserError

LEFT_OUT = {  # what another store knows better, or what another column says
    ("event", "seq"), ("event", "question"), ("event", "rater"), ("question", "given"), ("question", "open"),
    ("question", "wording"), ("rater", "token"),
}  # fmt: skip
AS_JSON = ("event_detail", "event_shown", "rater_about", "words")
TIMES = ("event_told", "event_kept", "question_asked")
SHARD = "data/train-00000-of-00001.parquet"  # where `datasets` looks in a folder
CARD = """---
pretty_name: {name}
task_categories: [reinforcement-learning]
tags: [preferences, robotics, pbrl]
size_categories: [{size}]
---
# {name}

Answers about segments of robot episodes: {counts}.

| data set (content hash) | kind of question | steps in a segment | answers |
|---|---|---|---|
{held}

What was asked, word for word: {texts}.

A line is an event, in order: somebody answered, took an answer back (`event_supersedes` names it), or passed a question
on. `starts` are the rows at which the segments begin, in the data set's episodes one after the other, each with one row
more than it has steps. `event_label` is P(the second is preferred), or a rating; `event_outcome` answer, tie or skip
("can't tell"). `python -m pbrl.feedback.exchange answers.sqlite import <this folder>` takes it all in again.
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
    held = "\n".join(f"| `{data}` | {kind} | {length} | {n} |" for data, kind, length, n in store.held())
    texts = sorted({json.loads(row["words"]).get("text", "") for row in rows if row["words"]})
    sizes = {10**3: "n<1K", 10**4: "1K<n<10K", 10**5: "10K<n<100K", 10**6: "100K<n<1M"}
    size = next((words for most, words in sizes.items() if len(rows) < most), "n>1M")
    counts = ", ".join(f"{n} {what}" for what, n in store.counts().items())
    return CARD.format(name=name, size=size, counts=counts, held=held,
                       texts=", ".join(f'"{text}"' for text in texts) or "nothing")  # fmt: skip


def load(store: Store, path: str | Path) -> int:
    """Adds exported events to what is there; returns how many the file or folder held. Raises UserError."""
    path = Path(path)
    path = path / SHARD if path.is_dir() else path
    parts: dict[type[Base], dict[Any, dict]] = {m: {} for m in (Wording, Clip, Rater, Question, Item, Event)}
    try:
        if path.suffix == ".parquet":
            rows = _pyarrow().parquet.read_table(path).to_pylist()
        else:
            rows = [json.loads(line) for line in path.read_text().splitlines()]
        for row in rows:
            _take_apart(row, parts)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not an export of answers ({error!r})") from error
    store.add({model: list(entries.values()) for model, entries in parts.items()})
    return len(rows)


def flat(store: Store) -> Iterator[dict[str, Any]]:
    """Events in order, with what they are about: numbers, strings, lists of numbers."""
    tables = {"event": Event.__table__, "question": Question.__table__, "rater": Rater.__table__}
    columns = [
        column.label(f"{name}_{column.name}")
        for name, table in tables.items()
        for column in table.c
        if (name, column.name) not in LEFT_OUT
    ]
    query = (
        select(*columns, Wording.words)
        .select_from(Event)
        .join(Question, Event.question == Question.id)
        .join(Rater, Event.rater == Rater.name)
        .outerjoin(Wording, Question.wording == Wording.id)
        .order_by(Event.seq)
    )
    placed = select(Item.question, Clip.row).join(Clip, Item.clip == Clip.id).order_by(Item.question, Item.place)
    with store.reading() as connection:
        starts: dict[str, list[int]] = {}
        for question, row in connection.execute(placed):
            starts.setdefault(question, []).append(row)
        for row in connection.execute(query).mappings():
            yield {key: _plain(value) for key, value in row.items()} | {"starts": starts[row["question_id"]]}


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC).isoformat()  # SQLite gives back what is UTC without saying so
    return json.dumps(value) if isinstance(value, dict) else value


def _take_apart(row: dict[str, Any], parts: dict[type[Base], dict[Any, dict]]) -> None:
    """Into rows of each table, by their keys."""
    row = {key: json.loads(value) if key in AS_JSON and value is not None else value for key, value in row.items()}
    for key in TIMES:
        row[key] = None if row[key] is None else datetime.fromisoformat(row[key])
    event, question, rater = (
        {key.removeprefix(prefix): value for key, value in row.items() if key.startswith(prefix)}
        for prefix in ("event_", "question_", "rater_")
    )
    event |= {"question": question["id"], "rater": rater["name"]}
    words, dataset, length = row["words"], question["dataset"], question["length"]
    if words is not None:
        question["wording"] = identity("wording", words)
        parts[Wording][question["wording"]] = {"id": question["wording"], "words": words}
    for place, start in enumerate(row["starts"]):
        clip = identity("clip", dataset, start, length)
        parts[Clip][clip] = {"id": clip, "dataset": dataset, "row": start, "length": length}
        parts[Item][question["id"], place] = {"question": question["id"], "place": place, "clip": clip}
    parts[Question][question["id"]], parts[Rater][rater["name"]] = question, rater
    parts[Event][event["uid"]] = event


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

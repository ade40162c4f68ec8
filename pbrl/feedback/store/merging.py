"""Rows of another store, or of files, into this one: in one transaction, with nothing doubled and nothing contradicted.

An event that is here already stays. A question that is here under another id keeps it. Of two answers of one rater to
one question, given at two stores, the later by the rater's clock stands: a retraction takes the other back.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import groupby
from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, select, update

from pbrl.feedback.questions import identity
from pbrl.feedback.store.answers import CONTENT, as_utc, content_of, current, recount, row_content
from pbrl.feedback.store.database import add, batches
from pbrl.feedback.store.datasets import register
from pbrl.feedback.store.schema import Base, ClipRow, EventRow, ItemRow, QuestionRow, RaterRow, WordingRow
from pbrl.types import UserError

ABSENT = "absent"  # the strategy of a question that is only known as the one that another repeats


class Merged(NamedTuple):
    """How many events were new, and how many answers gave way to later ones of the same rater."""

    new: int
    gave_way: int


class Rows:
    """Rows of each table by their keys. `episodes` are those of the clips of each data set that was asked about."""

    def __init__(self) -> None:
        models: tuple[type[Base], ...] = (WordingRow, ClipRow, RaterRow, QuestionRow, ItemRow, EventRow)
        self.parts: dict[type[Base], dict[Any, dict]] = {model: {} for model in models}
        self.episodes: dict[str, set[str]] = {}
        self.where: dict[str, str] = {}  # the place of each event's uid, for messages

    def put(self, model: type[Base], key: Any, row: dict) -> None:
        """Adds a row, once. Raises UserError where another with its key contradicts it."""
        known = self.parts[model].setdefault(key, row)
        telling = {RaterRow: ("kind",), EventRow: ("rater", "kind", "outcome", "label", "detail")}.get(model, ())
        if any(known[name] != row[name] for name in telling):
            raise UserError(f"{key} stands for something else in an earlier row")


def merge(connection: Connection, rows: Rows) -> Merged:
    """Adds rows that are not there yet; returns what was new. Raises UserError where they contradict the store."""
    parts = rows.parts
    _use_known_ids(connection, parts)
    _add_repeated(connection, parts)
    for question in parts[QuestionRow].values():
        if question["dataset"] in rows.episodes:
            question["dataset"] = register(connection, rows.episodes[question["dataset"]])
    _check_raters(connection, list(parts[RaterRow].values()))
    new = _check_events(connection, parts[EventRow], rows.where)
    for model in (WordingRow, ClipRow, RaterRow):
        add(connection, model, list(parts[model].values()))
    _add_questions(connection, parts)
    add(connection, EventRow, new)
    questions = list(parts[QuestionRow])
    gave_way = give_way(connection, questions)
    recount(connection, questions)
    return Merged(len(new), gave_way)


def _use_known_ids(connection: Connection, parts: dict[type[Base], dict[Any, dict]]) -> None:
    """Questions that the store has under another id get that: ids of versions before 0003 differ from today's."""
    todays = {name: question["same_as"] or name for name, question in parts[QuestionRow].items()}
    target = {today: name for name, today in todays.items()}
    for batch in batches(list(target)):
        old = select(QuestionRow.same_as, QuestionRow.id).where(QuestionRow.same_as.in_(batch))
        target |= {today: there for today, there in connection.execute(old) if today is not None}
        same = select(QuestionRow.id).where(QuestionRow.id.in_(batch))
        target |= {there: there for there in connection.execute(same).scalars()}
    known = {name: target[today] for name, today in todays.items() if target[today] != name}
    for question in parts[QuestionRow].values():
        question["repeats"] = known.get(question["repeats"], question["repeats"])
    for name, there in known.items():
        question = parts[QuestionRow].pop(name)
        parts[QuestionRow].setdefault(there, {**question, "id": there})
    for model in (ItemRow, EventRow):
        for row in parts[model].values():
            row["question"] = known.get(row["question"], row["question"])


def _add_repeated(connection: Connection, parts: dict[type[Base], dict[Any, dict]]) -> None:
    """The questions that others repeat, mirrored, where neither the rows nor the store have them."""
    questions, items = parts[QuestionRow], parts[ItemRow]
    missing = {q["repeats"]: q for q in questions.values() if q["repeats"] not in (None, *questions)}
    for batch in batches(list(missing)):
        for there in connection.execute(select(QuestionRow.id).where(QuestionRow.id.in_(batch))).scalars():
            del missing[there]
    clips: dict[str, dict[int, str]] = {}
    for item in list(items.values()):
        clips.setdefault(item["question"], {})[item["place"]] = item["clip"]
    for name, again in missing.items():
        plain = {"purpose": "learn", "repeats": None, "same_as": None, "strategy": ABSENT, "wanted": 0}
        questions[name] = {**again, **plain, "id": name}
        for place in (0, 1):
            items[name, place] = {"question": name, "place": place, "clip": clips[again["id"]][1 - place]}


def _check_raters(connection: Connection, raters: Sequence[dict]) -> None:
    kinds = {rater["name"]: rater["kind"] for rater in raters}
    for batch in batches(list(kinds)):
        for name, kind in connection.execute(select(RaterRow.name, RaterRow.kind).where(RaterRow.name.in_(batch))):
            if kinds[name] != kind:
                raise UserError(
                    f"rater {name} is a {kind} in the store and a {kinds[name]} in the file: give one of them another "
                    "rater_name. Nothing was imported"
                )


def _check_events(connection: Connection, events: dict[str, dict], where: dict[str, str]) -> list[dict]:
    """The events that are new, in their order."""
    named = [event["supersedes"] for event in events.values() if event["supersedes"] is not None]
    known = {}
    for batch in batches([*events, *named]):
        found = connection.execute(select(EventRow.uid, *CONTENT).where(EventRow.uid.in_(batch)))
        known |= {row.uid: row_content(row) for row in found}
    contents = {uid: _content(event) for uid, event in events.items()}
    for uid, event in events.items():
        if uid in known and known[uid] != contents[uid]:
            raise UserError(f"{where[uid]}: the store has another event with event_uid {uid}. Nothing was imported")
        old = known.get(event["supersedes"]) or contents.get(event["supersedes"])
        if old is not None and old[:3] != (event["question"], event["rater"], "answer"):
            raise UserError(
                f"{where[uid]}: event_supersedes is no answer of its rater to its question. Nothing was imported"
            )
    return [event for uid, event in events.items() if uid not in known]


def _content(event: dict) -> tuple[Any, ...]:
    named = event["supersedes"] if event["kind"] == "retract" else None
    about = (event[name] for name in ("question", "rater", "kind", "outcome", "label", "detail"))
    return content_of(*about, named)  # type: ignore[arg-type]


def _add_questions(connection: Connection, parts: dict[type[Base], dict[Any, dict]]) -> None:
    """Questions after those that they repeat; what is now known of one that was absent is filled in."""
    left = dict(parts[QuestionRow])
    while left:
        ready = {name: question for name, question in left.items() if question["repeats"] not in left}
        if not ready:
            raise UserError("questions of the file repeat each other in a circle. Nothing was imported")
        add(connection, QuestionRow, list(ready.values()))
        left = {name: question for name, question in left.items() if name not in ready}
    fill_in(connection, list(parts[QuestionRow].values()))
    add(connection, ItemRow, list(parts[ItemRow].values()))


def fill_in(connection: Connection, questions: Sequence[dict]) -> None:
    """Completes questions that were only known as the ones that others repeat."""
    by_id = {question["id"]: question for question in questions if question["strategy"] != ABSENT}
    absent = select(QuestionRow.id).where(QuestionRow.strategy == ABSENT)
    found = [by_id[name] for name in connection.execute(absent).scalars() if name in by_id]
    if not found:
        return
    names = ("strategy", "round", "position", "asked", "purpose", "expected", "priority", "wanted", "rater_kind")
    complete = update(QuestionRow.__table__).where(  # type: ignore[arg-type]
        QuestionRow.__table__.c.id == bindparam("own")
    )
    complete = complete.values({name: bindparam(f"new_{name}") for name in names})
    connection.execute(complete, [{"own": q["id"], **{f"new_{name}": q[name] for name in names}} for q in found])


def give_way(connection: Connection, questions: Sequence[str]) -> int:
    """Takes back, of several answers of a rater to one of these questions, all but the latest; returns how many."""
    retractions = []
    columns = EventRow.question, EventRow.rater, EventRow.uid, EventRow.time, EventRow.stored, EventRow.seq
    for batch in batches(questions):
        found = connection.execute(current(*columns).where(EventRow.question.in_(batch))).all()
        found = sorted(found, key=lambda row: (row.question, row.rater, *_moment(row)))
        for (question, rater), own in groupby(found, key=lambda row: (row.question, row.rater)):
            *older, latest = own
            time = as_utc(latest.time or latest.stored)
            about = {"question": question, "rater": rater, "kind": "retract", "time": time}
            retractions += [{**about, "uid": identity("gave way", old.uid), "supersedes": old.uid} for old in older]
    now = datetime.now(UTC)
    plain = {"outcome": None, "label": None, "detail": None, "shown": None, "confidence": 1.0, "seconds": None}
    add(connection, EventRow, [{**plain, "stored": now, **one} for one in retractions])
    return len(retractions)


def _moment(row: Any) -> tuple[datetime, datetime, int]:
    """When an answer was given, by the rater's clock where it is known."""
    stored = as_utc(row.stored)
    assert stored is not None
    return as_utc(row.time) or stored, stored, row.seq

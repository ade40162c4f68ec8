"""Answers out of files into a store: each row is checked before anything is stored, and all are stored or none.

A row is an event with its question, clips and rater; see exchange.py. Only what no program can know must be there: the
rater, the clips, the kind of question and the answer. Ids, times, wording and the rest may be left out.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from pbrl.data.table import Table
from pbrl.feedback.answer_files import read_rows
from pbrl.feedback.kinds import ANSWER
from pbrl.feedback.limits import check_text
from pbrl.feedback.questions import Question, Value, check_value, clip_id, find_kind, identity
from pbrl.feedback.store.answers import Answer, check_event, check_rater_name
from pbrl.feedback.store.fields import is_missing, to_field, to_object, to_whole
from pbrl.feedback.store.merging import Merged, Rows
from pbrl.feedback.store.schema import Base, ClipRow, EventRow, ItemRow, QuestionRow, RaterRow, WordingRow
from pbrl.feedback.store.store import Store
from pbrl.types import Clip, UserError

PARTS: dict[str, type[Base]] = {"event": EventRow, "question": QuestionRow, "rater": RaterRow}
LEFT_OUT = {  # columns that another store sets itself, or that repeat another column
    ("event", "seq"),
    ("event", "question"),
    ("event", "rater"),
    ("question", "given"),
    ("question", "open"),
    ("question", "wording"),
    ("rater", "token"),
}
COLUMNS = {
    f"{part}_{column.name}": column
    for part, model in PARTS.items()
    for column in model.__table__.c
    if (part, column.name) not in LEFT_OUT
}
OLDER = {"event_told": "event_time", "event_kept": "event_stored"}  # columns of exports before clips had episodes
CLIP = {"episodes": "episode", "firsts": "first", "lengths": "length", "old_rows": "old_row"}  # lists, a place each
PLAIN = {  # what a row that leaves it out is about
    "event_kind": "answer",
    "event_confidence": 1.0,
    "question_strategy": "imported",
    "question_round": 0,
    "question_position": 0,
    "question_purpose": "learn",
    "question_priority": 0.0,
    "question_wanted": 1,
    "rater_kind": "human",
}
CHOICES = {
    "event_kind": ("answer", "retract", "pass"),
    "question_purpose": ("learn", "practice", "gold", "repeat"),
    "rater_kind": ("human", "vlm", "script"),
}


class Imported(NamedTuple):
    """`rows` of the files; of these `new` ones to the store; and how many older answers gave way to later ones.

    `elsewhere` rows are about episodes that are not in the data set they were compared with.
    """

    rows: int
    new: int
    gave_way: int
    elsewhere: int


def import_files(store: Store, paths: Iterable[Path], table: Table | None = None) -> Imported:
    """Adds the answers of files and folders to a store: all of them, or none. Raises UserError with file and line.

    Of two answers of a rater to the same question the later stands. With a `table` clips must lie within its episodes.
    """
    reader, count = Reader(table), 0
    for path in paths:
        for where, row in read_rows(path):
            try:
                reader.add(where, row)
            except UserError as error:
                raise UserError(f"{where}: {error}. Nothing was imported") from error
            count += 1
    merged: Merged = store.merge(reader.rows)
    return Imported(count, merged.new, merged.gave_way, reader.elsewhere)


class Reader:
    """Makes rows of the store's tables of rows of files."""

    def __init__(self, table: Table | None = None):
        self.table, self.rows, self.elsewhere = table, Rows(), 0
        self.mine = set(table.ids) if table is not None else set()
        self.now = datetime.now(UTC)

    def add(self, where: str, row: Mapping[str, Any]) -> None:
        """Takes one row apart. Raises UserError where it cannot be an answer."""
        row = {OLDER.get(key, key): None if is_missing(value) else value for key, value in row.items()}
        words = None if row.get("words") is None else to_object(row["words"], "words")
        if row.get("question_kind") is None:
            raise UserError("question_kind is missing: this is not an export of answers")
        kind = find_kind(row["question_kind"])
        clips = list(_clips(row))
        kind.check_clips(len(clips), "clips")
        question = self._question(row, clips, words)
        rater = self._part("rater", row)
        check_rater_name(rater["name"], "rater_name")
        event = self._event(row, question, rater["name"], clips)
        self._check_places(clips)
        self._keep(where, question, clips, words, rater, event)

    def _part(self, part: str, row: Mapping[str, Any], **known: Any) -> dict[str, Any]:
        """The columns of a part of a row, with `known` for what it leaves out."""
        unknown = next((key for key in row if key.startswith(f"{part}_") and key not in COLUMNS), None)
        if unknown is not None and (part, unknown.removeprefix(f"{part}_")) not in LEFT_OUT:
            raise UserError(f"there is no column {unknown}: is the file of a newer version of pbrl?")
        found = {}
        for name, column in COLUMNS.items():
            if name.startswith(f"{part}_"):
                value = row.get(name)
                value = known.get(column.name, PLAIN.get(name)) if value is None else value
                found[column.name] = to_field(column, value, name)  # type: ignore[arg-type]
                if name in CHOICES and found[column.name] not in CHOICES[name]:
                    raise UserError(f"{name} is {', '.join(CHOICES[name])}, not {value!r:.60}")
        return found

    def _question(self, row: Mapping[str, Any], clips: list[dict], words: dict | None) -> dict[str, Any]:
        length = max(clip["length"] for clip in clips)
        today = row.get("question_id")  # of clips that no data set has given an episode yet
        known = {"id": today or "", "length": length, "asked": self.now, "dataset": clips[0]["old_dataset"] or ""}
        question = self._part("question", row, **known)
        if any(clip["length"] != length for clip in clips) or question["length"] != length:
            lengths = [clip["length"] for clip in clips]
            raise UserError(f"clips of one question are equally long, as question_length says, not {lengths}")
        if question["rater_kind"] not in (None, *CHOICES["rater_kind"]):
            raise UserError(f"question_rater_kind is {', '.join(CHOICES['rater_kind'])} or null")
        if all(clip["episode"] is not None for clip in clips):
            today = to_question(question, clips, words).id
            if row.get("question_id") not in (None, today) and question["same_as"] != today:
                raise UserError(
                    f"question_id {question['id']} is not that of its kind, clips, words, round and position, which is "
                    f"{today}: put back what was changed, or leave question_id out"
                )
            question["id"] = question["id"] or today
        if not today:
            raise UserError("question_id is missing")
        if question["wanted"] < 0:
            raise UserError(f"question_wanted is a whole number from 0, not {question['wanted']}")
        _check_expected(question, clips)
        if question["repeats"] is not None and (question["kind"], question["purpose"]) != ("pair", "repeat"):
            raise UserError("question_repeats is of pairs with question_purpose=repeat")
        return question

    def _event(self, row: Mapping[str, Any], question: dict, rater: str, clips: list[dict]) -> dict[str, Any]:
        about = [question["id"], rater, *(str(row.get(f"event_{name}")) for name in ("kind", "outcome", "label"))]
        uid = identity("imported", *about, str(row.get("event_detail")), str(row.get("event_time")))
        event = self._part("event", row, uid=uid, stored=self.now)
        event |= {"question": question["id"], "rater": rater}
        value = None if event["outcome"] is None else Value(event["outcome"], event["label"], event["detail"])
        if event["kind"] == "answer":
            if value is None:
                raise UserError("event_outcome is missing: an outcome is answer, tie or skip")
            check_value(_asked(question, clips), value)
        elif value is not None or (event["kind"] == "retract") != (event["supersedes"] is not None):
            raise UserError(f"a {event['kind']} has no outcome, and only a retract names an event_supersedes")
        names = ("uid", "question", "rater", "kind", "confidence", "seconds", "time", "shown", "supersedes")
        check_event(Answer(**{name: event[name] for name in names}, value=value))
        return event

    def _check_places(self, clips: list[dict]) -> None:
        """With a table, clips lie within those of their episodes that it has."""
        if self.table is None:
            return
        self.elsewhere += any(clip["episode"] not in self.mine for clip in clips)
        for clip in clips:
            if clip["episode"] in self.mine and not self.table.has_clip(to_clip(clip)):
                first = clip["first"]
                raise UserError(
                    f"steps {first} to {first + clip['length']} lie beyond the end of episode {clip['episode']}"
                )

    def _keep(
        self, where: str, question: dict, clips: list[dict], words: dict | None, rater: dict, event: dict
    ) -> None:
        rows = self.rows
        if words:
            question["wording"] = identity("wording", words)
            rows.put(WordingRow, question["wording"], {"id": question["wording"], "words": words})
        rows.put(RaterRow, rater["name"], rater)
        for place, clip in enumerate(clips):
            rows.put(ClipRow, clip["id"], clip)
            item = {"question": question["id"], "place": place, "clip": clip["id"]}
            rows.put(ItemRow, (question["id"], place), item)
            if clip["episode"] is not None:
                rows.episodes.setdefault(question["dataset"], set()).add(clip["episode"])
        rows.put(QuestionRow, question["id"], {"wording": None, **question})
        before = rows.parts[EventRow].get(event["uid"])
        if before is not None and before["question"] != event["question"]:
            raise UserError(
                f"event_uid {event['uid']} is that of {rows.where[event['uid']]} too, about another question"
            )
        rows.put(EventRow, event["uid"], event)
        rows.where[event["uid"]] = where


def to_clip(clip: Mapping[str, Any]) -> Clip:
    """The clip of a row with an episode."""
    return Clip(clip["episode"], clip["first"], clip["length"])


def to_question(question: Mapping[str, Any], clips: list[dict], words: Mapping[str, Any] | None) -> Question:
    """The question of a row."""
    own = ("rater_kind", "wanted", "purpose", "expected", "repeats", "priority", "strategy", "round", "position")
    return Question(question["kind"], tuple(map(to_clip, clips)), words, **{name: question[name] for name in own})


def _asked(question: Mapping[str, Any], clips: list[dict]) -> Question:
    """The question of a row, whose clips may have no episode yet."""
    return to_question(question, [{**clip, "episode": clip["episode"] or ""} for clip in clips], None)


def _check_expected(question: Mapping[str, Any], clips: list[dict]) -> None:
    """Raises UserError where the right answer is missing, or could be none."""
    label = question["expected"]
    if label is None:
        if question["purpose"] == "gold":
            raise UserError("question_expected is missing: a question with question_purpose=gold has a right answer")
        return
    try:
        check_value(_asked(question, clips), Value(ANSWER, label))
    except UserError as error:
        raise UserError(f"question_expected={label:g} is no right answer: {error}") from error


def _clips(row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The clips of a row; older exports have rows of a data set, as `starts`."""
    parts = {name: row.get(name) for name in ("episodes", "firsts", "lengths", "old_rows")}
    if row.get("starts") is not None:
        parts["old_rows"] = row["starts"]
    if isinstance(parts["episodes"], list) and not any(map(is_missing, parts["episodes"])):
        parts["old_rows"] = None  # which says where a clip was before its episode was known
    given = {name: part for name, part in parts.items() if part is not None}
    counts = {len(part) if isinstance(part, list) else 0 for part in given.values()}
    if not given or len(counts) != 1 or 0 in counts:
        raise UserError("episodes, firsts and lengths are lists, with a place for each clip")
    count = counts.pop()
    for i in range(count):
        episode, first, length, old_row = (given.get(name, [None] * count)[i] for name in parts)
        if length is None and "lengths" not in given:
            length = row.get("question_length")
        length = to_whole(length, "a clip's length", low=1)
        clip = {"episode": None, "first": None, "length": length, "old_dataset": None, "old_row": None}
        if is_missing(episode):
            dataset = check_text(row.get("question_dataset"), 64, "question_dataset")
            clip |= {
                "old_dataset": dataset,
                "old_row": to_whole(old_row, "the row of a clip without an episode", low=0),
            }
            yield {"id": identity("clip", dataset, clip["old_row"], length), **clip}
        else:
            clip["episode"] = check_text(episode, 64, "a clip's episode")
            if not clip["episode"]:
                raise UserError("a clip's episode is empty: it is the episode's id")
            clip["first"] = to_whole(first, "a clip's first step", low=0)
            yield {"id": clip_id(to_clip(clip)), **clip}

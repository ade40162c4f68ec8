"""Questions and the answers that stand, read from the store."""

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, Select, select

from pbrl.feedback.questions import Question
from pbrl.feedback.store.answers import COLUMNS, Answer, current, current_at, from_row
from pbrl.feedback.store.database import batches
from pbrl.feedback.store.schema import ClipRow, EventRow, ItemRow, QuestionRow, WordingRow
from pbrl.types import Clip

OWN = ("rater_kind", "wanted", "purpose", "expected", "repeats", "priority", "strategy", "round", "position")


def read_questions(connection: Connection, ids: Sequence[str]) -> dict[str, Question]:
    """The questions with these ids, in their order, of those that there are and whose clips have an episode."""
    clips: dict[str, list[Clip]] = {}
    placed = (
        select(ItemRow.question, ClipRow.episode, ClipRow.first, ClipRow.length)
        .join(ClipRow, ItemRow.clip == ClipRow.id)
        .order_by(ItemRow.question, ItemRow.place)
    )
    for question, *clip in _in_batches(connection, placed, ItemRow.question, ids):
        clips.setdefault(question, []).append(Clip(*clip))
    columns = [QuestionRow.__table__.c[name] for name in ("id", "kind", *OWN)]
    asked = select(*columns, WordingRow.words).outerjoin(WordingRow, QuestionRow.wording == WordingRow.id)
    found = {
        row.id: Question(row.kind, tuple(clips[row.id]), row.words, **{name: getattr(row, name) for name in OWN})
        for row in _in_batches(connection, asked, QuestionRow.id, ids)
        if all(clip.episode is not None for clip in clips[row.id])
    }
    return {name: found[name] for name in ids if name in found}


def read_answers(
    connection: Connection,
    conditions: Sequence[Any],
    questions: Sequence[str] | None = None,
    until: int | None = None,
) -> list[Answer]:
    """Answers that stand, or that stood at the event number `until`, by rounds and positions of their questions.

    `conditions` are on events and questions; `questions` are ids, None being all.
    """
    query = current(*COLUMNS) if until is None else current_at(until, *COLUMNS)
    query = query.join(QuestionRow, EventRow.question == QuestionRow.id).where(*conditions)
    query = query.order_by(QuestionRow.round, QuestionRow.position, EventRow.seq)
    if questions is None:
        return [from_row(row) for row in connection.execute(query)]
    return [from_row(row) for row in _in_batches(connection, query, QuestionRow.id, questions)]


def _in_batches(connection: Connection, query: Select, column: Any, values: Sequence[str]) -> Iterator[Any]:
    for batch in batches(list(values)):
        yield from connection.execute(query.where(column.in_(batch)))

"""Questions and the answers that stand, read from the store."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, select

from pbrl.feedback.questions import Question
from pbrl.feedback.store.answers import COLUMNS, Answer, current, current_at, from_row
from pbrl.feedback.store.database import batches
from pbrl.feedback.store.schema import ClipRow, EventRow, ItemRow, QuestionRow, WordingRow
from pbrl.types import Clip

OWN = ("rater_kind", "wanted", "purpose", "expected", "repeats", "priority", "strategy", "round", "position")
# Built once: to build a statement takes longer than to run it.
PLACED = (
    select(ItemRow.question, ClipRow.episode, ClipRow.first, ClipRow.length)
    .join(ClipRow, ItemRow.clip == ClipRow.id)
    .where(ItemRow.question.in_(bindparam("ids", expanding=True)))
    .order_by(ItemRow.question, ItemRow.place)
)
ASKED = (
    select(*(QuestionRow.__table__.c[name] for name in ("id", "kind", *OWN)), WordingRow.words)
    .outerjoin(WordingRow, QuestionRow.wording == WordingRow.id)
    .where(QuestionRow.id.in_(bindparam("ids", expanding=True)))
)


def read_questions(connection: Connection, ids: Sequence[str]) -> dict[str, Question]:
    """The questions with these ids, in their order, of those that there are and whose clips have an episode."""
    clips: dict[str, list[Clip]] = {}
    found: dict[str, Question] = {}
    for batch in batches(list(ids)):
        for question, *clip in connection.execute(PLACED, {"ids": batch}).tuples().all():
            clips.setdefault(question, []).append(Clip(*clip))  # type: ignore[arg-type]
        asked: Sequence[Any] = connection.execute(ASKED, {"ids": batch}).all()
        for name, kind, *own, words in asked:
            if all(clip.episode is not None for clip in clips[name]):
                found[name] = Question(kind, tuple(clips[name]), words, *own)
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
    query = query.where(QuestionRow.id.in_(bindparam("ids", expanding=True)))
    found = (connection.execute(query, {"ids": batch}) for batch in batches(list(questions)))
    return [from_row(row) for rows in found for row in rows]

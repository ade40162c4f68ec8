"""A rater's own answers, to look at and to change: as the page sends them."""

from typing import Any

from sqlalchemy import select

from pbrl.feedback.kinds import SKIP, Value
from pbrl.feedback.page.project import Project
from pbrl.feedback.store.answers import COLUMNS, current, from_row
from pbrl.feedback.store.schema import EventRow, QuestionRow

CHOICES = {0.0: "first", 0.5: "equal", 1.0: "second"}


def list_answers(project: Project, rater: str, n: int, before: int | None) -> dict[str, Any]:
    """Up to n answers of a rater that stand, the latest first, of those before the event of that number."""
    query = current(*COLUMNS).join(QuestionRow, EventRow.question == QuestionRow.id)
    query = query.where(EventRow.rater == rater, QuestionRow.purpose != "practice")
    if before is not None:
        query = query.where(EventRow.seq < before)
    with project.store.reading() as connection:
        query = query.where(*project.store.conditions(connection, {"dataset": project.dataset}))
        rows = connection.execute(query.order_by(EventRow.seq.desc()).limit(n + 1)).all()
        numbered = select(EventRow.uid, EventRow.seq).where(EventRow.uid.in_([row.uid for row in rows]))
        number = {uid: seq for uid, seq in connection.execute(numbered)}
    answers = [(number[row.uid], from_row(row)) for row in rows[:n]]
    questions = project.store.questions([answer.question for _, answer in answers])
    shown = [
        {
            "seq": seq,
            "uid": answer.uid,
            "question": project.describe(answer.question, questions[answer.question], rater),
            "value": to_json(questions[answer.question].kind, answer.value),
            "seconds": answer.seconds,
            "time": answer.time.isoformat() if answer.time else None,
        }
        for seq, answer in answers
        if answer.value is not None and answer.question in questions
    ]
    return {"answers": shown, "more": len(rows) > n}


def to_json(kind: str, value: Value) -> dict[str, Any]:
    """The answer that `parse` reads as this value."""
    detail = dict(value.detail or {})
    note = {"note": detail.pop("note")} if detail.get("note") else {}
    if value.outcome == SKIP:
        return {"choice": "cant_tell", **note}
    if kind in ("pair", "triplet"):
        return {"choice": CHOICES.get(value.label or 0.0, "equal"), **detail, **note}
    if kind == "rating":
        return {"rating": int(value.label or 0), **note}
    if kind == "attributes":
        found = {
            name: "cant_tell" if p is None else CHOICES.get(p, "equal") for name, p in detail["attributes"].items()
        }
        return {"attributes": found, **note}
    return {**detail, **note}

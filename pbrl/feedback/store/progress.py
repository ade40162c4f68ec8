"""What the page shows of a data set's questions: how many are open, what a rater has done, how practice goes."""

from sqlalchemy import func, select

from pbrl.feedback.questions import Question
from pbrl.feedback.store.answers import IS_OPEN, Answer, current
from pbrl.feedback.store.schema import EventRow, QuestionRow
from pbrl.feedback.store.store import Store


def count_open(store: Store, dataset: str) -> int:
    """How many questions about a data set still want an answer that no rater is giving yet."""
    with store.reading() as connection:
        conditions = store.conditions(connection, {"dataset": dataset})
        query = select(func.count()).select_from(QuestionRow).where(IS_OPEN, *conditions)
        return connection.execute(query).scalar() or 0


def count_answered(store: Store, rater: str, dataset: str) -> int:
    """How many answers of a rater about a data set stand."""
    query = current(func.count()).join(QuestionRow, EventRow.question == QuestionRow.id)
    with store.reading() as connection:
        conditions = store.conditions(connection, {"dataset": dataset})
        return connection.execute(query.where(EventRow.rater == rater, *conditions)).scalar() or 0


def practice(store: Store, rater: str, dataset: str) -> tuple[int, dict[str, tuple[str, bool]]]:
    """How many practice questions there are, and of those that a rater has answered the uid and whether right."""
    with store.reading() as connection:
        wanted = store.conditions(connection, {"dataset": dataset, "purpose": "practice"})
        asked = connection.execute(select(func.count()).select_from(QuestionRow).where(*wanted)).scalar() or 0
        query = current(EventRow.question, EventRow.uid, EventRow.label, QuestionRow.expected)
        query = query.join(QuestionRow, EventRow.question == QuestionRow.id).where(*wanted, EventRow.rater == rater)
        found = connection.execute(query)
        return asked, {question: (uid, label == expected) for question, uid, label, expected in found}


def answers_with_questions(store: Store, dataset: str) -> list[tuple[Answer, Question]]:
    """All answers about a data set that stand, each with its question."""
    answers = store.answers(dataset=dataset)
    questions = store.questions(sorted({answer.question for answer in answers}))
    return [(answer, questions[answer.question]) for answer in answers]

"""Questions of any number of clips, for people too; answers become events, to which more are added."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0002", "0001"


def upgrade() -> None:
    op.drop_index("ix_answers_question", "answers")
    op.rename_table("questions", "old_questions")
    op.rename_table("answers", "old_answers")
    op.create_table(
        "wordings",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("words", sa.JSON, nullable=False),
    )
    op.create_table(
        "questions",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("dataset", sa.String(64), nullable=False),
        sa.Column("length", sa.Integer, nullable=False),
        sa.Column("strategy", sa.String(32), nullable=False),
        sa.Column("round", sa.Integer, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("asked", sa.DateTime(timezone=True), nullable=False),
        sa.Column("wording", sa.String(32), sa.ForeignKey("wordings.id")),
        sa.Column("purpose", sa.String(8), nullable=False, server_default="learn"),
        sa.Column("expected", sa.Float),
        sa.Column("repeats", sa.String(32), sa.ForeignKey("questions.id")),
        sa.Column("priority", sa.Float, nullable=False, server_default="0"),
        sa.Column("wanted", sa.Integer, nullable=False, server_default="1"),
        sa.Column("given", sa.Integer, nullable=False, server_default="0"),
        sa.Column("open", sa.Integer, nullable=False, server_default="0"),
        sa.CheckConstraint("purpose IN ('learn', 'practice', 'gold', 'repeat')", name="purpose_is_known"),
        sa.CheckConstraint("given >= 0 AND wanted >= 0", name="counts_are_not_negative"),
    )
    only_open = sa.text("open > 0")
    order = ["dataset", sa.text("priority DESC"), "round", "position", "id"]
    op.create_index("next_question", "questions", order, sqlite_where=only_open, postgresql_where=only_open)
    op.create_table(
        "items",
        sa.Column("question", sa.String(32), sa.ForeignKey("questions.id"), primary_key=True),
        sa.Column("place", sa.Integer, primary_key=True),
        sa.Column("clip", sa.String(32), sa.ForeignKey("clips.id"), nullable=False, index=True),
    )
    op.create_table(
        "raters",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("about", sa.JSON),
        sa.Column("token", sa.String(64), unique=True),
        sa.CheckConstraint("kind IN ('human', 'vlm', 'script')", name="kind_is_known"),
    )
    op.create_table(
        "leases",
        sa.Column("question", sa.String(32), sa.ForeignKey("questions.id"), primary_key=True),
        sa.Column("rater", sa.String(64), sa.ForeignKey("raters.name"), primary_key=True),
        sa.Column("until", sa.Float, nullable=False, index=True),
    )
    op.create_table(
        "events",
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("uid", sa.String(36), unique=True, nullable=False),
        sa.Column("question", sa.String(32), sa.ForeignKey("questions.id"), nullable=False, index=True),
        sa.Column("rater", sa.String(64), sa.ForeignKey("raters.name"), nullable=False, index=True),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("outcome", sa.String(8)),
        sa.Column("label", sa.Float),
        sa.Column("detail", sa.JSON),
        sa.Column("shown", sa.JSON),
        sa.Column("confidence", sa.Float, nullable=False, server_default="1"),
        sa.Column("seconds", sa.Float),
        sa.Column("told", sa.DateTime(timezone=True)),
        sa.Column("kept", sa.DateTime(timezone=True), nullable=False),
        sa.Column("supersedes", sa.String(36), index=True),
        sa.CheckConstraint("kind IN ('answer', 'retract', 'pass')", name="event_is_known"),
        sa.CheckConstraint("(kind = 'answer') = (outcome IS NOT NULL)", name="answers_have_an_outcome"),
        sa.CheckConstraint("outcome IN ('answer', 'tie', 'skip')", name="outcome_is_known"),
        sa.CheckConstraint("kind <> 'retract' OR supersedes IS NOT NULL", name="retractions_name_an_event"),
        sqlite_autoincrement=True,
    )
    for statement in MOVE:
        op.execute(statement)
    op.drop_table("old_answers")
    op.drop_table("old_questions")


MOVE = [
    """INSERT INTO questions (id, kind, dataset, length, strategy, round, position, asked)
       SELECT q.id, q.kind, c.dataset, c.length, q.strategy, q.round, q.position, q.asked
       FROM old_questions q JOIN clips c ON c.id = q.first""",
    "INSERT INTO items SELECT id, 0, first FROM old_questions",
    "INSERT INTO items SELECT id, 1, second FROM old_questions WHERE second IS NOT NULL",
    "INSERT INTO raters (name, kind) SELECT DISTINCT author, 'script' FROM old_answers",
    """INSERT INTO events (uid, question, rater, kind, outcome, label, confidence, seconds, kept)
       SELECT a.id, a.question, a.author, 'answer', a.outcome, a.label, a.confidence, a.seconds, a.answered
       FROM old_answers a JOIN old_questions q ON q.id = a.question
       ORDER BY a.answered, q.round, q.position, a.id""",
    """UPDATE questions SET given = (SELECT count(*) FROM events e WHERE e.question = questions.id)""",
    "UPDATE questions SET open = wanted - given",
]

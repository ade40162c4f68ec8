"""Three tables: clips, questions of one or two, answers. Stores of that time are stamped with it."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0001", None


def upgrade() -> None:
    op.create_table(
        "clips",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("dataset", sa.String(64), nullable=False),
        sa.Column("row", sa.Integer, nullable=False),
        sa.Column("length", sa.Integer, nullable=False),
    )
    op.create_table(
        "questions",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("first", sa.String(32), sa.ForeignKey("clips.id"), nullable=False),
        sa.Column("second", sa.String(32), sa.ForeignKey("clips.id")),
        sa.Column("strategy", sa.String(32), nullable=False),
        sa.Column("round", sa.Integer, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("asked", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "answers",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("question", sa.String(32), sa.ForeignKey("questions.id"), nullable=False),
        sa.Column("author", sa.String(64), nullable=False),
        sa.Column("outcome", sa.String(8), nullable=False),
        sa.Column("label", sa.Float),
        sa.Column("confidence", sa.Float, nullable=False),
        sa.Column("seconds", sa.Float),
        sa.Column("answered", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("ix_answers_question", "answers", ["question"])

"""A clip belongs to its episode. Old ones keep what they were known by until their data set is opened again."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0003", "0002"


def upgrade() -> None:
    op.create_table(
        "datasets",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("episodes", sa.Integer, nullable=False),
    )
    op.create_table(
        "members",
        sa.Column("dataset", sa.String(32), sa.ForeignKey("datasets.id"), primary_key=True),
        sa.Column("episode", sa.String(64), primary_key=True, index=True),
    )
    move_clips()
    op.execute("ALTER TABLE questions ADD COLUMN rater_kind VARCHAR(8)")
    op.execute("ALTER TABLE questions ADD COLUMN same_as VARCHAR(32)")
    op.create_index("ix_questions_same_as", "questions", ["same_as"])
    op.execute("ALTER TABLE events RENAME COLUMN told TO time")
    op.execute("ALTER TABLE events RENAME COLUMN kept TO stored")


def move_clips() -> None:
    """Into a table with other columns, and with it the one that points at it: SQLite alters no column."""
    op.drop_index("ix_items_clip", "items")
    op.rename_table("items", "old_items")
    op.rename_table("clips", "old_clips")
    op.create_table(
        "clips",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("episode", sa.String(64), index=True),
        sa.Column("first", sa.Integer),
        sa.Column("length", sa.Integer, nullable=False),
        sa.Column("old_dataset", sa.String(64), index=True),
        sa.Column("old_row", sa.Integer),
        sa.CheckConstraint("(episode IS NULL) = (first IS NULL)", name="step_is_of_an_episode"),
        sa.CheckConstraint("(old_dataset IS NULL) = (old_row IS NULL)", name="row_is_of_a_dataset"),
        sa.CheckConstraint("episode IS NOT NULL OR old_dataset IS NOT NULL", name="clip_is_of_something"),
    )
    op.create_table(
        "items",
        sa.Column("question", sa.String(32), sa.ForeignKey("questions.id"), primary_key=True),
        sa.Column("place", sa.Integer, primary_key=True),
        sa.Column("clip", sa.String(32), sa.ForeignKey("clips.id"), nullable=False, index=True),
    )
    op.execute("INSERT INTO clips (id, length, old_dataset, old_row) SELECT id, length, dataset, row FROM old_clips")
    op.execute("INSERT INTO items SELECT question, place, clip FROM old_items")
    op.drop_table("old_items")
    op.drop_table("old_clips")

"""A store has an id of its own, by which browsers keep what they have not sent yet."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0004", "0003"


def upgrade() -> None:
    op.create_table("identity", sa.Column("id", sa.String(32), primary_key=True))

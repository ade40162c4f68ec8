"""Brings an older store up to date with Alembic; a new one gets today's tables at once."""

from pathlib import Path

from sqlalchemy import Connection, inspect, text

from pbrl.feedback.store.schema import HEAD, Base


def version(connection: Connection) -> str | None:
    """Which migration a store was last brought to: None before there were any, and for an empty database."""
    if "alembic_version" not in inspect(connection).get_table_names():
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def known() -> list[str]:
    """The versions that stores may have, in their order."""
    return sorted(path.name[:4] for path in (Path(__file__).parent / "versions").glob("[0-9]*.py"))


def upgrade(connection: Connection) -> None:
    """In the transaction that is open: all or nothing, also when other programs start at the same time."""
    if version(connection) == HEAD:
        return
    if "clips" not in inspect(connection).get_table_names():
        Base.metadata.create_all(connection)
        connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"))
        connection.execute(text("INSERT INTO alembic_version VALUES (:head)"), {"head": HEAD})
        return
    from alembic import command
    from alembic.config import Config

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(Path(__file__).parent))
    if version(connection) is None:
        command.stamp(config, "0001")
    command.upgrade(config, HEAD)

"""A database of answers: connected to, brought up to date, read, and written by one at a time. SQLite or PostgreSQL."""

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, func, make_url, select
from sqlalchemy.exc import (
    DatabaseError,
    DataError,
    DBAPIError,
    IntegrityError,
    SQLAlchemyError,
    StatementError,
)

from pbrl.feedback.store import migrations
from pbrl.feedback.store.address import hide_passwords
from pbrl.feedback.store.schema import HEAD, Base
from pbrl.types import UserError

BATCH = 500  # rows per statement, below SQLite's limit on bound values
REMOTE = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "beegfs", "ceph", "glusterfs", "gpfs", "lustre", "sshfs"}
LOCK = 7_263_401  # of PostgreSQL's advisory locks: a writer holds it


class Unavailable(UserError):
    """The database cannot be reached, is in use, full, read-only or damaged: nothing that is asked of it would work."""


class Unstorable(UserError):
    """A value that the database does not keep: what was asked with other values may work."""


class Database:
    """Tables at a `url`, such as `sqlite:///answers.sqlite`. On any trouble a UserError says what to do.

    `address` is the url without its password, to be shown.
    """

    patience_s = 10.0  # for another program that writes

    def __init__(self, url: str):
        self.url, self.address, self.lock = url, hide_passwords(url), Lock()
        self.opened: tuple[int, int] | None = None  # the file, while there is one
        try:
            kind = make_url(url).get_backend_name()
            if kind not in ("sqlite", "postgresql"):
                raise UserError(f"answers are kept in SQLite or PostgreSQL, not in {kind}")
            self.engine: Engine = create_engine(url, pool_pre_ping=True)
            if kind == "sqlite":
                event.listen(self.engine, "connect", self._open_file)
                event.listen(self.engine, "begin", _begin)
            self._bring_up_to_date()
            self.opened = file_identity(self._file)  # after the tables, which make it
        except (SQLAlchemyError, ImportError, ValueError) as error:
            raise _trouble(self.address, error) from error

    @property
    def _file(self) -> str | None:
        """The file of an SQLite database; None for one that has no name, and on a server."""
        name = self.engine.url.database
        is_named = self.engine.dialect.name == "sqlite" and name and name != ":memory:" and not name.startswith("file:")
        return name if is_named else None

    def _check_file(self) -> None:
        """What is written into a file without a name is gone when its last reader ends. Raises Unavailable."""
        if self.opened is not None and file_identity(self._file) != self.opened:
            raise Unavailable(
                f"the database of answers at {self.address} was deleted, moved or replaced while it was open: nothing "
                "more is kept. Save what it held before you stop this (/export of the page), put the file back, and "
                "start again with the same command"
            )

    def _bring_up_to_date(self) -> None:
        with self.engine.connect() as connection:
            version = migrations.version(connection)
        if version == HEAD:
            return
        if version is not None and version not in migrations.known():
            raise UserError(
                f"the store of answers at {self.address} is of a newer version of pbrl, or of another program (its "
                f"tables are of version {version!r:.40}, and this pbrl knows them up to {HEAD}): update pbrl, or name "
                "another store"
            )
        with self.writing() as connection:
            migrations.upgrade(connection)

    def _open_file(self, connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # transactions begin where we say so
        connection.execute(f"PRAGMA busy_timeout = {int(1000 * self.patience_s)}")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA synchronous = FULL")
        shared = is_remote(self.engine.url.database or "")
        try:
            connection.execute(f"PRAGMA journal_mode = {'DELETE' if shared else 'WAL'}")
        except sqlite3.OperationalError:  # a read-only file: reading works, and writing says so
            return

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction, the only one that writes. Threads queue up; SQLite would let some of them starve."""
        self._check_file()
        try:
            with self.lock, self.engine.connect().execution_options(writes=True) as connection, connection.begin():
                if self.engine.dialect.name == "postgresql":
                    connection.execute(select(func.pg_advisory_xact_lock(LOCK)))
                yield connection
        except SQLAlchemyError as error:
            raise _trouble(self.address, error) from error

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection for reading, also while another one writes."""
        try:
            with self.engine.connect() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise _trouble(self.address, error) from error


def file_identity(file: str | None) -> tuple[int, int] | None:
    """What tells a file from another one of its name; None where there is none."""
    try:
        found = None if file is None else os.stat(file)
    except OSError:
        return None
    return found and (found.st_dev, found.st_ino)


def is_remote(file: str, mounts: str | None = None) -> bool:
    """Whether a file lies on a network file system: there SQLite's write-ahead log, which is shared memory, fails.

    `mounts` is what Linux says is mounted, in the format of /proc/mounts; elsewhere nothing is known of that.
    """
    if mounts is None:
        try:
            mounts = Path("/proc/mounts").read_text()
        except OSError:
            return False
    lines = (line.split() for line in mounts.splitlines())
    points = {Path(point.replace("\\040", " ")): kind for _, point, kind, *_ in lines}
    path = Path(file).absolute()
    kind = next((points[folder] for folder in (path, *path.parents) if folder in points), "")
    return kind.removeprefix("fuse.") in REMOTE


def batches(rows: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """The rows in slices of at most `BATCH`, below SQLite's limit on bound values."""
    return (rows[i : i + BATCH] for i in range(0, len(rows), BATCH))


def insert(dialect: str, model: type[Base]) -> Any:
    """An insert statement of a dialect, sqlite or postgresql, which offers `on_conflict_do_nothing`."""
    if dialect == "sqlite":
        from sqlalchemy.dialects.sqlite import insert
    else:
        from sqlalchemy.dialects.postgresql import insert
    return insert(model)


def add(connection: Connection, model: type[Base], rows: list[dict]) -> None:
    """Adds rows that are not there yet."""
    for batch in batches(rows):
        connection.execute(insert(connection.dialect.name, model).on_conflict_do_nothing(), batch)


def _begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get("writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


HINTS = (  # what a driver says, and what to do
    ("locked", "another program is using it: close that, then start again with the same command"),
    ("readonly", "make the file and its folder writable, or name another store with store=sqlite:///…"),
    ("full", "free some space, then start again with the same command"),
    ("unable to open", "its folder must exist and be writable"),
    ("malformed", "the file is damaged or cut off: put a copy in its place, or move it away to begin anew"),
    ("not a database", "the file is damaged or something else; move it away"),
    ("No module named", "install that driver"),
)
SAFE = ("locked", "readonly", "full")  # of these, what was stored before is whole


def _trouble(address: str, error: Exception) -> UserError:
    lines = str(getattr(error, "orig", None) or error).splitlines()
    reason = lines[0] if lines else type(error).__name__
    word, advice = next((hint for hint in HINTS if hint[0] in reason), ("", "check the address and the database"))
    kind = "database" if isinstance(error, DatabaseError) else "store"
    safe = " Answers stored before are safe." if word in SAFE or not word else ""
    is_python = isinstance(error, StatementError) and not isinstance(error, DBAPIError)  # a value that has no SQL
    is_about_values = not word and (is_python or isinstance(error, (DataError, IntegrityError)))
    make = Unstorable if is_about_values else Unavailable
    return make(f"the {kind} of answers at {address} refused ({reason}): {advice}.{safe}")

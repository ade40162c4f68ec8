"""A run folder is one process's while that process lives."""

import fcntl
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pbrl.types import UserError


@contextmanager
def hold(folder: Path, what: str, advice: str) -> Iterator[None]:
    """Keeps a folder for this process until the block ends or the process is killed.

    Raises UserError where another process has it ("<what> is running there, pid 123: <advice>"), or the folder cannot
    be written.
    """
    path = folder / ".lock"
    try:
        handle = open(path, "a+")  # noqa: SIM115
    except OSError as error:
        raise UserError(f"cannot write to {folder} ({error.strerror}): {advice}") from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # goes with the process, however that ends
        except BlockingIOError:
            handle.seek(0)
            owner = handle.read().strip() or "pid unknown"
            raise UserError(f"{folder}: {what} is running there, {owner}: {advice}") from None
        except OSError as error:
            words = f"{folder} cannot be locked ({error.strerror}): nothing keeps a second run out of it"
            print(words, file=sys.stderr)
        handle.truncate(0)
        handle.write(f"pid {os.getpid()} on {platform.node()}")
        handle.flush()
        yield
        handle.truncate(0)

"""Signals that end a run: Ctrl-C, and SIGTERM as schedulers send it. During updates they wait for the one that runs.

So what is saved then is whole. A second signal does not wait. Of several processes rank 0 saves; the others go on until
it has left.
"""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from pbrl.distributed import is_rank_0


class Stopped(KeyboardInterrupt):
    """A signal ended the run."""


class _Arrived:
    """The signal that has come, and whether it is to wait; signals are of a process, and so is this."""

    number: int | None = None
    waits = False
    blocks = 0  # in which signals are handled


def _handle(number: int, frame: FrameType | None) -> None:
    is_first, _Arrived.number = _Arrived.number is None, number
    if not (is_first and _Arrived.waits):
        raise Stopped


@contextmanager
def handled() -> Iterator[None]:
    """Until the block ends, Ctrl-C and SIGTERM raise Stopped, in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _Arrived.number, _Arrived.blocks = None, _Arrived.blocks + 1
    before = {number: signal.signal(number, _handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        _Arrived.blocks -= 1
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def deferred() -> Iterator[None]:
    """A signal in this block waits for `is_due`; where the block fails because other processes have left, it counts."""
    _Arrived.waits = True
    try:
        yield
    except Exception as error:
        if has_arrived():
            raise Stopped from error
        raise
    finally:
        _Arrived.waits = False


def has_arrived() -> bool:
    """Whether a signal has come."""
    return _Arrived.number is not None


def is_due() -> bool:
    """Whether this process is to save and end now."""
    return _Arrived.blocks > 0 and has_arrived() and is_rank_0()


def leave(words: str) -> NoReturn:
    """Ends this process with 128 and the signal's number, as shells have it: 130 for Ctrl-C, 143 for SIGTERM."""
    if is_rank_0():
        print(words, file=sys.stderr)
    sys.exit(128 + (_Arrived.number or signal.SIGINT))

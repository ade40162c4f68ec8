"""Processes that end with the one that started them, however that ended: SIGKILL leaves nobody time to end others."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import CDLL
from multiprocessing import parent_process
from multiprocessing.process import BaseProcess

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with_parent(by_kernel: bool) -> None:
    """Ends this process, a child of `multiprocessing`, as soon as the process that asked for it has ended.

    To be called first in the child. A thread waits at the pipe between the two, whose other end closes when a process
    ends in whatever way. With `by_kernel` Linux kills the child besides, also one that is stuck in a library: only for
    children that a main thread started (see `is_main_thread`), since Linux means the thread that forked.
    """
    parent = parent_process()
    if parent is None:
        return
    threading.Thread(target=_leave_after, args=[parent], daemon=True).start()
    if by_kernel:
        kill_with_starter()


def kill_with_starter() -> None:
    """Has Linux kill this process when the thread that forked it ends; elsewhere nothing. See prctl(2)."""
    if sys.platform == "linux":
        CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def is_main_thread() -> bool:
    """Whether processes that are started now are started by a thread that lives as long as this process."""
    return threading.current_thread() is threading.main_thread()


@contextmanager
def delay_signals() -> Iterator[None]:
    """Ctrl-C and SIGTERM that come in this block count after it: processes that are half started cannot be ended."""
    if not is_main_thread():
        yield
        return
    came: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda number, _: came.append(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)  # none: not of Python
    for number in came:
        signal.raise_signal(number)


def _leave_after(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)  # not through the main thread, which waits for work that does not come

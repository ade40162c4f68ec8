"""How a deployment is ended from outside: Ctrl-C, a terminal that is closed, an ssh that is dropped, `kill`.

Each is raised once, as `StopSignal`, wherever the main thread is; what comes after is only noted, so that an impatient
second Ctrl-C does not cut short how the arm is stopped. The exit status is 128 and the signal's number, as a shell's.
"""

import contextlib
import os
import select
import signal
import sys
from types import FrameType
from typing import Any, TextIO

SIGNALS = {
    signal.SIGINT: "Ctrl-C",
    signal.SIGHUP: "the terminal, or the connection to it, is gone",
    signal.SIGQUIT: "Ctrl-\\",
    signal.SIGTERM: "asked to end (SIGTERM)",
}


class StopSignal(BaseException):
    """Somebody outside wants an end. No Exception: nothing that copes with errors may swallow it."""

    def __init__(self, number: int):
        super().__init__(SIGNALS.get(signal.Signals(number), str(number)))
        self.number = number

    @property
    def status(self) -> int:
        """The exit status."""
        return 128 + self.number


class StopSignals:
    """A context manager in which SIGNALS are raised, the first one of them, until `hold`.

    With `keeps_on` a hang-up that is ignored already, as by nohup, stays so: for what moves no arm. `has_moved` is to
    say whether the arm may have moved.
    """

    def __init__(self, *, keeps_on: bool):
        self.keeps_on, self.is_held, self.has_moved, self.before = keeps_on, False, False, {}

    def __enter__(self) -> "StopSignals":
        for number in SIGNALS:
            handler = signal.getsignal(number)
            if not (self.keeps_on and number == signal.SIGHUP and handler == signal.SIG_IGN):
                self.before[number] = signal.signal(number, self._raise)
        return self

    def __exit__(self, kind: type | None, *_: Any) -> None:
        if kind is StopSignal and not self.has_moved:
            with contextlib.suppress(StopSignal):
                write("\nthe arm was not moved")
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def hold(self) -> None:
        """From here on nothing is raised: the end has begun."""
        self.is_held = True

    def _raise(self, number: int, frame: FrameType | None) -> None:
        if not self.is_held:
            self.is_held = True
            raise StopSignal(number)


def check_output() -> None:
    """Whether anybody can still read what is printed: without a terminal a dropped ssh sends no signal, but closes the
    pipe. Raises StopSignal."""
    poll = select.poll()
    try:
        poll.register(sys.stdout.fileno(), 0)  # errors and hang-ups are reported unasked
    except (OSError, ValueError):  # a test's own
        return
    if poll.poll(0):
        raise StopSignal(signal.SIGHUP)


def write(line: str, end: str = "\n", file: TextIO | None = None) -> None:
    """Prints a line. Raises StopSignal where nobody can read it any more."""
    try:
        print(line, end=end, file=file, flush=True)
    except OSError:
        drop_output()
        raise StopSignal(signal.SIGHUP) from None


def drop_output() -> None:
    """Output goes nowhere from now on, so that no later line, and not the interpreter's end, fails for it."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            os.dup2(nowhere, stream.fileno())

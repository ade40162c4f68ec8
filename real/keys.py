"""Keys pressed at a terminal, without Enter."""

import os
import select
import signal
import sys
import termios
import tty
from typing import Any

from real.ending import StopSignal

STOPS = (" ", "q")


class Keys:
    """A context manager; where there is no terminal (`is_terminal` is False) no key is ever pressed.

    Reading from a terminal that is gone raises StopSignal.
    """

    def __enter__(self) -> "Keys":
        self.is_terminal = sys.stdin.isatty()
        self.pressed = ""
        if self.is_terminal:
            self.file = sys.stdin.fileno()
            self.before = termios.tcgetattr(self.file)
            tty.setcbreak(self.file)
        return self

    def __exit__(self, *error: Any) -> None:
        if self.is_terminal:
            try:
                termios.tcsetattr(self.file, termios.TCSADRAIN, self.before)
            except termios.error:  # it is gone
                self.is_terminal = False

    def read_key(self) -> str:
        """The next key pressed since, or nothing. One that stops comes first, and those before it are forgotten."""
        while self.is_terminal and select.select([self.file], [], [], 0)[0]:
            self._read()
        return self._take()

    def forget(self) -> None:
        """Forgets what was pressed before now: it was meant for something else."""
        self.pressed = ""
        if self.is_terminal:
            termios.tcflush(self.file, termios.TCIFLUSH)

    def wait(self) -> str:
        """Waits for a key; nothing where there is no terminal."""
        if self.is_terminal and not self.pressed:
            self._read()
        return self._take()

    def _read(self) -> None:
        try:
            data = os.read(self.file, 64)
        except OSError:
            data = b""
        if not data:
            raise StopSignal(signal.SIGHUP)
        self.pressed += data.decode(errors="ignore")

    def _take(self) -> str:
        stop = next((i for i, key in enumerate(self.pressed) if key in STOPS), 0)
        key, self.pressed = self.pressed[stop : stop + 1], self.pressed[stop + 1 :]
        return key

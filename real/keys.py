"""Keys pressed at a terminal, without Enter."""

import select
import sys
import termios
import tty
from typing import Any


class Keys:
    """A context manager; where there is no terminal (`is_terminal` is False) no key is ever pressed."""

    def __enter__(self) -> "Keys":
        self.is_terminal = sys.stdin.isatty()
        if self.is_terminal:
            self.before = termios.tcgetattr(sys.stdin)
            tty.setcbreak(sys.stdin)
        return self

    def __exit__(self, *error: Any) -> None:
        if self.is_terminal:
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self.before)

    def read_key(self) -> str:
        """The key pressed since, or nothing."""
        return sys.stdin.read(1) if self.is_terminal and select.select([sys.stdin], [], [], 0)[0] else ""

    def wait(self) -> str:
        """Waits for a key; nothing where there is no terminal."""
        return sys.stdin.read(1) if self.is_terminal else ""

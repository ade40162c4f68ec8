"""Keys pressed at a terminal, without Enter."""

import select
import sys
import termios
import tty
from typing import Any


class Keys:
    """A context manager; where there is no terminal (`there` is False) no key is ever pressed."""

    def __enter__(self) -> "Keys":
        self.there = sys.stdin.isatty()
        if self.there:
            self.before = termios.tcgetattr(sys.stdin)
            tty.setcbreak(sys.stdin)
        return self

    def __exit__(self, *error: Any) -> None:
        if self.there:
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self.before)

    def pressed(self) -> str:
        """The key pressed since, or nothing."""
        return sys.stdin.read(1) if self.there and select.select([sys.stdin], [], [], 0)[0] else ""

    def wait(self) -> str:
        return sys.stdin.read(1) if self.there else ""

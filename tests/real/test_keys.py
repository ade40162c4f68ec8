"""Keys at a terminal: what stops comes first, and a terminal that is gone is a stop."""

import os
import pty
from types import SimpleNamespace

import pytest

from real import keys as module
from real.ending import StopSignal
from real.keys import Keys


@pytest.fixture
def terminal(monkeypatch):
    """Our end of a terminal, at whose other end `Keys` reads."""
    ours, theirs = pty.openpty()
    stdin = SimpleNamespace(isatty=lambda: True, fileno=lambda: theirs)
    monkeypatch.setattr(module.sys, "stdin", stdin)
    yield ours
    os.close(theirs)


@pytest.mark.parametrize(
    "pressed, read", [("", [""]), ("s", ["s", ""]), ("kf", ["k", "f", ""]), ("kkk s", [" ", "s"]), ("kq", ["q", ""])]
)
def test_keys_come_in_order_but_one_that_stops_comes_first(terminal, pressed, read):
    with Keys() as keys:
        os.write(terminal, pressed.encode())
        assert [keys.read_key() for _ in read] == read
    os.close(terminal)


def test_keys_from_before_a_question_do_not_answer_it(terminal):
    with Keys() as keys:
        os.write(terminal, b"kss")
        assert keys.read_key() == "k"
        os.write(terminal, b"x")
        keys.forget()
        os.write(terminal, b"q")
        assert keys.wait() == "q"


def test_a_terminal_that_is_gone_is_a_stop_and_no_key(terminal):
    with pytest.raises(StopSignal), Keys() as keys:
        os.close(terminal)
        keys.read_key()


def test_without_a_terminal_no_key_is_pressed(monkeypatch):
    monkeypatch.setattr(module.sys, "stdin", SimpleNamespace(isatty=lambda: False))
    with Keys() as keys:
        assert keys.read_key() == keys.wait() == ""

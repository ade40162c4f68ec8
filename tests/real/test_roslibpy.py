"""roslibpy's connections: a peer of which nothing is heard is left in time, a busy one never, and nothing is said."""

import heapq
import logging
from itertools import count
from typing import Any

import pytest

pytest.importorskip("roslibpy", reason="needs roslibpy")
from real.transports.roslibpy import pinging


class Loop:
    """An event loop by a clock of ours."""

    def __init__(self):
        self.now, self.calls, self.order = 0.0, [], count()

    def call_later(self, seconds, call):
        heapq.heappush(self.calls, (self.now + seconds, next(self.order), call))

    def run_until(self, end):
        while self.calls and self.calls[0][0] <= end:
            self.now, _, call = heapq.heappop(self.calls)
            call()
        self.now = end


class Socket:
    """What roslibpy's protocol class has of autobahn's, as far as pings go."""

    STATE_OPEN = 3

    def __init__(self):
        self.state, self.loop, self.pings, self.dropped, self.messages = self.STATE_OPEN, Loop(), [], None, 0
        self.factory: Any = type("Factory", (), {"manager": type("Manager", (), {"loop": self.loop})})

    def onOpen(self): ...
    def onMessage(self, payload, isBinary):
        self.messages += 1

    def sendPing(self):
        self.pings.append(self.loop.now)

    def dropConnection(self, abort):
        self.state, self.dropped = 0, self.loop.now


def open_socket():
    socket = pinging(Socket)()
    socket.onOpen()
    return socket


def test_a_silent_peer_is_left_after_two_pings():
    socket = open_socket()
    socket.loop.run_until(10.0)
    assert socket.pings == [0.0, 0.5] and socket.dropped == 1.0


@pytest.mark.parametrize("frame", ["pong", "message"])
def test_any_frame_is_an_answer(frame):
    socket = open_socket()
    for i in range(1, 30):
        socket.loop.run_until(0.9 * i)
        socket.onPong(b"") if frame == "pong" else socket.onMessage(b"{}", False)
    assert socket.dropped is None and len(socket.pings) > 50 and socket.messages == (0 if frame == "pong" else 29)
    socket.loop.run_until(40.0)
    assert socket.dropped == pytest.approx(27.5, abs=0.01), "0.9 · 29 = 26.1 s; pings at 26.5 and 27 are not answered"


def test_a_connection_that_was_closed_pings_no_more():
    socket = open_socket()
    socket.state = 0
    socket.loop.run_until(5.0)
    assert socket.pings == [0.0] and socket.dropped is None


def test_warnings_of_the_libraries_below_do_not_hide_a_fault():
    for name in ("autobahn.asyncio.websocket", "autobahn.websocket.protocol", "roslibpy"):
        assert not logging.getLogger(name).isEnabledFor(logging.ERROR)

"""How much one rater, one machine and one connection may ask of the page's server."""

import asyncio
import time
from collections import Counter
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

BURST_S = 20.0  # what a rater has not used of that time may be sent at once: an outbox after a pause
CONNECTIONS = 500  # at a time
FROM_ONE_ADDRESS = 100  # of these; raters behind one router share an address
REQUEST_S = 15.0  # until a request is there, from its connection or its first byte on
LARGEST = 256 * 1024  # bytes of a request, its headers among them; see guard.py for its body


class Rates:
    """A bucket of answers for each rater, filled at `per_s` (None: without limit)."""

    def __init__(self, per_s: float | None):
        self.per_s = per_s
        self.buckets: dict[str, tuple[float, float]] = {}  # answers, as of when

    def wait_s(self, rater: str, now: float | None = None) -> float:
        """Takes an answer from the rater's bucket: 0, or how long to wait where it is empty."""
        if self.per_s is None:
            return 0.0
        now = time.monotonic() if now is None else now
        most = self.per_s * BURST_S
        content, since = self.buckets.get(rater, (most, now))
        content = min(most, content + self.per_s * (now - since))
        enough = content >= 1
        self.buckets[rater] = content - 1 if enough else content, now
        return 0.0 if enough else (1 - content) / self.per_s


class PatientProtocol(HttpToolsProtocol):
    """HTTP that takes only so many connections at a time, and ends those whose request does not come or is too long."""

    request_s, connections_at_most, from_one_address = REQUEST_S, CONNECTIONS, FROM_ONE_ADDRESS
    by_address: Counter[str] = Counter()  # connections that are open, of this process

    def connection_made(self, transport: Any) -> None:  # type: ignore[override]
        """Takes the connection, or ends it where there are too many."""
        super().connection_made(transport)
        self.timer: asyncio.TimerHandle | None = None
        self.address = (transport.get_extra_info("peername") or ("",))[0]
        self.by_address[self.address] += 1
        too_many = self.by_address.total() > self.connections_at_most
        if too_many or self.by_address[self.address] > self.from_one_address:
            transport.abort()
        else:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets the connection."""
        self.by_address[self.address] -= 1
        if self.by_address[self.address] <= 0:
            del self.by_address[self.address]
        self._stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Reads on, but not beyond what a request may hold."""
        self.received += len(data)
        if self.received > LARGEST:
            self.transport.abort()
        else:
            super().data_received(data)

    def on_message_begin(self) -> None:
        """A request begins: time runs."""
        super().on_message_begin()
        self._wait()

    def on_message_complete(self) -> None:
        """The whole request is there in time."""
        self._stop()
        super().on_message_complete()

    def _wait(self) -> None:
        self._stop()
        self.timer = self.loop.call_later(self.request_s, self.transport.abort)

    def _stop(self) -> None:
        self.received = 0
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

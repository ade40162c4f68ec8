"""The same link to rosbridge over roslibpy (its asyncio transport), for those whose other tools use it.

Guarded against what it does by itself. Its `Topic` keeps what is published while the link is down, and sends all of it
when it comes back: here nothing is given to anything but the connection that is open now. Subscriptions are sent
again on each connection. A frozen peer is noticed by pings, and is dialled anew after a second at most, not after up to
an hour. The pings are our own: autobahn's timers end at whole seconds, so that a ping may be overdue as it is sent and
a sound connection is dropped; and it warns of every pong that comes after other traffic. roslibpy calls back in one
thread for all links of a process: what is called only stores what came.
"""

import logging
from typing import Any

from pbrl.types import UserError
from real.transports.link import Latest
from real.transports.websockets import PONG_S, REDIAL_S, WebsocketsLink

try:
    from roslibpy.comm import select_factory
except ImportError as error:
    raise UserError(f"transport: roslibpy is not there ({error}): pip install roslibpy") from error

UNANSWERED = 2  # pings without any frame between, after which a peer is left: all links of a process share a thread
for name in ("autobahn", "roslibpy"):  # the link says itself what is wrong; their warnings hide a fault's line
    logging.getLogger(name).setLevel(logging.CRITICAL)


class RoslibpyLink(WebsocketsLink):
    """One socket to `url`, as `real.transports.websockets.WebsocketsLink`."""

    def _open(self) -> None:
        self.factory: Any = None
        try:
            factory: Any = select_factory("asyncio")(self.url)
        except ValueError:  # no address: `wait` says so
            return
        factory.setProtocolOptions(openHandshakeTimeout=2, closeHandshakeTimeout=1, perMessageCompressionOffers=[])
        factory.protocol = pinging(factory.protocol)
        factory.initialDelay, factory.maxDelay = REDIAL_S[0], REDIAL_S[-1]
        factory.on("ready", self._ready)
        factory.on("close", lambda _: self._on_disconnected())
        self.factory = factory
        factory.connect()

    def subscribe(self, topic: str, type_: str) -> Latest:
        """The newest message of a topic from now on; subscribed anew after each loss of the link."""
        if topic not in self.topics and self.factory is not None:
            self.factory.on(topic, lambda message: self._store(topic, message))
        return super().subscribe(topic, type_)

    def close(self) -> None:
        """Ends the connection; nothing is sent afterwards."""
        self.closing = True
        if self.factory is not None:
            self.factory.maxRetries = 0
            if self.socket is not None:
                self.socket.send_close()

    def _ready(self, proto: Any) -> None:
        if self.closing:
            proto.send_close()
            return
        self.connections += 1
        for frame in self.announcements():
            proto.send_ros_message(frame)
        self.socket = proto
        self.up.set()

    def _send_text(self, socket: Any, frame: dict[str, Any], text: str) -> None:
        if frame["op"] == "call_service":
            socket.send_ros_service_request(
                frame,
                lambda values: self._resolve({**frame, "result": True, "values": dict(values)}),
                lambda values: self._resolve({**frame, "result": False, "values": values}),
            )
        elif frame["op"] == "send_action_goal":
            socket.send_ros_action_goal(frame, *3 * [lambda result: None])
        else:
            socket.send_message(text.encode())


def pinging(protocol: Any) -> Any:
    """A class of roslibpy's connections that pings, and drops a peer of which nothing is heard."""

    class Pinging(protocol):
        unanswered = 0

        def onOpen(self) -> None:
            super().onOpen()
            self._ping()

        def onMessage(self, payload: bytes, isBinary: bool) -> None:
            self.unanswered = 0
            super().onMessage(payload, isBinary)

        def onPong(self, payload: bytes) -> None:
            self.unanswered = 0

        def _ping(self) -> None:
            if self.state != self.STATE_OPEN:
                return
            if self.unanswered == UNANSWERED:
                self.dropConnection(abort=True)
                return
            self.unanswered += 1
            self.sendPing()
            self.factory.manager.loop.call_later(PONG_S, self._ping)

    return Pinging

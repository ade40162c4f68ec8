"""The same link to rosbridge over roslibpy (its asyncio transport), for those whose other tools use it.

Guarded against what it does by itself. Its `Topic` keeps what is published while the link is down, and sends all of it
when it comes back: here nothing is given to anything but the connection that is open now. Subscriptions are sent
again on each connection. A frozen peer is noticed by pings, and is dialled anew after a second at most, not after up to
an hour. roslibpy calls back in one thread for all links of a process: what is called only stores what came.
"""

from typing import Any

from pbrl.types import UserError
from real.transports.link import Latest
from real.transports.websockets import CLOSE_S, PING_S, PONG_S, REDIAL_S, WebsocketsLink

try:
    from roslibpy.comm import select_factory
except ImportError as error:
    raise UserError(f"transport: roslibpy is not there ({error}): pip install roslibpy") from error


class RoslibpyLink(WebsocketsLink):
    """One socket to `url`, as `real.transports.websockets.WebsocketsLink`."""

    def _open(self) -> None:
        self.factory: Any = None
        try:
            factory: Any = select_factory("asyncio")(self.url)
        except ValueError:  # no address: `wait` says so
            return
        factory.setProtocolOptions(
            autoPingInterval=2 * PING_S,
            autoPingTimeout=2 * PONG_S,  # its timers are as coarse as 0.2 s
            closeHandshakeTimeout=CLOSE_S,
            openHandshakeTimeout=2,
            perMessageCompressionOffers=[],
        )
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

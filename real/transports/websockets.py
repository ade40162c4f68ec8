"""A connection to a robot through rosbridge, that never sends late what was meant for earlier.

What is published while the link is down or full is dropped, not kept; of each topic only the newest message is kept,
with the time it came; a peer that does not answer a ping within half a second is left and dialled anew. rosbridge drops
what it does not understand and says nothing, so that nothing here is proof of delivery: an echo is.
"""

import asyncio
import contextlib
import json
import threading
import time
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidURI, WebSocketException

from pbrl.types import UserError
from real.transports.link import Latest, LinkError

PING_S, PONG_S, CLOSE_S = 0.25, 0.5, 0.2
REDIAL_S = (0.1, 0.2, 0.5, 1.0)  # the last one again and again
FULL = 16_384  # bytes that wait for the link; a command more would be late


@dataclass
class WebsocketsLink:
    """One socket to `url`. Methods may be called from any thread; none but `call` waits."""

    url: str
    connections: int = 0  # so often was it dialled with success
    topics: dict[str, Latest] = field(default_factory=dict)
    advertised: dict[str, str] = field(default_factory=dict)
    pending: dict[str, Future] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ids, self.socket, self.closing, self.up = count(), None, False, threading.Event()
        self._open()

    def _open(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self._run, name=f"rosbridge {self.url}", daemon=True)
        self.thread.start()

    @property
    def is_connected(self) -> bool:
        """Whether the socket is open: a frozen peer's is for half a second more. A state's age is exact."""
        return self.socket is not None

    def wait(self, timeout_s: float) -> None:
        """Until it is connected. Raises UserError."""
        if not self.up.wait(timeout_s):
            raise UserError(
                f"no answer at {self.url}: is rosbridge running there (`roslaunch rosbridge_server "
                "rosbridge_websocket.launch`, or `ros2 launch …`), and is its port (9090) open to this machine?"
            )

    def subscribe(self, topic: str, type_: str) -> Latest:
        """The newest message of a topic from now on; subscribed anew after each loss of the link."""
        if topic not in self.topics:
            self.topics[topic] = Latest(type_)
            self.send(subscription(topic, type_))
        return self.topics[topic]

    def advertise(self, topic: str, type_: str) -> None:
        """Says what will be published: before the first message, since the bridge takes a moment."""
        self.advertised[topic] = type_
        self.send(advertisement(topic, type_))

    def publish(self, topic: str, message: dict[str, Any]) -> bool:
        """Sends now or never: False where the link is down or full, or a number is not finite."""
        assert topic in self.advertised
        return self.send({"op": "publish", "topic": topic, "msg": message})

    def call(self, service: str, args: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """What the service answers. Raises LinkError."""
        key = f"c:{next(self.ids)}"
        answer: Future = Future()
        self.pending[key] = answer
        try:
            if not self.send({"op": "call_service", "service": service, "args": args, "id": key}):
                raise LinkError(f"{service} was not asked: no connection to {self.url}")
            frame = answer.result(timeout_s)
        except TimeoutError:
            raise LinkError(f"{service} did not answer within {timeout_s} s") from None
        finally:
            self.pending.pop(key, None)
        values = frame.get("values")
        if not frame.get("result"):
            raise LinkError(f"{service} failed: {values}")
        return values if isinstance(values, dict) else {}

    def act(self, action: str, type_: str, goal: dict[str, Any]) -> bool:
        """Sends an action's goal (ROS 2), and receives nothing of it."""
        key = f"g:{next(self.ids)}"
        return self.send({"op": "send_action_goal", "action": action, "action_type": type_, "args": goal, "id": key})

    def close(self) -> None:
        """Ends the connection; nothing is sent afterwards."""
        self.closing = True
        self.loop.call_soon_threadsafe(lambda: [task.cancel() for task in asyncio.all_tasks(self.loop)])
        self.thread.join(timeout=2)

    def send(self, frame: dict[str, Any]) -> bool:
        """Sends a frame now or never: False where the link is down or full, or a number is not finite."""
        socket = self.socket
        if socket is None or self.closing or socket.transport.get_write_buffer_size() > FULL:
            return False
        try:
            text = json.dumps(frame, allow_nan=False)
        except ValueError:
            return False
        self._send_text(socket, frame, text)
        return True

    def _send_text(self, socket: Any, frame: dict[str, Any], text: str) -> None:
        self.loop.call_soon_threadsafe(self._write, socket, text)

    def _write(self, socket: ClientConnection, text: str) -> None:
        if socket is self.socket:  # not on the next one: it would be late
            task = self.loop.create_task(socket.send(text))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_until_complete(self._reconnect_forever())
        except asyncio.CancelledError:
            pass
        finally:
            self.loop.close()

    async def _reconnect_forever(self) -> None:
        tries = 0
        while not self.closing:
            try:
                async with connect(
                    self.url,
                    ping_interval=PING_S,
                    ping_timeout=PONG_S,
                    close_timeout=CLOSE_S,
                    open_timeout=2,
                    max_size=None,
                    max_queue=None,
                    compression=None,
                    proxy=None,
                ) as socket:
                    tries = 0
                    await self._announce(socket)
                    async for text in socket:
                        self._receive(text)
            except InvalidURI:
                return
            except (OSError, WebSocketException, TimeoutError):
                pass
            finally:
                self._on_disconnected()
            await asyncio.sleep(REDIAL_S[min(tries, len(REDIAL_S) - 1)])
            tries += 1

    async def _announce(self, socket: ClientConnection) -> None:
        """Sends the subscriptions and announcements of the socket before."""
        self.socket, self.connections = socket, self.connections + 1
        for frame in self.announcements():
            await socket.send(json.dumps(frame))
        self.up.set()

    def announcements(self) -> list[dict[str, Any]]:
        """What is sent on a new connection: all that is published and subscribed."""
        return [advertisement(*topic) for topic in list(self.advertised.items())] + [
            subscription(topic, latest.type) for topic, latest in list(self.topics.items())
        ]

    def _on_disconnected(self) -> None:
        self.socket = None
        self.up.clear()
        for answer in list(self.pending.values()):
            with contextlib.suppress(InvalidStateError):
                answer.set_exception(LinkError(f"the connection to {self.url} was lost"))

    def _receive(self, text: str | bytes) -> None:
        try:
            frame = json.loads(text)
            op, name = frame["op"], frame.get("topic" if frame["op"] == "publish" else "id")
        except (ValueError, KeyError, TypeError, RecursionError):
            return  # binary frames and noise: nothing that was asked for
        if not isinstance(name, str):
            return
        if op == "publish" and name in self.topics:
            self._store(name, frame.get("msg"))
        elif op == "service_response":
            self._resolve(frame)

    def _store(self, topic: str, message: Any) -> None:
        self.topics[topic].received = message, time.monotonic()

    def _resolve(self, frame: dict[str, Any]) -> None:
        answer = self.pending.pop(frame.get("id", ""), None)
        if answer is not None and not answer.done():
            answer.set_result(frame)


def advertisement(topic: str, type_: str) -> dict[str, Any]:
    """A frame that announces a topic."""
    return {"op": "advertise", "topic": topic, "type": type_, "id": f"a:{topic}"}


def subscription(topic: str, type_: str) -> dict[str, Any]:
    """A frame that subscribes to a topic, of which one message may wait."""
    return {"op": "subscribe", "topic": topic, "type": type_, "id": f"s:{topic}", "queue_length": 1}

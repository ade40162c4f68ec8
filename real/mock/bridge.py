"""The mock for the rosbridge server: the socket in front of a hub.

It listens on 127.0.0.1 only. The real ones listen on every interface, the ROS 1 one even with `--address 127.0.0.1`,
and authenticate no client: any that reaches the port drives the arm.

What is bad is dropped in silence, and there is no op `status`. Left out are png, cbor, cbor-raw and fragments (a client
that asks for them is not subscribed), bson, auth, latching, qos, actions served by clients, and the buffer in which a
real one puts JSON together that comes in pieces (and which some bad frames spoil for good: here a bad frame is
forgotten). Of a lost link nothing is noticed but its end: there are no pings.
"""

import asyncio
import threading
from collections import defaultdict
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from websockets.asyncio.server import serve

from real.mock.client import Client, to_json
from real.mock.definitions import encode
from real.mock.hub import Goal, Hub, Message

LINGER_S = 12.0  # that a publisher outlives its client
LARGEST = 10_000_000  # bytes of a frame


class Bridge:
    """Serves `hub` on 127.0.0.1:`port` (0: any), in a thread of its own.

    ROS 2 only: with `threads` off, as is the real one's default, all else on a connection waits while a service or a
    goal of its runs, so that a cancel comes too late. `zombie` makes it do nothing more than accept clients; shorten
    `linger_s` in tests.
    """

    def __init__(self, hub: Hub, port: int = 0, threads: bool = False):
        self.hub, self.port, self.serial = hub, port, hub.dialect == "ros2" and not threads
        self.zombie, self.linger_s = False, LINGER_S
        self.publishing: dict[str, set[Client]] = defaultdict(set)
        self.leaving: dict[str, asyncio.TimerHandle] = {}
        self.fans: dict[str, Fan] = {}
        self.goals: dict[Any, Goal] = {}  # of all clients, as in the real one
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self._run, name="rosbridge mock", daemon=True)
        self.started: Future[int] = Future()

    def start(self) -> "Bridge":
        """Listens when it returns. Raises OSError where the port is taken, OverflowError where there is none."""
        self.thread.start()
        self.port = self.started.result()
        return self

    def stop(self) -> None:
        """Closes all connections."""
        if self.thread.is_alive():
            with suppress(RuntimeError):
                self.loop.call_soon_threadsafe(self.stopping.set)
            self.thread.join(5)

    def _run(self) -> None:
        try:
            self.loop.run_until_complete(self._serve())
        except (OSError, OverflowError) as error:  # a port that is taken, one that there is not
            self.started.set_exception(error)
        finally:
            self.loop.close()

    async def _serve(self) -> None:
        self.stopping = asyncio.Event()
        options: dict[str, Any] = {"compression": None, "max_size": LARGEST, "ping_interval": None, "close_timeout": 1}
        async with serve(lambda socket: Client(self, socket).serve(), "127.0.0.1", self.port, **options) as server:
            self.started.set_result(next(iter(server.sockets)).getsockname()[1])
            await self.stopping.wait()
        for topic in list(self.publishing):
            self.hub.unadvertise(topic, self)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def register(self, topic: str, type_: str | None, client: "Client") -> None:
        """A client publishes on a topic."""
        self.hub.establish(topic, type_)
        self.hub.advertise(topic, self.hub.types[topic], self)
        self.publishing[topic].add(client)

    def unregister(self, topic: str, client: "Client") -> None:
        """It no longer does; the world learns of it when it is too late."""
        self.publishing[topic].discard(client)
        if topic in self.leaving:
            self.leaving[topic].cancel()
        self.leaving[topic] = self.loop.call_later(self.linger_s, self._expire, topic)

    def _expire(self, topic: str) -> None:
        if not self.publishing[topic]:
            self.hub.unadvertise(topic, self)

    def fan(self, topic: str, type_: str | None) -> "Fan":
        """Where a client that subscribes joins."""
        self.hub.establish(topic, type_)
        if topic not in self.fans:
            self.fans[topic] = Fan(self, topic)
        return self.fans[topic]

    def leave(self, topic: str, client: "Client") -> None:
        """A client subscribes no longer; the last one takes the bridge's own subscription along."""
        fan = self.fans[topic]
        fan.clients.pop(client, None)
        if not fan.clients:
            fan.end()
            del self.fans[topic]


class Fan:
    """A topic's messages, written once for all the clients of a bridge that subscribed."""

    def __init__(self, bridge: Bridge, topic: str):
        self.bridge, self.topic, self.clients = bridge, topic, {}
        self.end = bridge.hub.subscribe(topic, bridge.hub.types[topic], self._on_message)

    def _on_message(self, message: Message) -> None:
        if self.clients:
            frame = to_json({"op": "publish", "topic": self.topic, "msg": encode(message)})
            with suppress(RuntimeError):  # the bridge has stopped
                self.bridge.loop.call_soon_threadsafe(self._broadcast, frame)

    def _broadcast(self, frame: str) -> None:
        for subscription in list(self.clients.values()):
            subscription.take(frame)

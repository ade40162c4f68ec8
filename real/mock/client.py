"""One connection to the mock for the rosbridge server: what its client asks for, in the order it came."""

import asyncio
import json
import logging
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING, Any

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from real.mock.definitions import encode
from real.mock.hub import Goal, Message, ServiceFailed

if TYPE_CHECKING:
    from real.mock.bridge import Bridge

SERVER_S = 1.0  # that a goal waits for an action server
UNKNOWN, SUCCEEDED, CANCELED, ABORTED = 0, 4, 5, 6  # of action_msgs/GoalStatus
log = logging.getLogger(__name__)


class Client:
    """A connection: what comes is done in order, what goes out waits as long as it must and is never dropped."""

    def __init__(self, bridge: "Bridge", socket: ServerConnection):
        self.bridge, self.hub, self.socket = bridge, bridge.hub, socket
        self.inbox: asyncio.Queue[str] = asyncio.Queue()
        self.outbox: asyncio.Queue[str] = asyncio.Queue()
        self.advertised: dict[str, set[Any]] = {}
        self.subscribed: dict[str, Subscription] = {}
        self.offered: dict[str, Offered] = {}
        self.running: set[asyncio.Task] = set()

    async def serve(self) -> None:
        """Until the socket closes."""
        tasks = [asyncio.create_task(self._work()), asyncio.create_task(self._write())]
        try:
            async for frame in self.socket:
                if isinstance(frame, str):
                    self.inbox.put_nowait(frame)
        except ConnectionClosed:
            pass
        finally:
            for task in tasks:
                task.cancel()
            self._clean_up()

    async def _work(self) -> None:
        while True:
            frame = await self.inbox.get()
            if not self.bridge.zombie:
                try:
                    await self._handle(json.loads(frame))
                except Exception as error:  # the real one writes it into its own log, and sends it to no client
                    log.debug("dropped %.200s: %r", frame, error)

    async def _write(self) -> None:
        with suppress(ConnectionClosed):
            while True:
                await self.socket.send(await self.outbox.get())

    def put(self, frame: str) -> None:
        """Sends what is written, from the bridge's thread."""
        if not self.bridge.zombie:
            self.outbox.put_nowait(frame)

    def send(self, message: Message, key: Any = None) -> None:
        """Sends a message, from any thread."""
        frame = to_json(message if key is None else {**message, "id": key})
        with suppress(RuntimeError):
            self.bridge.loop.call_soon_threadsafe(self.put, frame)

    async def _handle(self, message: Message) -> None:
        quick = {
            "advertise": self._advertise,
            "unadvertise": self._unadvertise,
            "publish": self._publish,
            "subscribe": self._subscribe,
            "unsubscribe": self._unsubscribe,
            "advertise_service": self._advertise_service,
            "unadvertise_service": self._unadvertise_service,
            "service_response": self._service_response,
        }
        slow = {"call_service": self._call_service}
        if not self.hub.definitions.ros1:
            quick["cancel_action_goal"], slow["send_action_goal"] = self._cancel_goal, self._send_goal
        op, _ = message["op"], hash(message.get("id"))  # raises
        if op in quick:
            quick[op](message)
        elif op in slow and self.bridge.serial:
            await slow[op](message)
        elif op in slow:
            task = asyncio.create_task(log_errors(slow[op](message)))
            self.running.add(task)
            task.add_done_callback(self.running.discard)

    def _advertise(self, message: Message) -> None:
        topic = field(message, "topic", str)
        self.bridge.register(topic, field(message, "type", str), self)
        self.advertised.setdefault(topic, set()).add(message.get("id"))

    def _unadvertise(self, message: Message) -> None:
        topic, key = field(message, "topic", str), message.get("id")
        if topic in self.advertised:
            self.advertised[topic] = self.advertised[topic] - {key} if key is not None else set()
            if not self.advertised[topic]:
                del self.advertised[topic]
                self.bridge.unregister(topic, self)

    def _publish(self, message: Message) -> None:
        topic, content = field(message, "topic", str), field(message, "msg", dict, {})
        if topic not in self.advertised:
            self.bridge.register(topic, field(message, "type", str, None), self)
            self.advertised[topic] = {message.get("id")}
        self.hub.publish(topic, content, self.bridge)

    def _subscribe(self, message: Message) -> None:
        topic, type_ = field(message, "topic", str), field(message, "type", str, None)
        options = field(message, "throttle_rate", int, 0), field(message, "queue_length", int, 0)
        if field(message, "compression", str, "none") != "none" or message.get("fragment_size") is not None:
            raise ValueError("compression and fragments are not built")
        fan = self.bridge.fan(topic, type_)
        subscription = self.subscribed.setdefault(topic, Subscription(self))
        subscription.options[message.get("id")] = options
        subscription.adjust()
        fan.clients[self] = subscription

    def _unsubscribe(self, message: Message) -> None:
        topic, key = field(message, "topic", str), message.get("id")
        subscription = self.subscribed[topic]
        if key is None:
            subscription.options.clear()
        else:
            subscription.options.pop(key, None)
        if subscription.options:
            subscription.adjust()
        else:
            self._leave(topic)

    def _leave(self, topic: str) -> None:
        self.subscribed.pop(topic).options.clear()
        self.bridge.leave(topic, self)

    async def _call_service(self, message: Message) -> None:
        service, args, key = field(message, "service", str), message.get("args"), message.get("id")
        try:
            values, good = encode(await run_in_thread(lambda: self.hub.call(service, args))), True
        except ServiceFailed as error:
            if not self.hub.definitions.ros1:
                await asyncio.Event().wait()  # the node died of it, and the bridge waits for its answer
            values, good = str(error), False
        except ValueError as error:
            values, good = str(error), False
        self.send({"op": "service_response", "service": service, "values": values, "result": good}, key)

    def _advertise_service(self, message: Message) -> None:
        service, type_ = field(message, "service", str), field(message, "type", str)
        offered = Offered(self, service, type_)
        self.hub.serve(service, type_, offered.ask)
        if service in self.offered:
            self.offered[service].close()
        self.offered[service] = offered

    def _unadvertise_service(self, message: Message) -> None:
        offered = self.offered.pop(field(message, "service", str))
        self.hub.unserve(offered.name, offered.ask)
        offered.close()

    def _service_response(self, message: Message) -> None:
        field(message, "result", bool)
        offered = self.offered[field(message, "service", str)]
        offered.answer(field(message, "id", str), field(message, "values", dict))

    async def _send_goal(self, message: Message) -> None:
        action, type_ = field(message, "action", str), field(message, "action_type", str)
        key, wanted = message.get("id"), message.get("feedback", False)
        definitions = self.hub.definitions

        def feedback(values: Message) -> None:
            values = definitions.validate(definitions.part(type_, "Feedback"), values)
            if wanted:
                self.send({"op": "action_feedback", "action": action, "values": encode(values)}, key)

        try:
            name, part = definitions.name(type_, "action"), definitions.part(type_, "Goal")
            fields = definitions.validate(part, definitions.name_arguments(part, message.get("args")))
            callback = await self._server(action, name)
            goal = self.bridge.goals[key] = Goal(fields, feedback)
            values, status = await run_in_thread(lambda: self._run_goal(type_, goal, callback))
            good, values = True, encode(values)
            self.bridge.goals.pop(key, None)
        except ValueError as error:
            values, status, good = str(error), UNKNOWN, False
        self.send({"op": "action_result", "action": action, "values": values, "status": status, "result": good}, key)

    async def _server(self, action: str, name: str) -> Callable[[Goal], Any]:
        for _ in range(50):
            found, callback = self.hub.actions.get(action, (None, None))
            if found == name and callback is not None:
                return callback
            await asyncio.sleep(SERVER_S / 50)
        raise ValueError("No action server available")

    def _run_goal(self, type_: str, goal: Goal, callback: Callable[[Goal], Any]) -> tuple[Message, int]:
        part = self.hub.definitions.part(type_, "Result")
        try:
            result = self.hub.definitions.validate(part, callback(goal))
        except Exception:  # its client gets a failed goal as aborted
            log.exception("the server of an action")
            return self.hub.definitions.validate(part, {}), ABORTED
        return result, CANCELED if goal.cancelled.is_set() else SUCCEEDED

    def _cancel_goal(self, message: Message) -> None:
        field(message, "action", str)
        self.bridge.goals[message.get("id")].cancelled.set()

    def _clean_up(self) -> None:
        """Its topics are left, its services end; its publishers stay for a while, and so do its goals."""
        for topic in list(self.subscribed):
            self._leave(topic)
        for topic in self.advertised:
            self.bridge.unregister(topic, self)
        for offered in self.offered.values():
            self.hub.unserve(offered.name, offered.ask)
            offered.close()


class Subscription:
    """One client's to one topic: as often and as many as the most demanding of its ids asked for."""

    def __init__(self, client: "Client"):
        self.client, self.options, self.last, self.timer = client, {}, -float("inf"), None
        self.queue: deque[str] = deque()

    def adjust(self) -> None:
        """Takes over the options of all ids."""
        rates, lengths = zip(*self.options.values(), strict=True)
        self.every_s, self.length = min(rates) / 1000, min(lengths)
        self.queue = deque(self.queue, maxlen=self.length or 1)

    def take(self, frame: str) -> None:
        """Sends it, keeps it till its time comes, or forgets it."""
        left = self.last + self.every_s - time.monotonic()
        if left <= 0 and not self.queue:
            self._send(frame)
        elif self.length > 0:
            self.queue.append(frame)
            if self.timer is None:
                self.timer = self.client.bridge.loop.call_later(max(left, 0), self._due)

    def _due(self) -> None:
        self.timer = None
        if self.queue and self.options:
            self._send(self.queue.popleft())
            if self.queue:
                self.timer = self.client.bridge.loop.call_later(self.every_s, self._due)

    def _send(self, frame: str) -> None:
        self.last = time.monotonic()
        self.client.put(frame)


class Offered:
    """A service that a client answers."""

    def __init__(self, client: Client, name: str, type_: str):
        self.client, self.name, self.numbers = client, name, count(1)
        self.response = client.hub.definitions.part(type_, "Response")
        self.waiting: dict[str, Future[Message]] = {}  # an answer may even come before its question

    def ask(self, request: Message) -> Message:
        """Waits for the client's answer, however long."""
        key = f"service_request:{self.name}:{next(self.numbers)}"
        answer = self.waiting.setdefault(key, Future())
        self.client.send({"op": "call_service", "id": key, "service": self.name, "args": encode(request)})
        response = answer.result()
        del self.waiting[key]
        return response

    def answer(self, key: str, values: Message) -> None:
        """Hands over a client's response. Raises ValueError where it is not of the service's type."""
        response = self.client.hub.definitions.validate(self.response, values)
        self.waiting.setdefault(key, Future()).set_result(response)

    def close(self) -> None:
        """Fails all that wait for a response."""
        for answer in list(self.waiting.values()):
            if not answer.done():
                answer.set_exception(ConnectionError("service handler returned None"))


async def run_in_thread(work: Callable[[], Any]) -> Any:
    """What `work` returns or raises, in a thread of its own."""
    answer: Future = Future()
    answer.set_running_or_notify_cancel()

    def run() -> None:
        try:
            answer.set_result(work())
        except Exception as error:
            answer.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return await asyncio.wrap_future(answer)


async def log_errors(work: Awaitable[None]) -> None:
    """Drops what is bad."""
    try:
        await work
    except Exception as error:
        log.debug("dropped: %r", error)


def field(message: Message, name: str, type_: type, *otherwise: Any) -> Any:
    """A field of a frame, of its type; without `otherwise` it must be there. Raises ValueError."""
    value = message[name] if not otherwise else message.get(name, otherwise[0])
    if not isinstance(value, type_) and not (otherwise and name not in message):
        raise ValueError(f"{name} is not a {type_.__name__}")
    return value


def to_json(message: Message) -> str:
    """JSON as ujson writes it, which the real ones use."""
    return json.dumps(message, separators=(",", ":")).replace("/", "\\/")

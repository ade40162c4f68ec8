"""The world behind the mock's bridge: topics, services and actions of nodes in this process and of clients."""

import logging
import threading
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from real.mock.definitions import load

Message = dict[str, Any]
log = logging.getLogger(__name__)


class Goal(dict):
    """The fields of an action's goal; `feedback` sends some, `cancelled` is set when the client thinks better of it."""

    def __init__(self, fields: Message, feedback: Callable[[Message], None]):
        super().__init__(fields)
        self.feedback, self.cancelled = feedback, threading.Event()


class Hub:
    """Topics, services and actions of nodes in this process and of clients of the bridge. Any thread may use it.

    What a node publishes is checked as a client's is, but raises ValueError. A callback gets the message that all
    others get: it is not for changing. It runs in the thread that published: for clients, the bridge's own.
    """

    def __init__(self, dialect: str = "ros1"):
        self.dialect, self.definitions = dialect, load(dialect)
        self.lock = threading.RLock()
        self.types: dict[str, str] = {}  # of each topic that was ever advertised or subscribed
        self.owners: dict[str, dict[object, int]] = defaultdict(dict)  # publishers, and how often each advertised
        self.callbacks: dict[str, list[Callable[[Message], Any]]] = defaultdict(list)
        self.services: dict[str, tuple[str, Callable[[Message], Message]]] = {}
        self.actions: dict[str, tuple[str, Callable[[Goal], Any]]] = {}

    def advertise(self, topic: str, type_: str, by: object = "node") -> None:
        """`by` publishes on a topic. Raises ValueError where its type is another, or unknown."""
        with self.lock:
            self.establish(topic, type_)
            self.owners[topic].setdefault(by, 0)

    def unadvertise(self, topic: str, by: object = "node") -> None:
        """`by` publishes no longer."""
        with self.lock:
            self.owners[topic].pop(by, None)

    def publishers(self, topic: str) -> int:
        """How many there are: nodes of this process count as one, clients of a bridge as one."""
        return len(self.owners[topic])

    def publish(self, topic: str, message: Message, by: object = "node") -> None:
        """To all subscribers. Raises ValueError if it is not advertised or the message not of its type."""
        with self.lock:
            if by not in self.owners[topic]:
                raise ValueError(f"{topic} was not advertised")
            type_ = self.types[topic]
            message = self.definitions.validate(type_, message)
            self.owners[topic][by] += 1
            if self.definitions.ros1 and self.definitions.has_header(type_):
                message["header"]["seq"] = self.owners[topic][by]
            callbacks = list(self.callbacks[topic])
        for callback in callbacks:
            try:
                callback(message)
            except Exception:  # nodes do not take each other down
                log.exception("a subscriber of %s", topic)

    def subscribe(self, topic: str, type_: str, callback: Callable[[Message], Any]) -> Callable[[], None]:
        """Calls `callback` with each message from now on; what is returned ends it. Raises ValueError."""
        with self.lock:
            self.establish(topic, type_)
            self.callbacks[topic].append(callback)

        def end() -> None:
            with self.lock, suppress(ValueError):
                self.callbacks[topic].remove(callback)

        return end

    def establish(self, topic: str, type_: str | None) -> None:
        """The topic has this type. Raises ValueError where it had another, or None is given and it had none."""
        with self.lock:
            known = self.types.get(topic)
            name = known if type_ is None else self.definitions.name(type_)
            if name is None or known not in (None, name):
                raise ValueError(f"{topic} is of type {known}, not {name}")
            self.types[topic] = name

    def serve(self, service: str, type_: str, callback: Callable[[Message], Message]) -> None:
        """Calls `callback` with a request, in a thread of its own; it returns the response. Raises ValueError."""
        self.services[service] = self.definitions.name(type_, "srv"), callback

    def unserve(self, service: str, callback: Callable[[Message], Message]) -> None:
        """Ends a service, if it still is this one's."""
        with self.lock:
            if self.services.get(service, (None, None))[1] == callback:
                del self.services[service]

    def call(self, service: str, args: Any) -> Message:
        """The response to a request, given by field or in order. Raises ValueError and what the service raises."""
        if service not in self.services:
            raise ValueError(f"Service {service} does not exist")
        type_, callback = self.services[service]
        request = self.definitions.part(type_, "Request")
        asked = self.definitions.validate(request, self.definitions.name_arguments(request, args))
        try:
            response = callback(asked)
        except ConnectionError as error:  # a client that answered it has left
            raise ServiceFailed(service, f"service cannot process request: {error}") from error
        except Exception as error:
            raise ServiceFailed(service, f"error processing request: {error}") from error
        return self.definitions.validate(self.definitions.part(type_, "Response"), response)

    def act(self, action: str, type_: str, callback: Callable[[Goal], Any]) -> None:
        """ROS 2: calls `callback` with a goal, in a thread of its own; it returns the result, or raises to abort."""
        self.actions[action] = self.definitions.name(type_, "action"), callback


class ServiceFailed(Exception):
    """What is left of an exception in a service when it reaches a caller on ROS 1."""

    def __init__(self, service: str, why: str):
        super().__init__(f"service [{service}] responded with an error: {why.encode()}")

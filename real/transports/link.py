"""What a driver needs of a way to ROS. Messages are dicts, as JSON has them, whichever way they go."""

import math
from collections.abc import Callable
from typing import Any, Protocol

from real.robot import RobotError


class LinkError(RobotError):
    """The bridge, or a service, did not do what it was asked."""


class Selected:
    """Of a topic's messages the newest that `is_wanted`, with the time it came, and what else comes there.

    Several publishers may share a topic: an arm's joint states and its gripper's, say.
    """

    def __init__(self, is_wanted: Callable[[dict[str, Any]], bool]):
        self.is_wanted = is_wanted
        self.received: tuple[dict[str, Any] | None, float] = (None, -math.inf)
        self.other: dict[str, Any] | None = None  # the newest of what is not wanted
        self.wanted = self.others = 0  # messages so far

    def offer(self, message: dict[str, Any], t: float) -> None:
        """Takes a message that came at `t`, if it is wanted."""
        if self.is_wanted(message):
            self.received, self.wanted = (message, t), self.wanted + 1
        else:
            self.other, self.others = message, self.others + 1


class Latest:
    """The newest message of a topic with the time it came (s, `time.monotonic`), replaced in one piece.

    Whoever sets `received` offers the message to every selection too: none is lost to one that comes a moment later.
    """

    def __init__(self, type_: str):
        self.type = type_
        self.selections: list[Selected] = []
        self._received: tuple[dict[str, Any] | None, float] = (None, -math.inf)

    @property
    def received(self) -> tuple[dict[str, Any] | None, float]:
        """The newest message, or None, and when it came."""
        return self._received

    @received.setter
    def received(self, newest: tuple[dict[str, Any] | None, float]) -> None:
        self._received = newest
        for selected in self.selections:
            self._offer(selected)

    def select(self, is_wanted: Callable[[dict[str, Any]], bool]) -> Selected:
        """The newest message that `is_wanted`, from now on."""
        selected = Selected(is_wanted)
        self._offer(selected)
        self.selections.append(selected)
        return selected

    def _offer(self, selected: Selected) -> None:
        message, t = self._received
        if message is not None:
            selected.offer(message, t)


class Link(Protocol):
    """Methods may be called from any thread; none but `wait` and `call` waits. What cannot be sent now never is."""

    @property
    def is_connected(self) -> bool:
        """Whether the connection is open."""
        ...

    def wait(self, timeout_s: float) -> None:
        """Until it is connected. Raises UserError."""
        ...

    def subscribe(self, topic: str, type_: str) -> Latest:
        """The newest message of a topic from now on."""
        ...

    def advertise(self, topic: str, type_: str) -> None:
        """Announces a topic, before its first message."""
        ...

    def publish(self, topic: str, message: dict[str, Any]) -> bool:
        """Sends now or never: False where the link is down or full, or a number is not finite."""
        ...

    def call(self, service: str, args: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """The response of a service. Raises LinkError."""
        ...

    def act(self, action: str, type_: str, goal: dict[str, Any]) -> bool:
        """Sends an action's goal (ROS 2), without waiting for its result."""
        ...

    def close(self) -> None:
        """Ends the connection; nothing is sent afterwards."""
        ...

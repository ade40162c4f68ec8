"""What a driver needs of a way to ROS. Messages are dicts, as JSON has them, whichever way they go."""

import math
from dataclasses import dataclass
from typing import Any, Protocol

from real.robot import RobotError


class LinkError(RobotError):
    """The bridge, or a service, did not do what it was asked."""


@dataclass
class Latest:
    """The newest message of a topic with the time it came (s, `time.monotonic`), replaced in one piece."""

    type: str
    received: tuple[dict[str, Any] | None, float] = (None, -math.inf)


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

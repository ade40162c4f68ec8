"""What a driver needs of a way to ROS, and the ways there are.

Over rosbridge with `websockets` (real/rosbridge.py) or `roslibpy` (real/roslibpy.py); on a machine that has ROS, as a
node of its own with `rospy` or `rclpy` (real/ros.py). Messages are the same dicts on all of them, as JSON has them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from pbrl.types import UserError

TRANSPORTS = ("websockets", "roslibpy", "rospy", "rclpy")


class BridgeError(RuntimeError):
    """The bridge, or a service, did not do what it was asked."""


@dataclass
class Latest:
    """The newest message of a topic with the time it came (s, `time.monotonic`), in one piece."""

    type: str
    heard: tuple[dict[str, Any] | None, float] = (None, -math.inf)


class Link(Protocol):
    """Methods may be called from any thread; none but `wait` and `call` waits. What cannot be sent now never is."""

    @property
    def connected(self) -> bool: ...

    def wait(self, timeout_s: float) -> None:
        """Until it is connected. Raises UserError."""
        ...

    def subscribe(self, topic: str, type_: str) -> Latest:
        """The newest message of a topic from now on."""
        ...

    def advertise(self, topic: str, type_: str) -> None:
        """Says what will be published, before the first message."""
        ...

    def publish(self, topic: str, message: dict[str, Any]) -> bool:
        """Sends now or never: False where the link is down or full, or a number is not finite."""
        ...

    def call(self, service: str, args: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """What the service answers. Raises BridgeError."""
        ...

    def act(self, action: str, type_: str, goal: dict[str, Any]) -> bool:
        """Sends an action's goal (ROS 2), and hears no more of it."""
        ...

    def close(self) -> None:
        """Ends the connection; nothing is sent afterwards."""
        ...


def linked(settings: dict[str, Any]) -> Callable[[str], Link]:
    """Makes links to a url, by the transport that a robot's settings name. Raises UserError."""
    transport = settings["transport"]
    if transport == "websockets":
        from real.rosbridge import Rosbridge

        return Rosbridge
    if transport == "roslibpy":
        from real.roslibpy import Roslibpy

        return Roslibpy
    if transport not in TRANSPORTS:
        raise UserError(f"transport: {transport}: it is one of {', '.join(TRANSPORTS)}")
    needed = "rospy" if settings["dialect"] == "ros1" else "rclpy"
    if transport != needed:
        raise UserError(f"transport: {transport}: a robot of dialect {settings['dialect']} has {needed}")
    from real.ros import Rclpy, Rospy

    types = {service: type_ for service, _, type_ in settings["services"].values()}
    return lambda url: (Rospy if transport == "rospy" else Rclpy)(types)

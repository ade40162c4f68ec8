"""Ways to ROS: rosbridge over `websockets` or `roslibpy`; where ROS is installed, a node with `rospy` or `rclpy`."""

from collections.abc import Callable
from typing import Any

from pbrl.types import UserError
from real.transports.link import Link

TRANSPORTS = ("websockets", "roslibpy", "rospy", "rclpy")
NODES = {"ros1": "rospy", "ros2": "rclpy"}


def link_opener(settings: dict[str, Any]) -> Callable[[str], Link]:
    """Opens links to a url, by the transport that a robot's settings name. Raises UserError."""
    transport = settings["transport"]
    if transport == "websockets":
        from real.transports.websockets import WebsocketsLink

        return WebsocketsLink
    if transport == "roslibpy":
        from real.transports.roslibpy import RoslibpyLink

        return RoslibpyLink
    if transport not in TRANSPORTS:
        raise UserError(f"transport: {transport}: it is one of {', '.join(TRANSPORTS)}")
    if transport != NODES[settings["dialect"]]:
        raise UserError(
            f"transport: {transport}: a robot of dialect {settings['dialect']} has {NODES[settings['dialect']]}"
        )
    from real.transports.ros import RclpyLink, RospyLink

    types = {service: type_ for service, _, type_ in settings["services"].values()}
    return lambda url: (RospyLink if transport == "rospy" else RclpyLink)(types)

"""What tests of the mock's bridge share: the bridge that is tested, the mock's or a real one, and its frames."""

import base64
import json
import os
import time
from typing import Any

import pytest
from websockets.sync.client import ClientConnection

from real.mock.bridge import Bridge

REAL, DIALECT = os.environ.get("PBRL_ROSBRIDGE_URL"), os.environ.get("PBRL_ROSBRIDGE_DIALECT", "ros1")
PACE = 1.0 if REAL else 0.02  # of the recorded pauses
QUIET_S = 1.0 if REAL else 0.1  # after which nothing more is expected

behind = pytest.mark.skipif(REAL is not None, reason="looks behind the bridge")
each = pytest.mark.parametrize("dialect", [DIALECT] if REAL else ["ros1", "ros2"])


def address(bridge: Bridge) -> str:
    return f"ws://127.0.0.1:{bridge.port}"


def now(dialect: str) -> dict[str, int]:
    names = ("secs", "nsecs") if dialect == "ros1" else ("sec", "nanosec")
    return dict(zip(names, divmod(time.time_ns(), 10**9), strict=True))


def send(socket: ClientConnection, *frames: Any) -> None:
    for frame in frames:
        if isinstance(frame, float):
            time.sleep(frame)
        else:
            socket.send(frame if isinstance(frame, str | bytes) else json.dumps(frame))


def receive(socket: ClientConnection, many: int = 0, timeout_s: float = 5.0) -> list[Any]:
    """`many` frames, and what else comes until it is quiet."""
    frames = []
    with pytest.raises(TimeoutError):
        while True:
            frames.append(socket.recv(timeout_s if len(frames) < many else QUIET_S))
    return frames


def canonical(frame: Any) -> Any:
    """Without what differs from run to run: times that were now, and which way a binary frame was written down."""
    if isinstance(frame, bytes):
        return {"b64": base64.b64encode(frame).decode()}
    return timeless(json.loads(frame)) if isinstance(frame, str) else frame


def timeless(value: Any) -> Any:
    if isinstance(value, list):
        return [timeless(one) for one in value]
    if not isinstance(value, dict):
        return value
    seconds = value.get("secs", value.get("sec", 0))
    if isinstance(seconds, int) and seconds > 1_500_000_000:
        return {**dict.fromkeys(value), "now": True}
    return {name: timeless(one) for name, one in value.items()}


def joints(dialect: str, topic: str) -> list[dict[str, Any]]:
    """Frames that advertise and subscribe."""
    type_ = "sensor_msgs/JointState" if dialect == "ros1" else "sensor_msgs/msg/JointState"
    return [{"op": op, "topic": topic, "type": type_} for op in ("advertise", "subscribe")]

"""A robot of messages put in by hand: links in memory, and a clock of the test's own."""

from typing import Any

import numpy as np

from real.drivers.messages import to_seconds, to_stamp
from real.drivers.ros import RosDriver
from real.settings import load_robot_settings
from real.transports.link import Latest
from robots import arm as arms


class MemoryLink:
    """A link whose topics are filled by the test; what is published comes back on its topic, as over a bridge."""

    def __init__(self, url: str = ""):
        self.topics: dict[str, Latest] = {}
        self.published: list[dict[str, Any]] = []
        self.is_connected, self.now = True, 0.0

    def subscribe(self, topic: str, type_: str) -> Latest:
        return self.topics.setdefault(topic, Latest(type_))

    def advertise(self, topic: str, type_: str) -> None: ...
    def wait(self, timeout_s: float) -> None: ...
    def close(self) -> None: ...
    def publish(self, topic: str, message: dict[str, Any]) -> bool:
        self.published.append(message)
        if topic in self.topics:
            self.topics[topic].received = message, self.now
        return True

    def call(self, service: str, args: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        return {"ok": True}

    def act(self, action: str, type_: str, goal: dict[str, Any]) -> bool:
        return True


class MemoryRobot:
    """A `RosDriver` on such links, at `now` s by the robot's clock, by ours and by `time.monotonic` alike."""

    def __init__(self, name: str = "panda", **settings: Any):
        self.settings = {**load_robot_settings(name), **settings}
        self.arm, self.now = arms.load(self.settings["robot"]), 1000.0
        self.links: list[MemoryLink] = []
        self.driver = RosDriver(self.arm, self.settings, lambda: self.now, self._open)
        self.topics = {key: topic for key, (topic, _) in self.settings["topics"].items()}
        self.q = self.arm.home

    def _open(self, url: str) -> Any:
        self.links.append(MemoryLink(url))
        return self.links[-1]

    def header(self, offset_s: float = 0.0) -> dict[str, Any]:
        return {"stamp": to_stamp(self.now + offset_s, self.driver.ros1), "frame_id": ""}

    def hear(self, name: str, message: dict[str, Any]) -> None:
        """A message on the topic that the settings call `name`, which comes now."""
        for link in self.links:
            if self.topics[name] in link.topics:
                link.topics[self.topics[name]].received = message, self.now

    def joints(self, names: Any, q: Any, offset_s: float = 0.0, **changes: Any) -> dict[str, Any]:
        message = {
            "header": self.header(offset_s), "name": list(names), "position": [float(x) for x in q],
            "velocity": [0.0] * len(q), "effort": [],
        }  # fmt: skip
        return {**message, **changes}

    def status(self, **changes: Any) -> dict[str, Any]:
        return {"header": self.header(), "O_F_ext_hat_K": [0.0] * 6, "robot_mode": 2,
                "control_command_success_rate": 1.0, **changes}  # fmt: skip

    def speak(self, *silent: str, offset_s: float = 0.0) -> None:
        """A message on every topic but the `silent` ones; `offset_s` is how far the robot's clock is ahead."""
        messages = {
            "joint_states": self.joints(self.arm.joints, self.q, offset_s),
            "gripper": self.joints(self.arm.gripper.joints, [0.02, 0.02], offset_s),
            "arm": {**self.status(), "header": self.header(offset_s)},
            "goal": {"header": self.header(offset_s), "point": {"x": 0.5, "y": 0.0, "z": 0.3}},
            "objects": {"header": self.header(offset_s), "poses": [pose(0.5, 0.1, 0.02)]},
        }
        for name, message in messages.items():
            if name not in silent:
                self.hear(name, message)


def pose(x: float, y: float, z: float) -> dict[str, Any]:
    """An upright one."""
    turn = dict(zip("xyzw", (0.0, 0.0, 0.0, 1.0), strict=True))
    return {"position": {"x": x, "y": y, "z": z}, "orientation": turn}


def times(message: dict[str, Any]) -> np.ndarray:
    """[N] s of a published trajectory's points, of ROS 1."""
    return np.array([to_seconds(point["time_from_start"], True) for point in message["points"]])

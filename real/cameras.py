"""Cameras that publish sensor_msgs/CompressedImage: of each its newest picture, as long as it is new.

On a link of their own, so that no state and no command waits behind a picture.
"""

import base64
import binascii
import time
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from pbrl.types import UserError
from real.driver import BadState
from real.link import Latest, Link, linked

TYPE = "sensor_msgs/CompressedImage"


class Cameras:
    """Looks through the cameras `names`; `settings` as in configs/robot. Raises UserError for one that there is not."""

    def __init__(
        self,
        settings: dict[str, Any],
        names: Sequence[str],
        clock: Callable[[], float] = time.time,
        connect: Callable[[str], Link] | None = None,
    ):
        if settings["driver"] != "rosbridge":
            raise UserError(f"pictures come over ROS: robot=panda or robot=fr3, not driver: {settings['driver']}")
        topics = settings["cameras"]
        missing = [name for name in names if name not in topics]
        if missing:
            raise UserError(f"the policy looks through {', '.join(missing)}: name its topic in configs/robot, cameras")
        self.latest_s, self.clock = float(settings["latest_image_s"]), clock
        self.ros1 = settings["dialect"] == "ros1"
        self.socket = (connect or linked(settings))(settings["url"])
        self.topics = {name: topics[name] for name in names}
        self.heard: dict[str, Latest] = {name: self.socket.subscribe(topics[name], TYPE) for name in names}
        self.newest: dict[str, tuple[float, float, np.ndarray]] = {}  # its stamp, when it came, the picture

    def wait(self, timeout_s: float) -> None:
        """Until the socket is open. Raises UserError."""
        self.socket.wait(timeout_s)

    def pictures(self) -> dict[str, np.ndarray]:
        """The newest [H, W, 3] uint8 of each camera. Raises BadState where one is missing, old or cannot be read."""
        for name in self.heard:
            age = self.age(name)
            if age > self.latest_s:
                raise BadState("no_image", f"the newest picture on {self.topics[name]} is {age:.2f} s old")
        return {name: self.newest[name][2] for name in self.heard}

    def age(self, name: str) -> float:
        """How old a camera's newest picture is, in s: by its stamp, and by when one with a new stamp came last.

        Raises BadState where there is none.
        """
        message, came = self.heard[name].heard
        if message is None:
            raise BadState("no_image", f"nothing has come on {self.topics[name]}")
        try:
            stamp = self._seconds(message["header"]["stamp"])
            if name not in self.newest or self.newest[name][0] != stamp:
                data = BytesIO(base64.b64decode(message["data"], validate=True))
                self.newest[name] = stamp, came, np.asarray(Image.open(data).convert("RGB"))
        except (KeyError, TypeError, ValueError, OSError, SyntaxError, binascii.Error) as error:
            raise BadState("no_image", f"a picture on {self.topics[name]} that cannot be read: {error!r}") from error
        return max(time.monotonic() - self.newest[name][1], self.clock() - stamp)

    def close(self) -> None:
        self.socket.close()

    def _seconds(self, stamp: dict[str, int]) -> float:
        second, nano = ("secs", "nsecs") if self.ros1 else ("sec", "nanosec")
        return stamp[second] + stamp[nano] * 1e-9

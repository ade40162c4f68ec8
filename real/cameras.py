"""Cameras that publish sensor_msgs/CompressedImage: of each its newest image, as long as it is new.

On a link of their own, so that no state and no command waits behind an image.
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
from real.drivers.messages import to_seconds
from real.robot import StateError
from real.transports import link_opener
from real.transports.link import Latest, Link

TYPE = "sensor_msgs/CompressedImage"


class Cameras:
    """The cameras `names`; `settings` as in configs/robot. Raises UserError for one that there is not."""

    def __init__(
        self,
        settings: dict[str, Any],
        names: Sequence[str],
        clock: Callable[[], float] = time.time,
        open_link: Callable[[str], Link] | None = None,
    ):
        if settings["driver"] != "ros":
            raise UserError(f"camera images come over ROS, not with driver: {settings['driver']}")
        topics = settings["cameras"]
        missing = [name for name in names if name not in topics]
        if missing:
            raise UserError(
                f"the policy observes camera {', '.join(missing)}: name its topic in configs/robot, cameras"
            )
        self.latest_s, self.clock = float(settings["latest_image_s"]), clock
        self.ros1 = settings["dialect"] == "ros1"
        self.link = (open_link or link_opener(settings))(settings["url"])
        self.topics = {name: topics[name] for name in names}
        self.latest: dict[str, Latest] = {name: self.link.subscribe(topics[name], TYPE) for name in names}
        self.newest: dict[str, tuple[float, float, np.ndarray]] = {}  # its stamp, when it came, the image

    def wait(self, timeout_s: float) -> None:
        """Until the socket is open. Raises UserError."""
        self.link.wait(timeout_s)

    def images(self) -> dict[str, np.ndarray]:
        """The newest image [H, W, 3] uint8 of each camera. Raises StateError: missing, old or unreadable."""
        for name in self.latest:
            age = self.age(name)
            if age > self.latest_s:
                raise StateError("no_image", f"the newest image on {self.topics[name]} is {age:.2f} s old")
        return {name: self.newest[name][2] for name in self.latest}

    def age(self, name: str) -> float:
        """How old a camera's newest image is, in s: by its stamp, and by when one with a new stamp came last.

        Raises StateError where there is none.
        """
        message, came = self.latest[name].received
        if message is None:
            raise StateError("no_image", f"nothing has come on {self.topics[name]}")
        try:
            stamp = to_seconds(message["header"]["stamp"], self.ros1)
            if name not in self.newest or self.newest[name][0] != stamp:
                data = BytesIO(base64.b64decode(message["data"], validate=True))
                self.newest[name] = stamp, came, np.asarray(Image.open(data).convert("RGB"))
        except (KeyError, TypeError, ValueError, OSError, SyntaxError, binascii.Error) as error:
            raise StateError("no_image", f"an image on {self.topics[name]} that cannot be read: {error!r}") from error
        return max(time.monotonic() - self.newest[name][1], self.clock() - stamp)

    def close(self) -> None:
        """Ends the connection."""
        self.link.close()

"""Cameras that publish sensor_msgs/CompressedImage: of each its newest image, as long as it is new.

On a link of their own, so that no state and no command waits behind an image. An image has 8 bits for each channel:
depth in millimetres, say, has 16, of which a policy would see white.
"""

import base64
import binascii
import re
import struct
import time
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from pbrl.types import UserError
from real.drivers import messages
from real.drivers.messages import describe_error, message_time
from real.robot import Reading, StateError
from real.transports import link_opener
from real.transports.link import Latest, Link
from real.watch import Age, Watch

TYPE = "sensor_msgs/CompressedImage"
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")  # of Pillow, of 8 bits
DEEP = re.compile(r"(?:16|32|64)[USF]C\d|(?:mono|rgba?|bgra?|bayer_\w+)16|compressedDepth", re.I)  # encodings of ROS
UNREADABLE = (
    *messages.UNREADABLE, OSError, SyntaxError, EOFError, struct.error, binascii.Error, Image.DecompressionBombError,
)  # fmt: skip
FROZEN_RAD = 0.2  # that a joint moves, and an image that shows it cannot stay the same to the bit
PNG, DEPTH_AT = b"\x89PNG\r\n\x1a\n", 24  # where a PNG holds its bits for each channel


class CameraImage(NamedTuple):
    """The newest image of a camera: the message's stamp (s; None: it has none), when it came, and [H, W, 3] uint8."""

    stamp: float | None
    t: float
    image: np.ndarray


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
        self.newest: dict[str, CameraImage] = {}
        self.watch = Watch(clock, noun="image")
        self.shown: dict[str, tuple[CameraImage, np.ndarray]] = {}  # the first of the same images, and q then

    def wait(self, timeout_s: float) -> None:
        """Until the socket is open. Raises UserError."""
        self.link.wait(timeout_s)

    def images(self) -> dict[str, np.ndarray]:
        """The newest image [H, W, 3] uint8 of each camera. Raises StateError: missing, old or unreadable."""
        for name in self.latest:
            self._check(name)
        return {name: self.newest[name].image for name in self.latest}

    def check_frozen(self, q: np.ndarray) -> None:
        """Whether each camera's image changes as the arm moves, which stands at `q` [J] rad.

        A driver that hangs may send one image for ever, with new stamps. Raises StateError.
        """
        for name, newest in self.newest.items():
            first, q_then = self.shown.get(name, (None, q))
            if first is None or (newest is not first and not np.array_equal(newest.image, first.image)):
                self.shown[name] = newest, q
            elif np.abs(q - q_then).max() > FROZEN_RAD:
                raise StateError(
                    "no_image",
                    f"images keep coming on {self.topics[name]}, and all are the same, though the arm has moved by "
                    f"{np.abs(q - q_then).max():.2f} rad: start the camera's driver anew",
                )

    def _check(self, name: str) -> None:
        age = self._look(name)
        if age.is_old:
            raise StateError("no_image", age.sentence)

    def age(self, name: str) -> float:
        """How old a camera's newest image is, in s: by its stamp, and by when one with a new stamp came last.

        Raises StateError where there is none, or its clock is ahead.
        """
        return self._look(name).age_s

    def _look(self, name: str) -> Age:
        topic, (message, t) = self.topics[name], self.latest[name].received
        if message is None:
            raise StateError("no_image", f"nothing has come on {topic}")
        try:
            stamp = message_time(message, self.ros1)
            newest = self.newest.get(name)
            if newest is None or (newest.t != t if stamp is None else newest.stamp != stamp):
                self.newest[name] = CameraImage(stamp, t, decode(message))
        except UNREADABLE as error:
            why = describe_error(error) if isinstance(error, KeyError | TypeError | OverflowError) else error
            raise StateError("no_image", f"an image on {topic} that cannot be read: {why}") from error
        (age,) = self.watch.look([Reading(topic, stamp, t, self.latest_s)], time.monotonic())
        if age.is_ahead:
            raise StateError("no_image", age.sentence)
        return age

    def close(self) -> None:
        """Ends the connection."""
        self.link.close()


def decode(message: dict[str, Any]) -> np.ndarray:
    """[H, W, 3] uint8 of a sensor_msgs/CompressedImage. Raises KeyError, ValueError, OSError; for what has more than 8
    bits too."""
    named = message.get("format") or ""
    data = base64.b64decode(message["data"], validate=True)
    bits = data[DEPTH_AT] if data.startswith(PNG) and len(data) > DEPTH_AT else 8
    if DEEP.search(named) or bits > 8:
        raise ValueError(f"its format is {named!r}, and images have 8 bits for each channel; name a colour topic")
    with Image.open(BytesIO(data)) as image:
        if image.mode not in MODES:
            raise ValueError(f"its format is {named!r} ({image.format}, {image.mode}), and images have 8 bits")
        return np.asarray(image.convert("RGB"))

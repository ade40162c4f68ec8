"""The mock's cameras: JPEG images, twenty a second, rendered only while a client subscribes.

In a thread of its own, with its own scene: OpenGL wants one thread, and the arm's clock does not wait for images.
"""

import threading
import time
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from real.cameras import TYPE
from real.drivers.messages import to_stamp
from real.mock.hub import Hub
from sim.render import Camera
from sim.simulation import PHYSICS
from sim.tabletop import Tabletop

SIZE = 320, 240
PERIOD_S = 0.05
QUALITY = 90


class MockCameras:
    """Those of `topics`, by name. `lock` guards `env`; `fault()` is what is wrong with them now:
    silent, frozen (the same image again and again), torn (half of each)."""

    def __init__(
        self, hub: Hub, env: Tabletop, topics: dict[str, str], lock: Any, *, ros1: bool, fault: Callable[[], str]
    ):
        self.hub, self.env, self.lock, self.ros1, self.fault = hub, env, lock, ros1, fault
        self.topics = {name: topic for name, topic in topics.items() if name in env.cameras}
        for topic in self.topics.values():
            hub.advertise(topic, TYPE)
        self.published: dict[str, dict[str, Any]] = {}  # by each camera, last
        self.running = True
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def close(self) -> None:
        """Ends the thread."""
        self.running = False
        self.thread.join()

    def _run(self) -> None:
        camera, due = Camera(), time.monotonic()
        while self.running:
            for name, topic in self.topics.items():
                if self.hub.callbacks[topic] and self.fault() != "silent":
                    if self.fault() != "frozen" or name not in self.published:
                        self.published[name] = self._image_message(camera, name)
                    self.hub.publish(topic, self.published[name])
            now = time.monotonic()
            due = max(due + PERIOD_S, now)
            time.sleep(due - now)
        camera.close()

    def _image_message(self, camera: Camera, name: str) -> dict[str, Any]:
        with self.lock:
            state, now = self.env.save_state(), time.time()
        image = camera.frame(self.env.model, state, PHYSICS, *SIZE, name, True)
        data = BytesIO()
        Image.fromarray(np.ascontiguousarray(image)).save(data, "JPEG", quality=QUALITY)
        picture = data.getvalue()
        if self.fault() == "torn":
            picture = picture[: len(picture) // 2]
        stamp = to_stamp(now, self.ros1)
        return {"header": {"stamp": stamp}, "format": "jpeg", "data": picture}

"""The same states seen otherwise: from a camera that was moved, in another light.

Neither states nor rewards change, so that it shows whether a reward of pictures is about the task or about the picture.
"""

import math
from typing import NamedTuple

import mujoco
import numpy as np


class ViewChange(NamedTuple):
    """The camera goes `turn_deg` degrees round the vertical through what it looks at; `light` scales red, green and
    blue."""

    turn_deg: float = 0.0
    light: tuple[float, float, float] = (1.0, 1.0, 1.0)

    @property
    def is_none(self) -> bool:
        """Whether pictures stay as they are."""
        return self == UNCHANGED

    def apply(self, model: mujoco.MjModel, scene: mujoco.MjvScene) -> None:
        """Moves the camera of a scene that was just updated, with the light that it carries, and scales all lights."""
        left, right = scene.camera
        place, forward = (left.pos + right.pos) / 2, left.forward.astype(float)
        depth = max(float((model.stat.center - place) @ forward), 0.1 * model.stat.extent)
        pivot, turn = place + depth * forward, rotation(self.turn_deg)
        for eye in (left, right):
            eye.pos[:] = pivot + turn @ (eye.pos - pivot)
            eye.forward[:], eye.up[:] = turn @ eye.forward, turn @ eye.up
        for light in scene.lights[: scene.nlight]:
            if light.headlight:
                light.pos[:], light.dir[:] = pivot + turn @ (light.pos - pivot), turn @ light.dir
            for color in (light.ambient, light.diffuse, light.specular):
                color[:] = color * self.light

    def recolor(self, image: np.ndarray) -> np.ndarray:
        """An image [H, W, 3] uint8 in this light, where each thing sends back a share of it."""
        return np.clip(image * np.array(self.light) + 0.5, 0, 255).astype(np.uint8)


UNCHANGED = ViewChange()


def rotation(degrees: float) -> np.ndarray:
    """Round the vertical, to the left: [3, 3]."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])

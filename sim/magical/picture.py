"""The arena drawn by Pillow, seen from above: all of it, or what lies around and ahead of the robot."""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from sim.magical.tasks import GOAL, ZONE
from sim.magical.world import ARENA, COUNT, DEBRIS, POSE, RADIUS, STICK_HEIGHT, STICKS, finger_corners
from sim.view_change import UNCHANGED, ViewChange

CAMERAS = ("allocentric", "egocentric")
FINE = 2  # pixels drawn for each that is shown
VIEW = {"allocentric": 1.2, "egocentric": 0.8}  # half a side of what is seen
AHEAD = 0.5  # of the robot: the middle of what is seen in egocentric pictures
OUTSIDE, FLOOR, STRIP, OFF_LIMITS = (120, 120, 120), (240, 240, 235), (196, 228, 196), (244, 178, 172)
ROBOT, FRONT = (60, 64, 72), (250, 250, 250)
DEBRIS_COLORS = ((214, 126, 20), (36, 112, 190), (140, 66, 160))
SQUARE = DEBRIS / 2 * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])


def draw(
    state: np.ndarray,
    embodiment: str,
    has_zone: bool,
    *,
    width: int,
    height: int,
    camera: str = CAMERAS[0],
    change: ViewChange = UNCHANGED,
) -> np.ndarray:
    """A state [S] as [height, width, 3] uint8. Raises ValueError for an unknown camera."""
    if camera not in CAMERAS:
        raise ValueError(f"no camera {camera!r} here; there are {', '.join(CAMERAS)}")
    image = Image.new("RGB", (FINE * width, FINE * height), OUTSIDE)
    pen = ImageDraw.Draw(image)
    bodies = state[: len(state) // POSE * POSE].reshape(-1, POSE)
    to_pixels = projection(bodies[0], camera, image.size, change.turn_deg)

    def fill(corners: np.ndarray, color: tuple[int, int, int]) -> None:
        pen.polygon([tuple(point) for point in to_pixels(corners).tolist()], fill=color)

    fill(rectangle(-ARENA, -ARENA, ARENA, ARENA), FLOOR)
    fill(rectangle(-ARENA, GOAL, ARENA, ARENA), STRIP)
    if has_zone:
        fill(rectangle(*ZONE), OFF_LIMITS)
    for body, color in zip(bodies[1 : 1 + COUNT], DEBRIS_COLORS, strict=True):
        fill(placed(SQUARE, body), color)
    for shape, color in robot_parts(embodiment):
        fill(placed(shape, bodies[0]), color)
    for side, body in zip((1, -1), bodies[1 + COUNT :], strict=False):
        fill(placed(np.array(finger_corners(side)), body), ROBOT)
    shown = np.asarray(image.reduce(FINE))
    return shown if change.is_none else change.recolor(shown)


def projection(
    robot: np.ndarray, camera: str, size: tuple[int, int], turn_deg: float = 0.0
) -> Callable[[np.ndarray], np.ndarray]:
    """Takes points [N, 2] of the arena to pixels [N, 2]: y is up, or the robot's heading is, but for `turn_deg`."""
    scale = min(size) / 2 / VIEW[camera]
    middle, up = np.zeros(2), np.pi / 2
    if camera == "egocentric":
        up = robot[2]
        middle = robot[:2] + AHEAD * np.array([np.cos(up), np.sin(up)])
    up += np.radians(turn_deg)
    right = np.array([np.sin(up), -np.cos(up)])
    axes = scale * np.stack([right, [-np.cos(up), -np.sin(up)]], axis=1)  # pixels go down
    center = np.array(size) / 2
    return lambda points: (points - middle) @ axes + center


def placed(corners: np.ndarray, body: np.ndarray) -> np.ndarray:
    """corners [N, 2] of a body with this pose [6], in the arena."""
    x, y, angle = body[:3]
    c, s = np.cos(angle), np.sin(angle)
    return corners @ np.array([[c, s], [-s, c]]) + (x, y)


def robot_parts(embodiment: str) -> list[tuple[np.ndarray, tuple[int, int, int]]]:
    """Its body, and a mark that shows its front."""
    if embodiment == "gripper":
        turn = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        disc = RADIUS * np.stack([np.cos(turn), np.sin(turn)], axis=1)
        return [(disc, ROBOT), (np.array([(0.16, 0.0), (0.06, 0.06), (0.06, -0.06)]), FRONT)]
    half, deep = STICKS[embodiment] * RADIUS / 2, STICK_HEIGHT / 2
    mark = np.array([(deep, 0.0), (0.0, 0.04), (0.0, -0.04)])
    return [(rectangle(-deep, -half, deep, half), ROBOT), (mark, FRONT)]


def rectangle(left: float, low: float, right: float, high: float) -> np.ndarray:
    """Its corners [4, 2]."""
    return np.array([(left, low), (right, low), (right, high), (left, high)])

"""The tasks: where an episode starts, its true reward and its success, in closed form of the bodies' poses.

`sweep-to-top` has X-Magical's goal, reward and score. `avoiding` and `grouping` are what RAPL (Tian et al. 2023,
arXiv:2310.07932) calls so; no definition of theirs is public, and these are ours: zone, starts, rewards, success.
"""

from typing import NamedTuple

import numpy as np

from sim.magical.world import ARENA, COUNT, DEBRIS, POSE

GOAL, DONE = 0.76, 0.88  # y where the goal strip begins, and above which a piece costs nothing
TOP = 1.0  # y to which distances are measured
ZONE = (-ARENA, 0.35, -0.5, 0.65)  # off-limits: x and y of its lower left and upper right corner
ENTERED = 1.0  # what a step of one thing in the zone costs
GROUP = 0.65  # how far apart two pieces of a group lie, at most


class Poses(NamedTuple):
    """Robot [..., 6] and debris [..., 3, 6]: x, y, angle, and their velocities."""

    robot: np.ndarray
    debris: np.ndarray

    @classmethod
    def of(cls, states: np.ndarray) -> "Poses":
        """states [..., S]."""
        debris = states[..., POSE : POSE * (1 + COUNT)]
        return cls(states[..., :POSE], debris.reshape(*states.shape[:-1], COUNT, POSE))


class SweepToTop:
    """All debris into the strip at the top. Reward: minus the mean distance from y = 1 of the pieces below y = 0.88."""

    instruction = "sweep all debris into the zone at the top"
    places = ((-0.5, 0.0), (0.0, 0.0), (0.5, 0.0))  # of the pieces, at the start
    spread = (0.05, 0.05, 0.3)  # x, y and rad that a piece is moved by the seed, at most
    has_zone = False

    def start(self, random: np.random.Generator) -> np.ndarray:
        """Poses [3, 3] of the pieces: x, y, angle."""
        middle = np.pad(np.array(self.places), ((0, 0), (0, 1)))
        return middle + random.uniform(-1, 1, (COUNT, 3)) * self.spread

    def reward(self, poses: Poses) -> float:
        """Of one state."""
        return -float(distance_left(poses.debris).mean())

    def has_succeeded(self, poses: Poses, entered: int) -> bool:
        """Of one state, before which something was in the zone in so many steps."""
        return bool(is_inside(poses.debris).all())


class Avoiding(SweepToTop):
    """The same; each step of a piece's or the robot's middle in the zone costs 1, and success is never to enter."""

    instruction = "sweep all debris into the zone at the top, and stay out of the red zone"
    places = ((-0.5, 0.0), (0.05, 0.15), (0.45, 0.15))
    has_zone = True

    def reward(self, poses: Poses) -> float:
        return super().reward(poses) - ENTERED * count_in_zone(poses)

    def has_succeeded(self, poses: Poses, entered: int) -> bool:
        return not entered and super().has_succeeded(poses, entered)


class Grouping(SweepToTop):
    """The same as a group: the pieces' mean distance from their middle costs, and success is to lie close together."""

    instruction = "sweep all debris into the zone at the top, as one group"
    places = ((-0.25, 0.0), (0.0, 0.0), (0.25, 0.0))
    spread = (0.01, 0.05, 0.05)

    def reward(self, poses: Poses) -> float:
        return super().reward(poses) - float(spread(poses.debris))

    def has_succeeded(self, poses: Poses, entered: int) -> bool:
        return super().has_succeeded(poses, entered) and widest_gap(poses.debris) <= GROUP


TASKS = {"sweep-to-top": SweepToTop(), "avoiding": Avoiding(), "grouping": Grouping()}


def distance_left(debris: np.ndarray) -> np.ndarray:
    """debris [..., 3, 6] → how far each piece has to go, to y = 1, and 0 above y = 0.88: [..., 3]."""
    y = debris[..., 1]
    return np.where(y > DONE, 0.0, np.abs(TOP - y))


def is_inside(debris: np.ndarray) -> np.ndarray:
    """debris [..., 3, 6] → whether each piece is in the goal strip with all its corners: [..., 3]."""
    angle = debris[..., 2]
    below = DEBRIS / 2 * (np.abs(np.cos(angle)) + np.abs(np.sin(angle)))
    return debris[..., 1] - below >= GOAL


def spread(debris: np.ndarray) -> np.ndarray:
    """debris [..., 3, 6] → the mean distance of the pieces from their middle: [...]."""
    places = debris[..., :2]
    return np.linalg.norm(places - places.mean(-2, keepdims=True), axis=-1).mean(-1)


def widest_gap(debris: np.ndarray) -> float:
    """debris [3, 6] → the largest distance of two pieces."""
    places = debris[:, :2]
    return float(np.linalg.norm(places[:, None] - places[None], axis=-1).max())


def clearance(poses: Poses) -> np.ndarray:
    """How far the robot's middle and those of the debris are from the zone, at least; 0 within: [...]."""
    places = np.concatenate([poses.robot[..., None, :2], poses.debris[..., :2]], -2)
    low, high = np.array(ZONE[:2]), np.array(ZONE[2:])
    outside = np.maximum(np.maximum(low - places, places - high), 0.0)
    return np.linalg.norm(outside, axis=-1).min(-1)


def count_in_zone(poses: Poses) -> int:
    """How many of the robot's and the debris' middles are in the zone."""
    left, low, right, high = ZONE
    places = [poses.robot[:2].tolist(), *poses.debris[:, :2].tolist()]
    return sum(left < x < right and low < y < high for x, y in places)

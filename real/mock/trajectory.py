"""What a joint trajectory controller wants of an arm: as ros_control (ROS 1) and ros2_control (ROS 2) make it.

A command whose points do not increase in time is refused as a whole, and so is one for other joints, or with numbers
missing: what was wanted before goes on. One without points holds the arm. Points whose time has passed are dropped, and
a command that has no other is refused. A spline leads from what is wanted
now to the first point that is left, and on from point to point: quintic, or cubic where a point says no acceleration.
The last point is held, at speed 0. ROS 2 differs in one thing: once the first point has passed, what is wanted jumps
onto the spline between the points around now. (The page UnderstandingTrajectoryReplacement of
wiki.ros.org/joint_trajectory_controller; joint_trajectory_controller/src/trajectory.cpp of ros2_controllers.)
"""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class Point(NamedTuple):
    """Joint positions, speeds and accelerations [J] at a time in s; accelerations may be left out."""

    t: float
    q: np.ndarray
    dq: np.ndarray
    ddq: np.ndarray | None

    @property
    def is_finite(self) -> bool:
        """Whether all numbers are."""
        return all(np.isfinite(part).all() for part in (self.q, self.dq, self.ddq) if part is not None)

    @classmethod
    def at_rest(cls, q: np.ndarray) -> "Point":
        """At joint positions [J], at time 0."""
        return cls(0.0, q, np.zeros(len(q)), np.zeros(len(q)))


class Trajectory:
    """Splines through points whose times increase."""

    def __init__(self, points: list[Point]):
        self.points = points

    def at(self, t: float) -> Point:
        """What is wanted at a time: before the first point that one, after the last that one at speed 0."""
        if t >= self.points[-1].t:
            return Point.at_rest(self.points[-1].q)._replace(t=t)
        if t <= self.points[0].t:
            return self.points[0]
        i = next(i for i, point in enumerate(self.points) if point.t > t)
        return spline(self.points[i - 1], self.points[i], t)

    def replace(self, points: list[Point], updated: float, now: float, *, jumps: bool) -> "Trajectory | None":
        """What is left at `now` of a command's points, after what was wanted at the last update; None where nothing is.

        `jumps`: as ROS 2 does.
        """
        left = [point for point in points if point.t > now]
        if not left:
            return None
        passed = len(points) - len(left)
        begin = points[passed - 1] if passed and jumps else self.at(updated)._replace(t=updated)
        return Trajectory([begin, *left])


def spline(a: Point, b: Point, t: float) -> Point:
    """Between two points: of the fifth degree, or of the third where one has no acceleration."""
    span, s = b.t - a.t, t - a.t
    d, v0, v1 = b.q - a.q, a.dq * span, b.dq * span
    if a.ddq is None or b.ddq is None:
        c2, c3, c4, c5 = 3 * d - 2 * v0 - v1, v0 + v1 - 2 * d, 0.0 * d, 0.0 * d
    else:
        a0, a1 = a.ddq * span**2 / 2, b.ddq * span**2 / 2
        c2 = a0
        c3 = 10 * d - 6 * v0 - 4 * v1 - 3 * a0 + a1
        c4 = -15 * d + 8 * v0 + 7 * v1 + 3 * a0 - 2 * a1
        c5 = 6 * d - 3 * v0 - 3 * v1 - a0 + a1
    s /= span
    q = a.q + s * (v0 + s * (c2 + s * (c3 + s * (c4 + s * c5))))
    dq = (v0 + s * (2 * c2 + s * (3 * c3 + s * (4 * c4 + s * 5 * c5)))) / span
    ddq = (2 * c2 + s * (6 * c3 + s * (12 * c4 + s * 20 * c5))) / span**2
    return Point(t, q, dq, ddq)


def refusal(message: dict[str, Any], joints: Sequence[str]) -> str:
    """Why a controller of such joints takes no such command (trajectory_msgs/JointTrajectory), or nothing."""
    points = message["points"]
    if sorted(message["joint_names"]) != sorted(joints):
        return "it does not contain the expected joints"
    times = [nanoseconds(point["time_from_start"]) for point in points]
    if any(later <= earlier for earlier, later in itertools.pairwise(times)):
        return "waypoints are not strictly increasing in time"
    for point in points:
        sizes = [len(point[key]) for key in ("positions", "velocities", "accelerations")]
        if sizes[0] != len(joints) or any(size not in (0, len(joints)) for size in sizes):
            return "size mismatch in a point's positions, velocities or accelerations"
    return ""


def parse_trajectory(message: dict[str, Any], joints: Sequence[str], now: float) -> tuple[float, list[Point]]:
    """A trajectory_msgs/JointTrajectory of either dialect: when it begins (a stamp of 0 means now), and its points."""
    begin = seconds(message["header"]["stamp"]) or now
    order = [message["joint_names"].index(name) for name in joints]
    points = []
    for point in message["points"]:
        q, dq = (np.array(point[key] or [0.0] * len(order), float)[order] for key in ("positions", "velocities"))
        ddq = np.array(point["accelerations"], float)[order] if point["accelerations"] else None
        points.append(Point(begin + seconds(point["time_from_start"]), q, dq, ddq))
    return begin, points


def seconds(time: dict[str, int]) -> float:
    """A time of either dialect in s."""
    return 1e-9 * nanoseconds(time)


def nanoseconds(time: dict[str, int]) -> int:
    """A time of either dialect in ns."""
    whole, nano = (time["secs"], time["nsecs"]) if "secs" in time else (time["sec"], time["nanosec"])
    return whole * 10**9 + nano

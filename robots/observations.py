"""What a policy observes of an arm, by name: the same numbers in simulation and on the real one."""

from collections.abc import Sequence

import numpy as np

from robots.kinematics import Kinematics

ROBOT = {"tcp_position": slice(0, 3), "tcp_velocity": slice(3, 6), "gripper_width": slice(6, 7)}  # m, m/s, m
ROBOT_DIM = 7
OBJECT_DIM, POINT_DIM, GOAL_DIM = 7, 3, 3  # m and quaternion (w, x, y, z); m; m

KEYPOINTS = {"rope": 8, "cloth": 9}  # of tasks with something that has a shape, which nothing measures on a real arm


def layout(objects: Sequence[str] = (), goal: bool = False, points: Sequence[str] = ()) -> dict[str, slice]:
    """The parts of an observation [O] by name: the robot's own, each object's pose, each keypoint, and the goal."""
    sizes = dict.fromkeys(objects, OBJECT_DIM) | dict.fromkeys(points, POINT_DIM) | ({"goal": GOAL_DIM} if goal else {})
    found, at = dict(ROBOT), ROBOT_DIM
    for name, size in sizes.items():
        found[name], at = slice(at, at + size), at + size
    return found


def object_count(obs_dim: int) -> int:
    """The number of objects in an observation of that many numbers which has a goal and no keypoints."""
    return (obs_dim - ROBOT_DIM - GOAL_DIM) // OBJECT_DIM


def observation(
    kinematics: Kinematics,
    q: np.ndarray,
    dq: np.ndarray,
    width: float,
    objects: np.ndarray,
    goal: np.ndarray | tuple[()],
    points: np.ndarray | tuple[()] = (),
) -> np.ndarray:
    """The observation [O] of joints at q [J] rad and dq [J] rad/s, in the order of `layout`.

    objects [N, 7], points [K, 3], goal [3]; no goal and no points where a task has none.
    """
    position, _ = kinematics.pose(q)
    velocity = kinematics.jacobian(q)[:3] @ dq
    return np.concatenate([position, velocity, [width], np.ravel(objects), np.ravel(points), goal])

"""What a policy observes of an arm, by name: the same numbers in simulation and on the real one."""

from collections.abc import Sequence

import numpy as np

from robots.kinematics import Kinematics

ROBOT = {"tcp_position": slice(0, 3), "tcp_velocity": slice(3, 6), "gripper_width": slice(6, 7)}  # m, m/s, m
ROBOT_DIM = 7
OBJECT_DIM, GOAL_DIM = 7, 3  # m and quaternion (w, x, y, z); m


def layout(objects: Sequence[str] = (), goal: bool = False) -> dict[str, slice]:
    """The parts of an observation [O] by name: the robot's own, each object's pose, and the goal."""
    found, at = dict(ROBOT), ROBOT_DIM
    for name in objects:
        found[name], at = slice(at, at + OBJECT_DIM), at + OBJECT_DIM
    return {**found, "goal": slice(at, at + GOAL_DIM)} if goal else found


def object_count(obs_dim: int) -> int:
    """The number of objects in an observation of that many numbers which has a goal."""
    return (obs_dim - ROBOT_DIM - GOAL_DIM) // OBJECT_DIM


def observation(
    kinematics: Kinematics, q: np.ndarray, dq: np.ndarray, width: float, objects: np.ndarray, goal: np.ndarray
) -> np.ndarray:
    """The observation [O] of joints at q [J] rad and dq [J] rad/s, in the order of `layout`; objects [N, 7]."""
    position, _ = kinematics.pose(q)
    velocity = kinematics.jacobian(q)[:3] @ dq
    return np.concatenate([position, velocity, [width], np.ravel(objects), goal])

"""What a policy sees of an arm and what it asks of it: the same words in simulation and on the real arm."""

import numpy as np

from pbrl.types import UserError
from robots.arm import Arm, Kinematics

REACH = 0.02  # m that a full command moves the hand
SHARE = 0.3  # of the joint speeds that the arm may
WORKSPACE = np.array([[0.25, -0.35, 0.015], [0.7, 0.35, 0.5]])  # m, of the point between the finger tips
OWN = 7  # numbers of an observation that are the arm's own: hand and gripper; objects and goal follow
DAMPING = 2.5e-4  # of the inverse: large near singular poses, where it gives way instead of racing


class Terms:
    """Actions [A] in [-1, 1] of an arm that gets `hz` of them a second.

    `control=cartesian`: the hand along x, y, z, pointing down; `joint`: the seven joints. The last number closes the
    gripper. Raises UserError for another control.
    """

    def __init__(self, arm: Arm, control: str, hz: float):
        if control not in ("cartesian", "joint"):
            raise UserError(f"env.control={control}: it is cartesian or joint")
        self.arm, self.control, self.hz, self.kinematics = arm, control, hz, arm.kinematics
        self.action_dim = 4 if control == "cartesian" else 8
        _, self.down = self.kinematics.pose(arm.home)

    def joints(self, q: np.ndarray, action: np.ndarray) -> np.ndarray:
        """Where the joints [7] rad should be one action later, from where they were last commanded to be."""
        limits = self.arm.limits
        most = SHARE * limits.velocity / self.hz
        if self.control == "joint":
            step = action[:7] * most
        else:
            position, rotation = self.kinematics.pose(q)
            wanted = np.clip(position + REACH * action[:3], *WORKSPACE)
            turn = 0.5 * sum(np.cross(rotation[:, i], self.down[:, i]) for i in range(3))  # back to pointing down
            jacobian = self.kinematics.jacobian(q)
            error = np.concatenate([wanted - position, turn])
            step = jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + DAMPING * np.eye(6), error)
            step *= min(1.0, float((most / np.maximum(np.abs(step), 1e-9)).min()))  # slower, but the same way
        return np.clip(q + step, limits.position_min + 0.02, limits.position_max - 0.02)

    def width(self, width: float, action: np.ndarray) -> float:
        """How far the gripper should be open, in m, one action later; -1 opens it, 1 closes it."""
        gripper = self.arm.gripper
        fastest = gripper["speed"] / self.hz
        return width + float(np.clip(gripper["width"] * (1 - action[-1]) / 2 - width, -fastest, fastest))


def observed(
    kinematics: Kinematics, q: np.ndarray, dq: np.ndarray, width: float, objects: np.ndarray, goal: np.ndarray
) -> np.ndarray:
    """The observation [O]: hand's position and velocity, gripper's width, objects [N, 7] (m, quaternion), goal [3]."""
    position, _ = kinematics.pose(q)
    velocity = kinematics.jacobian(q)[:3] @ dq
    return np.concatenate([position, velocity, [width], np.ravel(objects), goal])

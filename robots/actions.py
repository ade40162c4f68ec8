"""What a policy's actions mean to an arm: the same in simulation and on the real one."""

import numpy as np

from pbrl.types import UserError
from robots.arm import Arm

CONTROLS = ("cartesian", "joint")
STEP_M = 0.02  # that a full Cartesian action moves the tcp
SPEED_SHARE = 0.3  # of the arm's joint speed limits that an action may use
LIMIT_MARGIN = 0.02  # rad, kept from each end of a joint
DAMPING = 2.5e-4  # of the least-squares inverse: large near singular poses, where the arm slows down instead of racing


class ActionMapping:
    """Maps actions [A] in [-1, 1], `hz` of them a second, to joint and gripper targets of an arm.

    `control=cartesian`: the tcp along x, y, z, in the orientation of the home pose; `joint`: each joint. The last
    number closes the gripper. Raises UserError for another control.
    """

    def __init__(self, arm: Arm, control: str, hz: float):
        if control not in CONTROLS:
            raise UserError(f"env.control={control}: it is {' or '.join(CONTROLS)}")
        self.arm, self.control, self.hz, self.kinematics = arm, control, hz, arm.kinematics
        self.action_dim = (3 if control == "cartesian" else arm.dof) + 1
        _, self.orientation = self.kinematics.pose(arm.home)

    def joint_targets(self, q: np.ndarray, action: np.ndarray) -> np.ndarray:
        """Joint targets [J] rad one action after the targets q [J]."""
        limits = self.arm.limits
        most = SPEED_SHARE * limits.velocity / self.hz
        step = action[: self.arm.dof] * most if self.control == "joint" else self._cartesian_step(q, action, most)
        return np.clip(q + step, limits.position_min + LIMIT_MARGIN, limits.position_max - LIMIT_MARGIN)

    def gripper_width(self, width: float, action: np.ndarray) -> float:
        """The gripper's target, m, one action after the target `width`; -1 opens it, 1 closes it."""
        gripper = self.arm.gripper
        fastest = gripper.speed / self.hz
        return width + float(np.clip(gripper.width * (1 - action[-1]) / 2 - width, -fastest, fastest))

    def _cartesian_step(self, q: np.ndarray, action: np.ndarray, most: np.ndarray) -> np.ndarray:
        """Damped least squares, Nakamura & Hanafusa 1986; scaled down as a whole where one joint would be too fast."""
        position, rotation = self.kinematics.pose(q)
        target = np.clip(position + STEP_M * action[:3], *self.arm.workspace)
        turn = 0.5 * sum(np.cross(rotation[:, i], self.orientation[:, i]) for i in range(3))
        jacobian = self.kinematics.jacobian(q)
        error = np.concatenate([target - position, turn])
        step = jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + DAMPING * np.eye(6), error)
        return step * min(1.0, float((most / np.maximum(np.abs(step), 1e-9)).min()))

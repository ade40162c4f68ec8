"""Forward, differential and inverse kinematics of an arm: from joint angles to the tool centre point, and back."""

# pyright: reportAttributeAccessIssue=false
# MuJoCo's compiled module carries no types

import mujoco
import numpy as np

from pbrl.types import UserError
from robots.arm import Arm
from robots.model import add_arm


class Kinematics:
    """Where the tool centre point (tcp), between the finger tips, is for joint angles q [J] in rad, and back.

    Positions are in the frame of the table that the arm stands at: its own base where `base` in arm.yaml is zero.
    """

    def __init__(self, arm: Arm):
        spec = mujoco.MjSpec()
        add_arm(spec, arm)
        self.arm, self.model = arm, spec.compile()
        self.data = mujoco.MjData(self.model)
        self.site = self.model.site("tcp").id

    def pose(self, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """q [J] → position [3] m and rotation matrix [3, 3] of the tcp."""
        self._set(q)
        return self.data.site_xpos[self.site].copy(), self.data.site_xmat[self.site].reshape(3, 3).copy()

    def jacobian(self, q: np.ndarray) -> np.ndarray:
        """q [J] → [6, J]: linear (m/s), then angular velocity (rad/s) of the tcp for each joint's."""
        self._set(q)
        mujoco.mj_comPos(self.model, self.data)
        out = np.zeros((6, self.model.nv))
        mujoco.mj_jacSite(self.model, self.data, out[:3], out[3:], self.site)
        return out[:, : self.arm.dof]

    def inverse(self, position: np.ndarray, rotation: np.ndarray, q: np.ndarray, steps: int = 200) -> np.ndarray:
        """Joint angles [J] within limits for a pose of the tcp, near q [J]. Raises UserError where it is not reached.

        By mink's quadratic programme, Zakka 2024, which keeps to the joint limits.
        """
        import mink

        start = np.zeros(self.model.nq)
        start[: self.arm.dof] = q
        configuration = mink.Configuration(self.model, q=start)
        tcp = mink.FrameTask("tcp", "site", position_cost=1.0, orientation_cost=1.0)
        tcp.set_target(mink.SE3.from_rotation_and_translation(mink.SO3.from_matrix(rotation), np.asarray(position)))
        posture = mink.PostureTask(self.model, cost=1e-3)
        posture.set_target(start)
        limits = [mink.ConfigurationLimit(self.model)]
        for _ in range(steps):
            velocity = mink.solve_ik(configuration, [tcp, posture], 0.1, "daqp", damping=1e-6, limits=limits)
            configuration.integrate_inplace(velocity, 0.1)
            if np.abs(tcp.compute_error(configuration)).max() < 1e-4:
                return configuration.q[: self.arm.dof].copy()
        raise UserError(f"the {self.arm.name} does not reach {np.round(position, 3)} from there")

    def _set(self, q: np.ndarray) -> None:
        self.data.qpos[: self.arm.dof] = q
        mujoco.mj_kinematics(self.model, self.data)

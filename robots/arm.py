"""A seven-joint Franka arm: its numbers, its MuJoCo model, and where its hand is.

`load("panda")` reads `robots/panda/arm.yaml`. The chain is built from Denavit-Hartenberg parameters (Craig's, as Franka
documents them), so that joint angles mean what they mean on the real arm; the meshes are those of gymnasium-robotics
(Apache-2.0), its light collision ones, which render six times as fast. Both arms share chain and meshes here.
"""

import importlib.util
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import yaml

from pbrl.types import UserError

HERE = Path(__file__).parent
NAMES = tuple(sorted(path.parent.name for path in HERE.glob("*/arm.yaml")))
CHAIN = (  # a, alpha, d of each joint: the frame before is moved by a and turned by alpha about x, then d along z
    (0.0, 0.0, 0.333), (0.0, -math.pi / 2, 0.0), (0.0, math.pi / 2, 0.316), (0.0825, math.pi / 2, 0.0),
    (-0.0825, -math.pi / 2, 0.384), (0.0, math.pi / 2, 0.0), (0.088, math.pi / 2, 0.0),
)  # fmt: skip
FLANGE, HAND_TURN, TCP = (
    0.107,
    -math.pi / 4,
    0.1034,
)  # m beyond joint 7; rad about z; m from the hand to between the tips
STIFFNESS = (4500, 4500, 3500, 3500, 2000, 2000, 2000)  # Nm/rad of the position servos in simulation
GREY, WHITE = (0.25, 0.25, 0.28, 1.0), (0.9, 0.92, 0.92, 1.0)


@dataclass(frozen=True)
class Limits:
    """Of each joint [7]: rad, rad/s, rad/s², rad/s³, Nm; `cartesian` has speed, acceleration, jerk by kind."""

    position_min: np.ndarray
    position_max: np.ndarray
    velocity: np.ndarray
    acceleration: np.ndarray
    jerk: np.ndarray
    torque: np.ndarray
    torque_rate: float
    cartesian: dict[str, list[float]]


@dataclass(frozen=True)
class Arm:
    """An arm as data. `home` [7] rad; `gripper` has width (m), speed (m/s) and force (N)."""

    name: str
    limits: Limits
    home: np.ndarray
    gripper: dict[str, float]
    rates: dict[str, float]
    masses: list[float]

    @cached_property
    def kinematics(self) -> "Kinematics":
        spec = mujoco.MjSpec()
        self.mount(spec, spec.worldbody)
        return Kinematics(spec.compile(), self)

    def mount(self, spec: mujoco.MjSpec, base: Any) -> None:
        """Adds the arm with its hand, servos and a site `tcp` to a body of a model."""
        meshes = mesh_folder()
        for name in (*(f"link{i}" for i in range(8)), "hand", "finger"):
            spec.add_mesh(name=name, file=str(meshes / f"{name}.stl"))
        spec.compiler.degree = False
        body = base.add_body(name="link0")
        body.add_geom(type=mujoco.mjtGeom.mjGEOM_MESH, meshname="link0", mass=self.masses[0], rgba=WHITE)
        limits = self.limits
        for i, (a, alpha, d) in enumerate(CHAIN):
            place = [a, -d * math.sin(alpha), d * math.cos(alpha)]
            turn = [math.cos(alpha / 2), math.sin(alpha / 2), 0, 0]
            body = body.add_body(name=f"link{i + 1}", pos=place, quat=turn, gravcomp=1)
            body.add_joint(
                name=f"joint{i + 1}", axis=[0, 0, 1], limited=True, armature=0.1,
                range=[limits.position_min[i], limits.position_max[i]],
            )  # fmt: skip
            colour = GREY if i in (4, 6) else WHITE
            body.add_geom(
                type=mujoco.mjtGeom.mjGEOM_MESH, meshname=f"link{i + 1}", mass=self.masses[i + 1], rgba=colour
            )
            stiffness = STIFFNESS[i]
            servo(spec, f"joint{i + 1}", stiffness, 2 * math.sqrt(stiffness) * 1.5, limits.torque[i],
                  (limits.position_min[i], limits.position_max[i]))  # fmt: skip
        turned = [math.cos(HAND_TURN / 2), 0, 0, math.sin(HAND_TURN / 2)]
        hand = body.add_body(name="hand", pos=[0, 0, FLANGE], quat=turned, gravcomp=1)
        hand.add_geom(type=mujoco.mjtGeom.mjGEOM_MESH, meshname="hand", mass=0.73, rgba=WHITE)
        hand.add_site(name="tcp", pos=[0, 0, TCP], size=[0.005, 0.005, 0.005], rgba=[0, 0, 0, 0])
        hand.add_camera(name="wrist", pos=[0.06, 0, 0.02], quat=[0, math.sqrt(0.5), math.sqrt(0.5), 0], fovy=75)
        for side, sign in (("left", 1), ("right", -1)):
            quat = [1, 0, 0, 0] if sign > 0 else [0, 0, 0, 1]
            finger = hand.add_body(name=f"{side}_finger", pos=[0, 0, 0.0584], quat=quat, gravcomp=1)
            finger.add_joint(name=f"{side}_finger", type=mujoco.mjtJoint.mjJNT_SLIDE, axis=[0, 1, 0], limited=True,
                             range=[0, self.gripper["width"] / 2], armature=0.1, damping=10)  # fmt: skip
            finger.add_geom(type=mujoco.mjtGeom.mjGEOM_MESH, meshname="finger", mass=0.015, rgba=GREY, contype=0,
                            conaffinity=0)  # fmt: skip
            finger.add_geom(type=mujoco.mjtGeom.mjGEOM_BOX, size=[0.009, 0.005, 0.011], pos=[0, 0.006, 0.043],
                            friction=[1.5, 0.05, 0.0002], condim=4, rgba=GREY, mass=0.005)  # fmt: skip
            servo(spec, f"{side}_finger", 800, 40, self.gripper["force"] / 2, (0, self.gripper["width"] / 2))
        for pair in (("link0", "link1"), ("link5", "link7"), ("link6", "hand"), ("link7", "hand")):
            spec.add_exclude(bodyname1=pair[0], bodyname2=pair[1])


class Kinematics:
    """Where the point between the finger tips is for joint angles q [7], and back."""

    def __init__(self, model: mujoco.MjModel, arm: Arm):
        self.model, self.arm, self.data = model, arm, mujoco.MjData(model)
        self.site = model.site("tcp").id

    def pose(self, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """q [7] → position [3] m and rotation matrix [3, 3], in the arm's base."""
        self._place(q)
        return self.data.site_xpos[self.site].copy(), self.data.site_xmat[self.site].reshape(3, 3).copy()

    def jacobian(self, q: np.ndarray) -> np.ndarray:
        """q [7] → [6, 7]: velocity (m/s), then rotation (rad/s), of the point in the base for each joint's."""
        self._place(q)
        mujoco.mj_comPos(self.model, self.data)
        out = np.zeros((6, self.model.nv))
        mujoco.mj_jacSite(self.model, self.data, out[:3], out[3:], self.site)
        return out[:, :7]

    def inverse(self, position: np.ndarray, rotation: np.ndarray, q: np.ndarray, steps: int = 200) -> np.ndarray:
        """Joint angles [7] within limits for a pose, near q. Raises UserError where the arm does not reach it.

        By mink's quadratic programme, Zakka 2024, which keeps to the joint limits.
        """
        import mink

        start = np.zeros(self.model.nq)
        start[:7] = q
        configuration = mink.Configuration(self.model, q=start)
        hand = mink.FrameTask("tcp", "site", position_cost=1.0, orientation_cost=1.0)
        hand.set_target(mink.SE3.from_rotation_and_translation(mink.SO3.from_matrix(rotation), np.asarray(position)))
        posture = mink.PostureTask(self.model, cost=1e-3)
        posture.set_target(start)
        limits = [mink.ConfigurationLimit(self.model)]
        for _ in range(steps):
            velocity = mink.solve_ik(configuration, [hand, posture], 0.1, "daqp", damping=1e-6, limits=limits)
            configuration.integrate_inplace(velocity, 0.1)
            error = hand.compute_error(configuration)
            if np.abs(error).max() < 1e-4:
                return configuration.q[:7].copy()
        raise UserError(f"the {self.arm.name} does not reach {np.round(position, 3)} from there")

    def _place(self, q: np.ndarray) -> None:
        self.data.qpos[:7] = q
        mujoco.mj_kinematics(self.model, self.data)


def servo(spec: mujoco.MjSpec, joint: str, stiffness: float, damping: float, force: float, span: tuple) -> None:
    """A position servo on a joint, with a torque that it cannot exceed."""
    spec.add_actuator(
        name=joint, target=joint, trntype=mujoco.mjtTrn.mjTRN_JOINT, biastype=mujoco.mjtBias.mjBIAS_AFFINE,
        gainprm=[stiffness] + [0] * 9, biasprm=[0, -stiffness, -damping] + [0] * 7, forcelimited=True,
        forcerange=[-force, force], ctrllimited=True, ctrlrange=list(span),
    )  # fmt: skip


def load(name: str) -> Arm:
    """The arm of that name. Raises UserError where there is none."""
    if name not in NAMES:
        raise UserError(f"robot={name}: it is one of {', '.join(NAMES)}")
    found = yaml.safe_load((HERE / name / "arm.yaml").read_text())
    joints = {
        key: np.array(value, float) if isinstance(value, list) else value for key, value in found.pop("joints").items()
    }
    limits = Limits(**joints, cartesian=found.pop("cartesian"))
    return Arm(**{**found, "home": np.array(found["home"])}, limits=limits)


def mesh_folder() -> Path:
    """Where gymnasium-robotics keeps the arm's meshes. Raises UserError."""
    found = importlib.util.find_spec("gymnasium_robotics")
    if found is None or found.origin is None:
        raise UserError("the Franka arm's meshes come with gymnasium-robotics: `pip install -e '.[sim]'`")
    return Path(found.origin).parent / "envs/assets/kitchen_franka/franka_assets/meshes/collision"

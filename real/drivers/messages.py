"""ROS messages of arms and grippers of several makes: what they mean, and how goals are put into them.

Which there are, configs/robot/<name>.yaml says by topic and type; a make that is not here is a function more.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pbrl.types import UserError
from real.robot import MODES
from robots.arm import Gripper

Message = dict[str, Any]
UNREADABLE = (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError)  # what readers raise
UNIVERSAL_ROBOTS_MODES = {5: "other", 6: "guiding", 7: "move"}  # ur_dashboard_msgs/RobotMode: idle, backdrive, running


class ArmStatus(NamedTuple):
    """What an arm reports besides its joints: see `real.robot.State`."""

    mode: str
    force: float
    success_rate: float


def franka_status(messages: Mapping[str, Message], ros1: bool) -> ArmStatus:
    """From franka_msgs/FrankaState or, of today's franka_ros2, FrankaRobotState on `arm`: wrenches of either form.

    Raises KeyError, TypeError, ValueError for another message.
    """
    state = messages["arm"]
    force = wrench_force(state["O_F_ext_hat_K" if ros1 else "o_f_ext_hat_k"])
    mode = int(state["robot_mode"])
    named = MODES[mode] if 0 <= mode < len(MODES) else "other"
    return ArmStatus(named, force, float(state["control_command_success_rate"]))


def wrench_force(wrench: Any) -> float:
    """The force in N of a wrench: six numbers, geometry_msgs/Wrench or WrenchStamped. Raises KeyError, ValueError."""
    if isinstance(wrench, Mapping):
        force = wrench.get("wrench", wrench)["force"]
        return math.hypot(*(float(force[axis]) for axis in "xyz"))
    numbers = np.array(wrench, float)
    if numbers.shape != (6,):
        raise ValueError(f"a wrench of shape {list(numbers.shape)} instead of 6 numbers")
    return float(np.linalg.norm(numbers[:3]))


def universal_robots_status(messages: Mapping[str, Message], ros1: bool) -> ArmStatus:
    """From ur_dashboard_msgs/RobotMode on `arm` and geometry_msgs/WrenchStamped on `wrench`.

    A running arm counts as one that moves; the arm reports no success rate of commands. Raises KeyError, TypeError.
    """
    newtons = wrench_force(messages["wrench"])
    return ArmStatus(UNIVERSAL_ROBOTS_MODES.get(messages["arm"]["mode"], "other"), newtons, 1.0)


STATUS: dict[str, Callable[[Mapping[str, Message], bool], ArmStatus]] = {
    "FrankaState": franka_status,
    "RobotMode": universal_robots_status,
    "FrankaRobotState": franka_status,
}


def status_reader(type_: str) -> Callable[[Mapping[str, Message], bool], ArmStatus]:
    """The function that reads the arm's status from a message type. Raises UserError."""
    name = type_.rsplit("/", 1)[-1]
    if name not in STATUS:
        raise UserError(f"configs/robot: topics.arm of type {type_} is not known: it is one of {', '.join(STATUS)}")
    return STATUS[name]


def missing_joints(message: Message, joints: Sequence[str]) -> list[str]:
    """Which of `joints` a sensor_msgs/JointState does not have. Raises KeyError, TypeError for another message."""
    names = set(message["name"])
    return [joint for joint in joints if joint not in names]


def joint_values(message: Message, field: str, joints: Sequence[str]) -> np.ndarray:
    """[J] of a field of a sensor_msgs/JointState, in the order of `joints`, whatever order they come in.

    Raises KeyError, ValueError where the field is empty, as the message allows, or of another length than its names.
    """
    names, values = list(message["name"]), message[field]
    if len(values) != len(names):
        raise ValueError(f"{len(values)} numbers in `{field}` for {len(names)} joints: its publisher must send all")
    twice = [joint for joint in joints if names.count(joint) > 1]
    if twice:
        raise ValueError(f"it names {', '.join(twice)} more than once")
    return np.array([values[names.index(joint)] for joint in joints], float)  # None: rosbridge's NaN


def gripper_width(message: Message, gripper: Gripper) -> float:
    """The width in m from a sensor_msgs/JointState with the gripper's joints. Raises KeyError, ValueError."""
    return float(joint_values(message, "position", gripper.joints).sum())


def gripper_goal(topics: Mapping[str, Any], gripper: Gripper, close: bool) -> tuple[str, Message]:
    """The name of a gripper's action among `topics`, and its goal."""
    width = 0.0 if close else gripper.width
    if "gripper_command" in topics:  # control_msgs/GripperCommand
        return "gripper_command", {"command": {"position": width, "max_effort": gripper.force / 2 if close else 0.0}}
    goal: Message = {"width": width, "speed": gripper.speed}
    if not close:
        return "move", goal
    epsilon = {"inner": gripper.width, "outer": gripper.width}  # whatever width it stops at is a grasp
    return "grasp", {**goal, "force": gripper.force / 2, "epsilon": epsilon}


def gripper_actions(topics: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the gripper's actions among `topics`."""
    return tuple(name for name in ("move", "grasp", "gripper_command") if name in topics)


def to_stamp(seconds: float, ros1: bool) -> dict[str, int]:
    """A time as ROS 1 or ROS 2 has it."""
    whole = math.floor(seconds)
    second, nano = ("secs", "nsecs") if ros1 else ("sec", "nanosec")
    return {second: whole, nano: int((seconds - whole) * 1e9)}


def to_seconds(stamp: Mapping[str, int], ros1: bool) -> float:
    """The inverse of `to_stamp`. Raises KeyError."""
    second, nano = ("secs", "nsecs") if ros1 else ("sec", "nanosec")
    return stamp[second] + stamp[nano] * 1e-9


def message_time(message: Message, ros1: bool) -> float | None:
    """The time in a message's header, in s; None without a header, or where its stamp was not set.

    Raises KeyError, TypeError, OverflowError, and ValueError where it is not finite.
    """
    if not isinstance(message, dict):
        raise TypeError("a message is an object")
    if "header" not in message:
        return None
    seconds = to_seconds(message["header"]["stamp"], ros1)
    if not math.isfinite(seconds):
        raise ValueError("its stamp is not finite")
    return seconds or None


def describe_error(error: Exception) -> str:
    """Why a message cannot be read, in words."""
    if isinstance(error, KeyError):
        return f"it has no field {error}"
    if isinstance(error, OverflowError):
        return "a number in it is too large"
    return str(error) if isinstance(error, ValueError) else "its fields are of other types"


def is_finite(found: Any) -> bool:
    """Whether all numbers are, of what was read from a message."""
    numbers = (found.force, found.success_rate) if isinstance(found, ArmStatus) else found
    return found is None or bool(np.isfinite(numbers).all())


def parse_poses(message: Message, count: int) -> np.ndarray:
    """[N, 7] of a geometry_msgs/PoseArray: m, quaternion (w, x, y, z). Raises KeyError, ValueError."""
    poses = [(pose["position"], pose["orientation"]) for pose in message["poses"]]
    if len(poses) != count:
        raise ValueError(f"{len(poses)} objects instead of {count}")
    found = np.array([[*(p[k] for k in "xyz"), *(r[k] for k in "wxyz")] for p, r in poses], float)
    if (np.abs(np.linalg.norm(found[:, 3:], axis=1) - 1) > 0.1).any():
        raise ValueError("an orientation that is no rotation: a quaternion has length 1")
    return found

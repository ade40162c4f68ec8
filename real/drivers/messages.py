"""ROS messages of arms and grippers of several makes: what they mean, and how goals are put into them.

Which there are, configs/robot/<name>.yaml says by topic and type; a make that is not here is a function more.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from pbrl.types import UserError
from real.robot import MODES
from robots.arm import Gripper

Message = dict[str, Any]
UNIVERSAL_ROBOTS_MODES = {5: "other", 6: "guiding", 7: "move"}  # ur_dashboard_msgs/RobotMode: idle, backdrive, running


class ArmStatus(NamedTuple):
    """What an arm reports besides its joints: see `real.robot.State`."""

    mode: str
    force: float
    success_rate: float


def franka_status(messages: Mapping[str, Message], ros1: bool) -> ArmStatus:
    """From franka_msgs/FrankaState on `arm`. Raises KeyError, IndexError, TypeError for another message."""
    state = messages["arm"]
    wrench = np.array(state["O_F_ext_hat_K" if ros1 else "o_f_ext_hat_k"], float)
    force = float(np.linalg.norm(wrench[:3]))
    return ArmStatus(MODES[state["robot_mode"]], force, float(state["control_command_success_rate"]))


def universal_robots_status(messages: Mapping[str, Message], ros1: bool) -> ArmStatus:
    """From ur_dashboard_msgs/RobotMode on `arm` and geometry_msgs/WrenchStamped on `wrench`.

    A running arm counts as one that moves; the arm reports no success rate of commands. Raises KeyError, TypeError.
    """
    force = messages["wrench"]["wrench"]["force"]
    newtons = math.sqrt(sum(float(force[axis]) ** 2 for axis in "xyz"))
    return ArmStatus(UNIVERSAL_ROBOTS_MODES.get(messages["arm"]["mode"], "other"), newtons, 1.0)


STATUS: dict[str, Callable[[Mapping[str, Message], bool], ArmStatus]] = {
    "FrankaState": franka_status,
    "RobotMode": universal_robots_status,
}


def status_reader(type_: str) -> Callable[[Mapping[str, Message], bool], ArmStatus]:
    """The function that reads the arm's status from a message type. Raises UserError."""
    name = type_.rsplit("/", 1)[-1]
    if name not in STATUS:
        raise UserError(f"configs/robot: topics.arm of type {type_} is not known: it is one of {', '.join(STATUS)}")
    return STATUS[name]


def gripper_width(message: Message, gripper: Gripper) -> float:
    """The width in m from a sensor_msgs/JointState with the gripper's joints. Raises KeyError, ValueError."""
    names = list(message["name"])
    return float(sum(message["position"][names.index(name)] for name in gripper.joints))


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

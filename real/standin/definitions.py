"""Message, service and action types of ROS 1 and ROS 2, and what a bridge makes of the JSON it is given for them.

The standard ones come from `rosbags`; those of the arm and its controllers are written out below, of which a line may
name several fields. A part of a service or an action is a type of its own, named as the bridge's errors name it.
"""

import base64
import math
import re
import struct
import time
from array import array
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from rosbags.interfaces import Nodetype
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

BOTH = """
srv std_srvs/Empty
---
srv std_srvs/SetBool
bool data
---
bool success
string message
srv std_srvs/Trigger
---
bool success
string message
srv rosapi/GetTime
---
time time
srv rosapi/TopicType
string topic
---
string type
srv franka_msgs/SetForceTorqueCollisionBehavior
float64[7] lower_torque_thresholds_nominal upper_torque_thresholds_nominal
float64[6] lower_force_thresholds_nominal upper_force_thresholds_nominal
---
bool success
string error
srv franka_msgs/SetFullCollisionBehavior
float64[7] lower_torque_thresholds_acceleration upper_torque_thresholds_acceleration
float64[7] lower_torque_thresholds_nominal upper_torque_thresholds_nominal
float64[6] lower_force_thresholds_acceleration upper_force_thresholds_acceleration
float64[6] lower_force_thresholds_nominal upper_force_thresholds_nominal
---
bool success
string error
msg GRIPPER/GraspEpsilon
float64 inner outer
action GRIPPER/Grasp
float64 width
GRIPPER/GraspEpsilon epsilon
float64 speed force
---
bool success
string error
---
action GRIPPER/Homing
---
bool success
string error
---
action GRIPPER/Move
float64 width speed
---
bool success
string error
---
action franka_msgs/ErrorRecovery
---
---
msg control_msgs/JointTolerance
string name
float64 position velocity acceleration
msg control_msgs/GripperCommand
float64 position max_effort
action control_msgs/GripperCommand
control_msgs/GripperCommand command
---
float64 position effort
bool stalled reached_goal
---
float64 position effort
bool stalled reached_goal
msg franka_msgs/Errors
bool joint_position_limits_violation cartesian_position_limits_violation self_collision_avoidance_violation
bool joint_velocity_violation cartesian_velocity_violation force_control_safety_violation joint_reflex cartesian_reflex
bool max_goal_pose_deviation_violation max_path_pose_deviation_violation cartesian_velocity_profile_safety_violation
bool joint_position_motion_generator_start_pose_invalid joint_motion_generator_position_limits_violation
bool joint_motion_generator_velocity_limits_violation joint_motion_generator_velocity_discontinuity
bool joint_motion_generator_acceleration_discontinuity cartesian_position_motion_generator_start_pose_invalid
bool cartesian_motion_generator_elbow_limit_violation cartesian_motion_generator_velocity_limits_violation
bool cartesian_motion_generator_velocity_discontinuity cartesian_motion_generator_acceleration_discontinuity
bool cartesian_motion_generator_elbow_sign_inconsistent cartesian_motion_generator_start_elbow_invalid
bool cartesian_motion_generator_joint_position_limits_violation
bool cartesian_motion_generator_joint_velocity_limits_violation
bool cartesian_motion_generator_joint_velocity_discontinuity
bool cartesian_motion_generator_joint_acceleration_discontinuity
bool cartesian_position_motion_generator_invalid_frame force_controller_desired_force_tolerance_violation
bool controller_torque_discontinuity start_elbow_sign_inconsistent communication_constraints_violation
bool power_limit_violation joint_p2p_insufficient_torque_for_planning tau_j_range_violation instability_detected
"""

ROS1 = """
srv rosapi/GetParam
string name default
---
string value
srv controller_manager_msgs/SwitchController
string[] start_controllers stop_controllers
int32 strictness
bool start_asap
float64 timeout
---
bool ok
action franka_gripper/Stop
---
bool success
string error
---
action control_msgs/FollowJointTrajectory
trajectory_msgs/JointTrajectory trajectory
control_msgs/JointTolerance[] path_tolerance goal_tolerance
duration goal_time_tolerance
---
int32 error_code
string error_string
---
std_msgs/Header header
string[] joint_names
trajectory_msgs/JointTrajectoryPoint desired actual error
msg franka_msgs/FrankaState
std_msgs/Header header
float64[6] cartesian_collision cartesian_contact
float64[7] q q_d dq dq_d ddq_d theta dtheta tau_J dtau_J tau_J_d
float64[6] K_F_ext_hat_K
float64[2] elbow elbow_d elbow_c delbow_c ddelbow_c
float64[7] joint_collision joint_contact
float64[6] O_F_ext_hat_K O_dP_EE_d
float64[3] O_ddP_O
float64[6] O_dP_EE_c O_ddP_EE_c
float64[7] tau_ext_hat_filtered
float64 m_ee
float64[3] F_x_Cee
float64[9] I_ee
float64 m_load
float64[3] F_x_Cload
float64[9] I_load
float64 m_total
float64[3] F_x_Ctotal
float64[9] I_total
float64[16] O_T_EE O_T_EE_d O_T_EE_c F_T_EE F_T_NE NE_T_EE EE_T_K
float64 time control_command_success_rate
uint8 robot_mode
franka_msgs/Errors current_errors last_motion_errors
"""

ROS2 = """
srv rosapi/GetParam
string name default_value
---
string value
srv controller_manager_msgs/SwitchController
string[] activate_controllers deactivate_controllers start_controllers stop_controllers
int32 strictness
bool start_asap activate_asap
builtin_interfaces/Duration timeout
---
bool ok
msg control_msgs/JointComponentTolerance
string joint_name
uint16 component
float64 position velocity acceleration
action control_msgs/FollowJointTrajectory
trajectory_msgs/JointTrajectory trajectory
trajectory_msgs/MultiDOFJointTrajectory multi_dof_trajectory
control_msgs/JointTolerance[] path_tolerance
control_msgs/JointComponentTolerance[] component_path_tolerance
control_msgs/JointTolerance[] goal_tolerance
control_msgs/JointComponentTolerance[] component_goal_tolerance
builtin_interfaces/Duration goal_time_tolerance
---
int32 error_code
string error_string
---
std_msgs/Header header
string[] joint_names
trajectory_msgs/JointTrajectoryPoint desired actual error
string[] multi_dof_joint_names
trajectory_msgs/MultiDOFJointTrajectoryPoint multi_dof_desired multi_dof_actual multi_dof_error
msg franka_msgs/FrankaState
std_msgs/Header header
float64[6] cartesian_collision cartesian_contact
float64[7] q q_d dq dq_d ddq_d theta dtheta tau_j dtau_j tau_j_d
float64[6] k_f_ext_hat_k
float64[2] elbow elbow_d elbow_c delbow_c ddelbow_c
float64[7] joint_collision joint_contact
float64[6] o_f_ext_hat_k o_dp_ee_d o_dp_ee_c o_ddp_ee_c
float64[7] tau_ext_hat_filtered
float64 m_ee
float64[3] f_x_cee
float64[9] i_ee
float64 m_load
float64[3] f_x_cload
float64[9] i_load
float64 m_total
float64[3] f_x_ctotal
float64[9] i_total
float64[16] o_t_ee o_t_ee_d o_t_ee_c f_t_ee ee_t_k
float64 time control_command_success_rate
uint8 robot_mode
franka_msgs/Errors current_errors last_motion_errors
msg franka_msgs/CollisionIndicators
geometry_msgs/Vector3 is_cartesian_linear_collision is_cartesian_angular_collision
geometry_msgs/Vector3 is_cartesian_linear_contact is_cartesian_angular_contact
float64[7] is_joint_collision is_joint_contact
msg franka_msgs/Elbow
float64[2] position desired_position commanded_position commanded_velocity commanded_acceleration
msg franka_msgs/FrankaRobotState
std_msgs/Header header
franka_msgs/CollisionIndicators collision_indicators
sensor_msgs/JointState measured_joint_state desired_joint_state measured_joint_motor_state
float64[7] ddq_d dtau_j
sensor_msgs/JointState tau_ext_hat_filtered
franka_msgs/Elbow elbow
geometry_msgs/WrenchStamped k_f_ext_hat_k o_f_ext_hat_k
geometry_msgs/InertiaStamped inertia_ee inertia_load inertia_total
geometry_msgs/PoseStamped o_t_ee o_t_ee_d o_t_ee_c f_t_ee ee_t_k
geometry_msgs/TwistStamped o_dp_ee_d o_dp_ee_c
geometry_msgs/AccelStamped o_ddp_ee_c
float64 time control_command_success_rate
uint8 robot_mode
franka_msgs/Errors current_errors last_motion_errors
"""
GRIPPER = {"ros1": "franka_gripper", "ros2": "franka_msgs"}  # the package that it lives in

INTEGERS = {"int8": "b", "uint8": "B", "char": "B", "int16": "h", "uint16": "H", "int32": "i", "uint32": "I",
            "int64": "q", "uint64": "Q"}  # fmt: skip
FLOATS = {"float32": "f", "float64": "d"}
IN_ROS2 = {"bool": "boolean", "float64": "double", "float32": "float", "byte": "octet"}  # as its errors name them


class Wrong(ValueError):
    """What a field was given is not of its type."""

    def __init__(self, expected: str, found: Any):
        super().__init__()
        self.path, self.expected, self.found = [], expected, found


class Slot(NamedTuple):
    """`read` makes of JSON what a node receives, or raises; `fresh` is what is there if nothing is given."""

    read: Callable[[Any], Any]
    fresh: Callable[[], Any]


class Definitions:
    """All types of a dialect, ros1 or ros2."""

    def __init__(self, dialect: str):
        if dialect not in GRIPPER:
            raise ValueError(f"dialect={dialect}: it is ros1 or ros2")
        self.dialect, self.ros1 = dialect, dialect == "ros1"
        store = get_typestore(Stores.ROS1_NOETIC if self.ros1 else Stores.ROS2_HUMBLE)
        self.fields = {_short(name): fields for name, (_, fields) in store.fielddefs.items()}
        self.kinds = {name: "msg" for name in self.fields}  # of what may be asked for by name
        text = BOTH.replace("GRIPPER", GRIPPER[dialect]) + (ROS1 if self.ros1 else ROS2)
        for block in re.split(r"^(?=msg|srv|action)", text, flags=re.M)[1:]:
            self._define(block)
        self.slots: dict[str, Slot] = {}

    def _define(self, block: str) -> None:
        (kind, name), *rest = (line.split() for line in block.split("\n") if line)
        parts: list[list[str]] = [[]]
        for type_, *names in rest:
            if type_ == "---":
                parts.append([])
            parts[-1] += [f"{type_} {field}" for field in names]
        if kind != "msg":
            self.kinds[f"{kind} {name}"] = kind
        if kind == "msg":
            self._add(name, parts[0])
        elif kind == "srv":
            for part, lines in zip(("Request", "Response"), parts, strict=True):
                self._add(self.part(name, part), lines)
        else:
            for part, lines in zip(("Goal", "Result", "Feedback"), parts, strict=True):
                self._add(self.part(name, part), lines)
                if self.ros1:  # the topics of actionlib
                    about = ["actionlib_msgs/GoalID goal_id" if part == "Goal" else "actionlib_msgs/GoalStatus status"]
                    about = ["std_msgs/Header header", *about, f"{name}{part} {part.lower()}"]
                    self._add(f"{name}Action{part}", about)

    def _add(self, name: str, lines: list[str]) -> None:
        package, type_ = name.split("/")
        ((_, fields),) = get_types_from_msg("\n".join(lines), f"{package}/msg/{type_}").values()
        self.fields[name], self.kinds[name] = fields, "msg"

    def part(self, type_: str, part: str) -> str:
        """The type of a part (Request, Response, Goal, Result, Feedback) of a service's or an action's."""
        return f"{self.short(type_)}{'' if self.ros1 else '_'}{part}"

    def short(self, type_: str) -> str:
        """pkg/Name: what ROS 1 calls a type, and ROS 2 pkg/msg/Name. Raises ValueError."""
        package, *middle, name = type_.split("/") if type_.count("/") else ("", type_)
        if not package or len(middle) > 1 or (middle and (self.ros1 or middle[0] not in ("msg", "srv", "action"))):
            raise ValueError(f"{type_} is not a valid type string")
        return f"{package}/{name}"

    def name(self, type_: str, kind: str = "msg") -> str:
        """A type's own name in this dialect. Raises ValueError where there is none such."""
        short = self.short(type_)
        if self.kinds.get(short if kind == "msg" else f"{kind} {short}") != kind:
            raise ValueError(f"there is no {kind} type {type_}")
        return short if self.ros1 else short.replace("/", f"/{kind}/")

    def stamped(self, type_: str) -> bool:
        """Whether the type begins with a header, whose `seq` a ROS 1 publisher counts."""
        fields = self.fields[self.short(type_)]
        return bool(fields) and fields[0] == ("header", (Nodetype.NAME, "std_msgs/msg/Header"))

    def listed(self, type_: str, args: Any) -> dict[str, Any]:
        """Arguments by name: given so, or in order; anything else counts as none."""
        if isinstance(args, list):
            return dict(zip((name for name, _ in self._of(self.short(type_))), args, strict=False))
        return args if isinstance(args, dict) else {}

    def validated(self, type_: str, message: Any) -> dict[str, Any]:
        """The whole message that a node receives; uint8[] as bytes. Raises ValueError in the bridge's own words."""
        root = self.short(type_)
        if root not in self.fields:
            raise ValueError(f"there is no type {type_}")
        try:
            return self._slot(root).read(message)
        except Wrong as error:
            if not error.expected:
                why = f"Message type {root} does not have a field {'.'.join(error.path)}"
            elif not error.path:
                why = f"Expected a JSON object for type {root} but received a {type(error.found)}"
            else:
                expected = error.expected if self.ros1 else IN_ROS2.get(error.expected, error.expected)
                where = ".".join(error.path)
                why = f"{root} message requires a {expected} for field {where}, but got a {type(error.found)}"
            raise ValueError(why) from None
        except (TypeError, OverflowError, struct.error) as error:
            raise ValueError(f"{root}: {error}") from None

    def _of(self, name: str) -> list[tuple[str, Any]]:
        return [(field, of) for field, of in self.fields[name] if field != "structure_needs_at_least_one_member"]

    def _slot(self, name: str) -> Slot:
        if name not in self.slots:
            self.slots[name] = self._message(name)
        return self.slots[name]

    def _message(self, name: str) -> Slot:
        if name in ("builtin_interfaces/Time", "builtin_interfaces/Duration"):
            zero = self._moment(0)
            return Slot(lambda value: self._time(name, value, zero), lambda: dict(zero))
        slots = {field: self._field(of) for field, of in self._of(name)}
        if name == "geometry_msgs/Quaternion" and not self.ros1:
            slots["w"] = Slot(slots["w"].read, lambda: 1.0)  # the default that its definition gives
        header = name == "std_msgs/Header"

        def fresh() -> dict[str, Any]:
            return {field: slot.fresh() for field, slot in slots.items()}

        def read(value: Any) -> dict[str, Any]:
            if not isinstance(value, dict):
                raise Wrong(name, value)
            message = fresh()
            if header:  # now, unless it is said; a header that is left out has no time at all
                message["stamp"] = self._moment(time.time_ns())
            for field, given in value.items():
                try:
                    if field not in slots:
                        raise Wrong("", given)
                    if header and field == "stamp":
                        message[field] = self._time("builtin_interfaces/Time", given, message[field])
                    else:
                        message[field] = slots[field].read(given)
                except Wrong as error:
                    error.path.insert(0, field)
                    raise
            return message

        return Slot(read, fresh)

    def _moment(self, ns: int) -> dict[str, int]:
        names = ("secs", "nsecs") if self.ros1 else ("sec", "nanosec")
        return dict(zip(names, divmod(ns, 10**9), strict=True))

    def _time(self, name: str, value: Any, otherwise: dict[str, int]) -> dict[str, int]:
        """A time or duration in the dialect's spelling. What is left out stays, and other keys count for nothing."""
        if value == "now" and name.endswith("Time"):
            return self._moment(time.time_ns())
        if not isinstance(value, dict):
            if self.ros1 or isinstance(value, str | list):
                return dict(otherwise)
            raise Wrong(name, value)
        (first, s), (second, ns) = otherwise.items()
        s = value.get(first, s if self.ros1 else value.get("secs", s))
        ns = value.get(second, ns if self.ros1 else value.get("nsecs", ns))
        if not self.ros1:
            struct.pack("=iI", s, ns)
            return {first: s, second: ns}
        struct.pack("=II" if name.endswith("Time") else "=ii", s, ns)
        return {first: s + ns // 10**9, second: ns % 10**9}

    def _field(self, of: Any) -> Slot:
        kind, what = of
        if kind == Nodetype.BASE:
            return self._scalar(what[0])
        if kind == Nodetype.NAME:
            return self._slot(_short(what))
        element, length = what
        return self._list(element, length if kind == Nodetype.ARRAY else None)

    def _scalar(self, kind: str) -> Slot:
        if kind == "bool":
            return Slot(lambda value: _of(bool, value, kind), lambda: False)
        if kind in ("string", "wstring"):
            return Slot(lambda value: _of(str, value, kind), lambda: "")
        if kind in FLOATS:
            return Slot(lambda value: self._float(kind, value), lambda: 0.0)
        code = INTEGERS.get(kind) or ("b" if self.ros1 else "B")  # byte

        def read(value: Any) -> int:
            if isinstance(value, bool) or not isinstance(value, int):
                raise Wrong(kind, value)
            struct.pack(f"={code}", value)
            return value

        return Slot(read, lambda: 0)

    def _float(self, kind: str, value: Any) -> float:
        if not isinstance(value, float) and (not isinstance(value, int) or (self.ros1 and isinstance(value, bool))):
            raise Wrong(kind, value)
        return struct.unpack("=f", struct.pack("=f", value))[0] if kind == "float32" else float(value)

    def _list(self, element: Any, length: int | None) -> Slot:
        slot, base = self._field(element), element[1][0] if element[0] == Nodetype.BASE else None
        code = {**INTEGERS, **FLOATS}.get(base or "")
        binary = base in ("uint8", "char")

        def read(value: Any) -> Any:
            if isinstance(value, np.ndarray):  # a node of ours
                value = value.tolist()
            if binary:
                values = _bytes(value)
            elif not isinstance(value, list | tuple):
                raise Wrong(f"{base or element[1]}[]", value)
            elif code and not self.ros1 and length is not None and value:
                filled = np.zeros(length, code)
                filled[:] = value  # as rclpy does: one number fills them all
                values = filled.tolist()
            elif code and not self.ros1:
                values = array(code, value).tolist()
            else:
                values = [slot.read(one) for one in value]
            if length is not None and len(values) != length:
                raise TypeError(f"{len(values)} values for {length}")
            return values

        def fresh() -> Any:
            return bytes(length or 0) if binary else [slot.fresh() for _ in range(length or 0)]

        return Slot(read, fresh)


@cache
def load(dialect: str) -> Definitions:
    """The types of a dialect, ros1 or ros2; read once."""
    return Definitions(dialect)


def outgoing(value: Any) -> Any:
    """A node's message as it goes out: bytes in base64, and null for what JSON has no number for."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: outgoing(one) for name, one in value.items()}
    if isinstance(value, list):
        return [outgoing(one) for one in value]
    return base64.standard_b64encode(value).decode() if isinstance(value, bytes) else value


def _short(name: str) -> str:
    return name.replace("/msg/", "/")


def _of(type_: type, value: Any, kind: str) -> Any:
    if not isinstance(value, type_):
        raise Wrong(kind, value)
    return value


def _bytes(value: Any) -> bytes:
    if isinstance(value, str):
        return base64.standard_b64decode(value)  # binascii.Error is a ValueError
    if not isinstance(value, bytes | bytearray | list | tuple):
        raise Wrong("uint8[]", value)
    return bytes(value)

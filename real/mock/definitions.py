"""Message, service and action types of ROS 1 and ROS 2, and what a bridge makes of the JSON it is given for them.

The standard ones come from `rosbags`; those of the arm and its controllers stand in types/, where a line may name
several fields. A part of a service or an action is a type of its own, named as the bridge's errors name it.
"""

import base64
import math
import re
import struct
import time
from array import array
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rosbags.interfaces import Nodetype
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

TYPES = Path(__file__).parent / "types"
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
    """`read` makes of JSON what a node receives, or raises; `make_default` is what is there if nothing is given."""

    read: Callable[[Any], Any]
    make_default: Callable[[], Any]


class Definitions:
    """All types of a dialect, ros1 or ros2."""

    def __init__(self, dialect: str):
        if dialect not in GRIPPER:
            raise ValueError(f"dialect={dialect}: it is ros1 or ros2")
        self.dialect, self.ros1 = dialect, dialect == "ros1"
        store = get_typestore(Stores.ROS1_NOETIC if self.ros1 else Stores.ROS2_HUMBLE)
        self.fields = {_short(name): fields for name, (_, fields) in store.fielddefs.items()}
        self.kinds = {name: "msg" for name in self.fields}  # of what may be asked for by name
        both, own = ((TYPES / f"{name}.txt").read_text() for name in ("both", dialect))
        text = both.replace("GRIPPER", GRIPPER[dialect]) + own
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

    def has_header(self, type_: str) -> bool:
        """Whether the type begins with a header, whose `seq` a ROS 1 publisher counts."""
        fields = self.fields[self.short(type_)]
        return bool(fields) and fields[0] == ("header", (Nodetype.NAME, "std_msgs/msg/Header"))

    def name_arguments(self, type_: str, args: Any) -> dict[str, Any]:
        """Arguments by name: given so, or in order; anything else counts as none."""
        if isinstance(args, list):
            return dict(zip((name for name, _ in self._of(self.short(type_))), args, strict=False))
        return args if isinstance(args, dict) else {}

    def validate(self, type_: str, message: Any) -> dict[str, Any]:
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

        def make_default() -> dict[str, Any]:
            return {field: slot.make_default() for field, slot in slots.items()}

        def read(value: Any) -> dict[str, Any]:
            if not isinstance(value, dict):
                raise Wrong(name, value)
            message = make_default()
            if header:  # now, unless it is given; a header that is left out has no time at all
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

        return Slot(read, make_default)

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

        def make_default() -> Any:
            return bytes(length or 0) if binary else [slot.make_default() for _ in range(length or 0)]

        return Slot(read, make_default)


@cache
def load(dialect: str) -> Definitions:
    """The types of a dialect, ros1 or ros2; read once."""
    return Definitions(dialect)


def encode(value: Any) -> Any:
    """A node's message as it goes out: bytes in base64, and null for what JSON has no number for."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: encode(one) for name, one in value.items()}
    if isinstance(value, list):
        return [encode(one) for one in value]
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

"""What a robot offers: a description of itself, its newest state, commands, and a stop. Drivers implement it.

`real/drivers/ros.py` is one for arms behind ROS, `real/drivers/libfranka.py` one for Franka arms without it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from robots.arm import Arm
from robots.observations import layout

MODES = ("other", "idle", "move", "guiding", "reflex", "user_stopped", "recovering")  # as Franka numbers them


class Reading(NamedTuple):
    """Where part of a state came from, and when."""

    topic: str
    stamp: float | None  # s, by the robot's clock; None: its messages have no time
    t: float  # s, `time.monotonic`, when it came
    latest_s: float  # an older one holds the arm; infinite: it comes when it changes, and its age says nothing


class State(NamedTuple):
    """The robot's newest state. `t_robot` is by its clock; `t` by ours, `time.monotonic`, when it came; both in s."""

    q: np.ndarray  # [J] rad
    dq: np.ndarray  # [J] rad/s
    width: float  # m, of the gripper
    mode: str  # of MODES
    force: float  # N, the estimated contact's
    success_rate: float  # share of commands that reached the arm's own loop; 1 where the arm does not measure it
    objects: np.ndarray  # [N, 7]: m, quaternion
    goal: np.ndarray  # [3] m
    t_robot: float
    t: float
    readings: tuple[Reading, ...] = ()  # of all topics, the joints' first; none: of one source, of t_robot and t


class StateError(ValueError):
    """No state that can be used: `fault` is the word for the record, the message a sentence."""

    def __init__(self, fault: str, sentence: str):
        super().__init__(sentence)
        self.fault = fault


class RobotError(RuntimeError):
    """The robot, or the way to it, did not do what it was asked."""


class Motion(NamedTuple):
    """Joint positions, velocities and accelerations, [J] each: rad, rad/s, rad/s²."""

    q: np.ndarray
    dq: np.ndarray
    ddq: np.ndarray

    @classmethod
    def at_rest(cls, q: np.ndarray) -> "Motion":
        """At joint positions [J], without velocity."""
        return cls(np.array(q, float), np.zeros(len(q)), np.zeros(len(q)))

    @property
    def is_finite(self) -> bool:
        """Whether all numbers are."""
        return all(np.isfinite(part).all() for part in self)


Braking = Sequence[tuple[float, Motion]]  # to rest: s after a motion, and the motion by then


class Command(NamedTuple):
    """A motion, and how the arm brakes from there if no more commands arrive. `t`: wall clock in s; None: now."""

    motion: Motion
    braking: Braking = ()
    t: float | None = None


class Applied(NamedTuple):
    """What was really sent: joint positions [J], and the stamp (wall clock, s) that a command's echo carries."""

    q: np.ndarray
    stamp: float


@dataclass(frozen=True)
class RobotSpec:
    """A robot as its user must know it; from robots/<name>/arm.yaml and configs/robot/<name>.yaml."""

    arm: Arm  # joints, limits, gripper, rates of the arm itself
    cameras: tuple[str, ...]  # names of images in an observation
    objects: int  # whose poses are observed
    goal: bool  # whether a goal is observed
    command_hz: float
    latest_state_s: float  # an older state of the joints holds the arm
    valid_s: float | None  # a command is reached within this time after it was sent; None: when the driver plans it
    has_echo: bool  # commands come back, so that a lost one and those of others are noticed
    is_exclusive: bool  # one process at a time may be connected

    @property
    def layout(self) -> dict[str, slice]:
        """The observation of its state, by name."""
        return layout([f"object_{i}" for i in range(self.objects)], self.goal)


class Robot(Protocol):
    """One arm with its gripper. Methods may be called from any thread; none but `connect` and `stop` waits long."""

    spec: RobotSpec
    clock: Callable[[], float]  # wall clock, s: stamps commands

    def connect(self, timeout_s: float) -> None:
        """Waits until the robot answers. Raises UserError."""
        ...

    def observe(self) -> State:
        """The newest state. Raises StateError."""
        ...

    def apply(self, command: Command) -> Applied | None:
        """Sends a command; what was really sent last, or None: nothing was. Returns at once."""
        ...

    def echo(self) -> float | None:
        """The stamp of the last command that came back; without an echo, of the last that was taken."""
        ...

    def grip(self, close: bool) -> None:
        """Closes or opens the gripper, if it is not doing so already. Returns at once."""
        ...

    def start(self) -> None:
        """Begins to take commands. Raises RobotError."""
        ...

    def stop(self) -> None:
        """Takes no more commands: the arm brakes and holds. Raises RobotError."""
        ...

    def find_other_messages(self) -> list[str]:
        """What else came on the robot's topics and was left out, such as another node's joints: sentences."""
        ...

    def description(self) -> str:
        """The arm's URDF, as the robot has it. Raises RobotError."""
        ...

    def close(self) -> None:
        """Ends the connection."""
        ...


def make_spec(arm: Arm, settings: dict[str, Any], *, has_echo: bool, is_exclusive: bool) -> RobotSpec:
    """The spec of an arm with settings as in configs/robot."""
    valid_s = settings.get("valid_s")
    return RobotSpec(
        arm=arm,
        cameras=tuple(settings.get("cameras") or ()),
        objects=int(settings["objects"]),
        goal=bool(settings["goal"]),
        command_hz=float(settings["command_hz"]),
        latest_state_s=float(settings["latest_state_s"]),
        valid_s=None if valid_s is None else float(valid_s),
        has_echo=has_echo,
        is_exclusive=is_exclusive,
    )


def check_finite(state: State) -> State:
    """The state itself. Raises ValueError where its numbers are not finite."""
    numbers = (state.q, state.dq, state.width, state.force, state.objects, state.goal)
    if not all(np.isfinite(part).all() for part in numbers) or not math.isfinite(state.t_robot):
        raise ValueError("a number that is not finite")
    return state

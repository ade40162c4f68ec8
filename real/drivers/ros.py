"""A Franka arm behind rosbridge: what it says, checked, and what it is told, stamped.

Three sockets, since a bridge may serve one in order: state and commands, stop, actions. A command is a joint
trajectory: the motion that it is for and the way from there to rest, so that an arm that hears no more brakes as it was
planned. Points have times on the clock, and the arm's trajectory controller drops those that have passed: a command
whose way is over moves nothing. One that is late and not over finds the arm on the way to rest that it was told before:
that there is no more than one such command, and little between the two ways, `real.control` sees to.
"""

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pbrl.types import UserError
from real.link import BridgeError, Latest, Link, linked
from real.safety import Motion, Settings, Way
from robots.arm import Arm

if TYPE_CHECKING:
    from real.libfranka import Libfranka

MODES = ("other", "idle", "move", "guiding", "reflex", "user_stopped", "recovering")  # Franka's, by number


class State(NamedTuple):
    """What the arm said last. `t_robot`: its clock; `t`: ours, `time.monotonic`, when it came; both in s."""

    q: np.ndarray  # [7] rad
    dq: np.ndarray  # [7] rad/s
    width: float  # m, of the gripper
    mode: str  # of MODES
    force: float  # N, the estimated contact's
    success_rate: float  # share of commands that reached the arm's own loop
    objects: np.ndarray  # [N, 7]: m, quaternion
    goal: np.ndarray  # [3] m
    t_robot: float
    t: float


class BadState(ValueError):
    """The arm said what cannot be: a word for the record, and a sentence."""

    def __init__(self, word: str, sentence: str):
        super().__init__(sentence)
        self.word = word


class Driver:
    """Reads and commands one arm. `settings` as in configs/robot; `clock` is the wall clock that stamps commands."""

    shared = True  # several processes may each have one

    def __init__(
        self,
        arm: Arm,
        settings: dict[str, Any],
        clock: Callable[[], float] = time.time,
        connect: Callable[[str], Link] | None = None,
    ):
        self.arm, self.settings, self.clock = arm, settings, clock
        self.ros1 = settings["dialect"] == "ros1"
        connect, url = connect or linked(settings), settings["url"]
        self.stream, self.halt, self.actions = connect(url), connect(url), connect(url)
        self.topics = {name: (topic, type_) for name, (topic, type_) in settings["topics"].items()}
        heard = ["joint_states", "arm", "gripper", *(name for name in ("objects", "goal") if settings[name])]
        self.heard: dict[str, Latest] = {name: self.stream.subscribe(*self.topics[name]) for name in heard}
        self.echoed = self.stream.subscribe(*self.topics["command"])
        self.stream.advertise(*self.topics["command"])
        if self.ros1:
            for name in ("move", "grasp"):
                self.actions.advertise(*self.topics[name])
        self.closed_gripper: bool | None = None

    def wait(self, timeout_s: float) -> None:
        """Until all sockets are open. Raises UserError."""
        for socket in (self.stream, self.halt, self.actions):
            socket.wait(timeout_s)

    def state(self) -> State:
        """The newest of every topic. Raises BadState."""
        said = {}
        for name, latest in self.heard.items():
            message, t = latest.heard
            if message is None:
                raise BadState("no_state", f"nothing has come on {self.topics[name][0]}")
            said[name] = message, t
        try:
            return self._parsed(said)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise BadState("bad_state", f"a state that cannot be read: {error!r}") from error

    def _parsed(self, said: dict[str, tuple[dict[str, Any], float]]) -> State:
        joints, t = said["joint_states"]
        franka, fingers = said["arm"][0], said["gripper"][0]
        order = [joints["name"].index(name) for name in self.settings["joints"]]  # whichever order they come in
        q = np.array([joints["position"][i] for i in order], float)  # None: the bridge's word for NaN
        dq = np.array([joints["velocity"][i] for i in order], float)
        contact = np.array(franka["O_F_ext_hat_K" if self.ros1 else "o_f_ext_hat_k"], float)
        objects, goal = np.zeros((0, 7)), np.zeros(3)
        if self.settings["objects"]:
            poses = [(p["position"], p["orientation"]) for p in said["objects"][0]["poses"]]
            objects = np.array([[*(p[k] for k in "xyz"), *(r[k] for k in "wxyz")] for p, r in poses], float)
            if len(objects) != self.settings["objects"]:
                raise ValueError(f"{len(objects)} objects instead of {self.settings['objects']}")
        if self.settings["goal"]:
            goal = np.array([said["goal"][0]["point"][k] for k in "xyz"], float)
        state = State(
            q, dq, float(sum(fingers["position"])), MODES[franka["robot_mode"]], float(np.linalg.norm(contact[:3])),
            float(franka["control_command_success_rate"]), objects, goal, self._seconds(joints["header"]["stamp"]), t,
        )  # fmt: skip
        numbers = [state.q, state.dq, state.width, state.force, state.objects, state.goal]
        if not all(np.isfinite(part).all() for part in numbers):
            raise ValueError("a number that is none")
        return state

    def command(self, motion: Motion, way: Way = (), t: float | None = None) -> float | None:
        """Sends a motion to be reached `valid_s` after `t` (our wall clock; None: now), and the way from there to rest.
        Its stamp, or None where the link does not take it."""
        now = self._time(self.clock() if t is None else t)
        begin = self.settings["valid_s"]
        points = [(begin, motion), *((begin + after, braked) for after, braked in way)]
        message = {
            "header": {"stamp": now}, "joint_names": self.settings["joints"],
            "points": [{"positions": short(at.q), "velocities": short(at.dq), "accelerations": short(at.ddq),
                        "time_from_start": self._time(t)} for t, at in points],
        }  # fmt: skip
        return self._seconds(now) if self.stream.publish(self.topics["command"][0], message) else None

    def echo(self) -> float | None:
        """The stamp of the last command that came back from the bridge: it drops what it does not like in silence."""
        message, _ = self.echoed.heard
        return None if message is None else self._seconds(message["header"]["stamp"])

    def grip(self, close: bool) -> None:
        """Closes or opens the gripper, if it is not told so already; it takes its time."""
        if close == self.closed_gripper:
            return
        gripper = self.arm.gripper
        goal: dict[str, Any] = {"width": 0.0 if close else gripper["width"], "speed": gripper["speed"]}
        if close:
            goal |= {"force": gripper["force"] / 2, "epsilon": {"inner": gripper["width"], "outer": gripper["width"]}}
        if self._act("grasp" if close else "move", goal):
            self.closed_gripper = close

    def start(self) -> None:
        """Begins to take commands. Raises BridgeError."""
        self._switch("start")

    def stop(self) -> None:
        """Takes no more commands: the arm brakes and holds. On a socket of its own. Raises BridgeError."""
        self._switch("stop")

    def description(self) -> str:
        """The arm's URDF, as the robot has it. Raises BridgeError."""
        service, args, _ = self.settings["services"]["description"]
        return str(self.halt.call(service, args, 5.0).get("value", ""))

    def close(self) -> None:
        for socket in (self.stream, self.halt, self.actions):
            socket.close()

    def _switch(self, name: str) -> None:
        service, args, _ = self.settings["services"][name]
        if not self.halt.call(service, args, 1.0).get("ok"):
            raise BridgeError(f"{service} refused to {name} the controller")

    def _act(self, name: str, goal: dict[str, Any]) -> bool:
        topic, type_ = self.topics[name]
        if self.ros1:
            stamp = self._time(self.clock())
            return self.actions.publish(topic, {"header": {"stamp": stamp}, "goal_id": {"stamp": stamp}, "goal": goal})
        return self.actions.act(topic, type_, goal)

    def _time(self, seconds: float) -> dict[str, int]:
        whole = math.floor(seconds)
        second, nano = ("secs", "nsecs") if self.ros1 else ("sec", "nanosec")
        return {second: whole, nano: int((seconds - whole) * 1e9)}

    def _seconds(self, stamp: dict[str, int]) -> float:
        second, nano = ("secs", "nsecs") if self.ros1 else ("sec", "nanosec")
        return stamp[second] + stamp[nano] * 1e-9


def short(values: np.ndarray) -> list[float]:
    """As numbers of few digits: a frame is sent a hundred times a second."""
    return np.round(values, 9).tolist()


def connect(arm: Arm, settings: dict[str, Any], safe: Settings) -> "Driver | Libfranka":
    """The driver that a robot's settings name, not yet connected: see its `wait`. Raises UserError."""
    if settings["driver"] == "libfranka":
        from real.libfranka import Libfranka

        return Libfranka(arm, settings, safe)
    if settings["driver"] != "rosbridge":
        raise UserError(f"driver: {settings['driver']}: it is rosbridge or libfranka")
    return Driver(arm, settings)

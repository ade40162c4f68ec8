"""An arm behind ROS: its messages, checked, and stamped trajectories for its controller.

Four links. A bridge may serve one in order: stop and actions have their own. And a command that comes back would wait
for the acknowledgement of the state that was sent before it on the same socket, up to 40 ms where the bridge's sockets
have Nagle's algorithm on: states have their own too. A command is a joint trajectory:
the motion and how the arm brakes from there to rest, so that an arm without commands brakes as it was planned. Points
have times on the clock, and the arm's trajectory controller drops those that have passed: a command whose braking is
over moves nothing. One that is late and not over finds the arm braking as the command before has it: that there is no
more than one such command, and little between the two, `real.control` sees to.
"""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from real.drivers.messages import (
    UNREADABLE,
    ArmStatus,
    describe_error,
    gripper_actions,
    gripper_goal,
    gripper_width,
    is_finite,
    joint_values,
    message_time,
    missing_joints,
    parse_poses,
    status_reader,
    to_seconds,
    to_stamp,
)
from real.robot import Applied, Command, Motion, Reading, RobotSpec, State, StateError, make_spec
from real.transports import link_opener
from real.transports.link import Latest, Link, LinkError, Selected
from robots.arm import Arm

Message = dict[str, Any]
SPACING_S = 1e-3  # between a trajectory's points: controllers refuse times that do not increase
SWITCH_S = 3.0  # the longest that a controller may take to start or stop
RUNNING = ("running", "active")  # a controller's state, on ROS 1 and ROS 2


class RosDriver:
    """A `Robot` over ROS. `settings` as in configs/robot; `clock` is the wall clock that stamps commands.

    Raises UserError for a transport or a message type that there is not.
    """

    def __init__(
        self,
        arm: Arm,
        settings: dict[str, Any],
        clock: Callable[[], float] = time.time,
        open_link: Callable[[str], Link] | None = None,
    ):
        self.arm, self.settings, self.clock = arm, settings, clock
        self.spec: RobotSpec = make_spec(arm, settings, has_echo=True, is_exclusive=False)
        self.ros1 = settings["dialect"] == "ros1"
        self.topics = {name: (topic, type_) for name, (topic, type_) in settings["topics"].items()}
        self.read_status = status_reader(self.topics["arm"][1])
        open_link, url = open_link or link_opener(settings), settings["url"]
        self.states, self.stream, self.halt, self.actions = (open_link(url) for _ in range(4))
        self.joints = {"joint_states": arm.joints, "gripper": arm.gripper.joints}  # that are read from a topic
        self.latest: dict[str, Latest | Selected] = {}
        self.limits: dict[str, float] = {}  # s, how old a message may be
        self._subscribe()
        self.closed_gripper: bool | None = None

    def _subscribe(self) -> None:
        names = ["joint_states", "arm", "gripper", *(name for name in ("wrench",) if name in self.topics)]
        names += [name for name in ("objects", "goal") if self.settings[name]]
        limits = {"joint_states": self.spec.latest_state_s, **self.settings.get("latest_s", {})}
        for name in names:
            latest = self.states.subscribe(*self.topics[name])
            self.latest[name] = latest.select(has_joints(self.joints[name])) if name in self.joints else latest
            limit = limits.get(name, self.spec.latest_state_s)
            self.limits[name] = math.inf if limit is None else float(limit)
        self.echoes = self.stream.subscribe(*self.topics["command"])
        self.stream.advertise(*self.topics["command"])
        if self.ros1:  # actions of ROS 1 are topics
            for name in gripper_actions(self.topics):
                self.actions.advertise(*self.topics[name])

    def connect(self, timeout_s: float) -> None:
        """Waits until all links are open. Raises UserError."""
        for link in (self.states, self.stream, self.halt, self.actions):
            link.wait(timeout_s)

    def observe(self) -> State:
        """The newest message of every topic. Raises StateError."""
        received = {name: latest.received for name, latest in self.latest.items()}
        missing = [self._nothing_came(name) for name, (message, _) in received.items() if message is None]
        if missing:
            raise min(missing, key=lambda error: error.fault != "no_state")
        messages: dict[str, Message] = {}
        readings = []
        for name, (message, t) in received.items():
            assert message is not None
            stamp = self._read(lambda message=message: message_time(message, self.ros1), name)
            messages[name] = message
            readings.append(Reading(self._label(name), stamp, t, self.limits[name]))
        if readings[0].stamp is None:
            topic = self.topics["joint_states"][0]
            raise StateError("bad_state", f"messages on {topic} have no time (stamp 0): let their publisher set it")
        return self._parse(messages, readings, readings[0].stamp)

    def _parse(self, messages: dict[str, Message], readings: list[Reading], t_robot: float) -> State:
        joints, gripper = messages["joint_states"], messages["gripper"]
        q = self._read(lambda: joint_values(joints, "position", self.arm.joints), "joint_states")
        dq = self._read(lambda: joint_values(joints, "velocity", self.arm.joints), "joint_states")
        sources = [name for name in ("arm", "wrench") if name in self.latest]
        status: ArmStatus = self._read(lambda: self.read_status(messages, self.ros1), *sources)
        objects, goal = np.zeros((0, 7)), np.zeros(3)
        if self.settings["objects"]:
            objects = self._read(lambda: parse_poses(messages["objects"], self.settings["objects"]), "objects")
        if self.settings["goal"]:
            goal = self._read(lambda: np.array([messages["goal"]["point"][k] for k in "xyz"], float), "goal")
        return State(
            q=q,
            dq=dq,
            width=self._read(lambda: gripper_width(gripper, self.arm.gripper), "gripper"),
            mode=status.mode,
            force=status.force,
            success_rate=status.success_rate,
            objects=objects,
            goal=goal,
            t_robot=t_robot,
            t=readings[0].t,
            readings=tuple(readings),
        )

    def _read(self, parse: Callable[[], Any], *names: str) -> Any:
        """What `parse` makes of the topics' messages. Raises StateError, which names them, also for what is not
        finite."""
        topic, type_ = (" or ".join(self.topics[name][i] for name in names) for i in (0, 1))
        try:
            found = parse()
        except UNREADABLE as error:
            raise StateError(
                "bad_state", f"a message on {topic} cannot be read as {type_}: {describe_error(error)}"
            ) from error
        if not is_finite(found):
            raise StateError("bad_state", f"a number on {topic} is not finite")
        return found

    def _nothing_came(self, name: str) -> StateError:
        topic, latest = self.topics[name][0], self.latest[name]
        if isinstance(latest, Selected) and latest.other is not None:
            wanted = ", ".join(self.joints[name])
            return StateError("bad_state", f"no message on {topic} has all of {wanted}: {describe(latest)}")
        return StateError("no_state", f"nothing has come on {topic}")

    def _label(self, name: str) -> str:
        """A topic's name; of one that is read for two things, with which of them."""
        topic = self.topics[name][0]
        shared = sum(self.topics[other][0] == topic for other in self.latest) > 1
        return f"{topic} ({name})" if shared else topic

    def find_other_messages(self) -> list[str]:
        """Of each topic of joint states how many messages have none of the joints that are read from there."""
        return [
            f"{latest.others} of {latest.others + latest.wanted} messages on {self.topics[name][0]} are left out: "
            f"{describe(latest)}"
            for name, latest in self.latest.items()
            if isinstance(latest, Selected) and latest.others and self._label(name) == self.topics[name][0]
        ]

    def apply(self, command: Command) -> Applied | None:
        """Sends a motion to be reached `valid_s` after the command's time, and the braking from there.

        None where the link does not take it.
        """
        stamp = to_stamp(self.clock() if command.t is None else command.t, self.ros1)
        begin = self.settings["valid_s"]
        message = {
            "header": {"stamp": stamp},
            "joint_names": list(self.arm.joints),
            "points": [
                {
                    "positions": round_values(motion.q),
                    "velocities": round_values(motion.dq),
                    "accelerations": round_values(motion.ddq),
                    "time_from_start": to_stamp(begin + after, self.ros1),
                }
                for after, motion in space_points([(0.0, command.motion), *command.braking])
            ],
        }
        if not self.stream.publish(self.topics["command"][0], message):
            return None
        return Applied(command.motion.q, to_seconds(stamp, self.ros1))

    def echo(self) -> float | None:
        """The stamp of the last command that came back from the bridge, which drops what it cannot read in silence."""
        message, _ = self.echoes.received
        if message is None:
            return None
        try:
            return message_time(message, self.ros1) or 0.0  # another client's, which may set none
        except UNREADABLE:
            return 0.0

    def grip(self, close: bool) -> None:
        """Closes or opens the gripper, if it is not doing so already; it takes its time."""
        if close == self.closed_gripper:
            return
        name, goal = gripper_goal(self.topics, self.arm.gripper, close)
        if self._act(name, goal):
            self.closed_gripper = close

    def start(self) -> None:
        """Begins to take commands. Raises LinkError."""
        self._switch("start")

    def stop(self) -> None:
        """Takes no more commands: the arm brakes and holds. On a link of its own. Raises LinkError."""
        self._switch("stop")

    def description(self) -> str:
        """The arm's URDF, as the robot has it. Raises LinkError."""
        service, args, _ = self.settings["services"]["description"]
        return str(self.halt.call(service, args, 5.0).get("value", ""))

    def close(self) -> None:
        """Ends the connection."""
        for link in (self.states, self.stream, self.halt, self.actions):
            link.close()

    def _switch(self, name: str) -> None:
        service, args, _ = self.settings["services"][name]
        if not self.halt.call(service, args, SWITCH_S).get("ok"):
            hint = ": strictness 2 refuses what is so already, take 1" if args.get("strictness") == 2 else ""
            raise LinkError(f"{service} refused to {name} the controller{hint}")
        states = self._list_controllers()
        for key, names in args.items():
            if states is not None and key.endswith("_controllers"):
                for one in names:
                    check_switched(one, states, runs=key.startswith(("start", "activate")))

    def _list_controllers(self) -> dict[str, str] | None:
        """The controllers' states by name; None where the controller manager does not say."""
        service, args, _ = self.settings["services"].get("controllers", (None, {}, ""))
        try:
            listed = None if service is None else self.halt.call(service, args, SWITCH_S).get("controller")
        except LinkError:
            return None
        try:
            return None if listed is None else {str(one["name"]): str(one["state"]) for one in listed}
        except (KeyError, TypeError) as error:
            raise LinkError(
                f"{service} lists controllers without name and state: is it a controller manager?"
            ) from error

    def _act(self, name: str, goal: dict[str, Any]) -> bool:
        topic, type_ = self.topics[name]
        if not self.ros1:
            return self.actions.act(topic, type_, goal)
        stamp = to_stamp(self.clock(), self.ros1)
        return self.actions.publish(topic, {"header": {"stamp": stamp}, "goal_id": {"stamp": stamp}, "goal": goal})


def check_switched(name: str, states: dict[str, str], *, runs: bool) -> None:
    """Whether a controller runs, or not, as was asked for: a best effort (strictness 1) is made without a word for a
    name that there is not. Raises LinkError."""
    if name not in states:
        raise LinkError(f"the robot has no controller {name}, but {', '.join(states) or 'none'}: load it")
    if (states[name] in RUNNING) is not runs:
        raise LinkError(f"the controller {name} was to {'start' if runs else 'stop'}, and is {states[name]}")


def space_points(points: Sequence[tuple[float, Motion]]) -> list[tuple[float, Motion]]:
    """Those of a trajectory's points, by time in s, that lie a millisecond apart; the last one, at rest, stays."""
    kept = [points[0]]
    for t, motion in points[1:]:
        if t - kept[-1][0] >= SPACING_S:
            kept.append((t, motion))
        elif motion is points[-1][1]:
            kept[-1] = (kept[-1][0], motion)
    return kept


def has_joints(joints: Sequence[str]) -> Callable[[Message], bool]:
    """Whether a message is of these joints, or is none of joint states, which its reader has to say."""

    def is_wanted(message: Message) -> bool:
        try:
            return not missing_joints(message, joints)
        except (KeyError, TypeError):
            return True

    return is_wanted


def describe(selected: Selected) -> str:
    """Which joints the messages have that are left out."""
    names = [] if selected.other is None else list(selected.other["name"])
    return f"they have {', '.join(map(str, names)) or 'no names'}; does another node publish there too?"


def round_values(values: np.ndarray) -> list[float]:
    """Numbers of few digits: a frame is sent a hundred times a second."""
    return np.round(values, 9).tolist()

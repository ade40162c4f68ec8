"""An arm behind ROS: its messages, checked, and stamped trajectories for its controller.

Three links, since a bridge may serve one in order: state and commands, stop, actions. A command is a joint trajectory:
the motion and how the arm brakes from there to rest, so that an arm without commands brakes as it was planned. Points
have times on the clock, and the arm's trajectory controller drops those that have passed: a command whose braking is
over moves nothing. One that is late and not over finds the arm braking as the command before has it: that there is no
more than one such command, and little between the two, `real.control` sees to.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from real.drivers.messages import gripper_actions, gripper_goal, gripper_width, status_reader, to_seconds, to_stamp
from real.robot import Applied, Command, RobotSpec, State, StateError, check_finite, make_spec
from real.transports import link_opener
from real.transports.link import Latest, Link, LinkError
from robots.arm import Arm

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
        self.stream, self.halt, self.actions = open_link(url), open_link(url), open_link(url)
        self._subscribe()
        self.closed_gripper: bool | None = None

    def _subscribe(self) -> None:
        names = ["joint_states", "arm", "gripper", *(name for name in ("wrench",) if name in self.topics)]
        names += [name for name in ("objects", "goal") if self.settings[name]]
        self.latest: dict[str, Latest] = {name: self.stream.subscribe(*self.topics[name]) for name in names}
        self.echoes = self.stream.subscribe(*self.topics["command"])
        self.stream.advertise(*self.topics["command"])
        if self.ros1:  # actions of ROS 1 are topics
            for name in gripper_actions(self.topics):
                self.actions.advertise(*self.topics[name])

    def connect(self, timeout_s: float) -> None:
        """Waits until all links are open. Raises UserError."""
        for link in (self.stream, self.halt, self.actions):
            link.wait(timeout_s)

    def observe(self) -> State:
        """The newest message of every topic. Raises StateError."""
        messages, times = {}, {}
        for name, latest in self.latest.items():
            message, times[name] = latest.received
            if message is None:
                raise StateError("no_state", f"nothing has come on {self.topics[name][0]}")
            messages[name] = message
        try:
            return check_finite(self._parse(messages, times["joint_states"]))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise StateError("bad_state", f"a state that cannot be read: {error!r}") from error

    def _parse(self, messages: dict[str, dict[str, Any]], t: float) -> State:
        joints = messages["joint_states"]
        order = [joints["name"].index(name) for name in self.arm.joints]  # they may come in any order
        q = np.array([joints["position"][i] for i in order], float)  # None: rosbridge's NaN
        dq = np.array([joints["velocity"][i] for i in order], float)
        mode, force, success_rate = self.read_status(messages, self.ros1)
        goal = [messages["goal"]["point"][k] for k in "xyz"] if self.settings["goal"] else np.zeros(3)
        return State(
            q=q,
            dq=dq,
            width=gripper_width(messages["gripper"], self.arm.gripper),
            mode=mode,
            force=force,
            success_rate=success_rate,
            objects=self._parse_objects(messages) if self.settings["objects"] else np.zeros((0, 7)),
            goal=np.array(goal, float),
            t_robot=to_seconds(joints["header"]["stamp"], self.ros1),
            t=t,
        )

    def _parse_objects(self, messages: dict[str, dict[str, Any]]) -> np.ndarray:
        """[N, 7]: m, quaternion (w, x, y, z)."""
        poses = [(pose["position"], pose["orientation"]) for pose in messages["objects"]["poses"]]
        objects = np.array([[*(p[k] for k in "xyz"), *(r[k] for k in "wxyz")] for p, r in poses], float)
        if len(objects) != self.settings["objects"]:
            raise ValueError(f"{len(objects)} objects instead of {self.settings['objects']}")
        return objects

    def apply(self, command: Command) -> Applied | None:
        """Sends a motion to be reached `valid_s` after the command's time, and the braking from there.

        None where the link does not take it.
        """
        stamp = to_stamp(self.clock() if command.t is None else command.t, self.ros1)
        begin = self.settings["valid_s"]
        points = [(begin, command.motion), *((begin + after, motion) for after, motion in command.braking)]
        message = {
            "header": {"stamp": stamp},
            "joint_names": list(self.arm.joints),
            "points": [
                {
                    "positions": round_values(motion.q),
                    "velocities": round_values(motion.dq),
                    "accelerations": round_values(motion.ddq),
                    "time_from_start": to_stamp(t, self.ros1),
                }
                for t, motion in points
            ],
        }
        if not self.stream.publish(self.topics["command"][0], message):
            return None
        return Applied(command.motion.q, to_seconds(stamp, self.ros1))

    def echo(self) -> float | None:
        """The stamp of the last command that came back from the bridge, which drops what it cannot read in silence."""
        message, _ = self.echoes.received
        return None if message is None else to_seconds(message["header"]["stamp"], self.ros1)

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
        for link in (self.stream, self.halt, self.actions):
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
        return None if listed is None else {one["name"]: one["state"] for one in listed}

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


def round_values(values: np.ndarray) -> list[float]:
    """Numbers of few digits: a frame is sent a hundred times a second."""
    return np.round(values, 9).tolist()

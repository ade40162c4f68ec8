"""Checks before an arm moves, one after the other, each with what to do where it fails."""

import time
import xml.etree.ElementTree as xml
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from real.cameras import Cameras
from real.jumps import find_disputes, find_jumps
from real.robot import Command, Motion, Robot, RobotError, State, StateError
from real.watch import find_slow_topics

WATCH_S = 1.0
OFFSET_S = 0.05
ECHO_S = 1.0


class Check(NamedTuple):
    """One check. `passed` None: it is not possible in this mode. `help` is what to do where it fails."""

    name: str
    passed: bool | None
    result: str
    help: str = ""

    def __str__(self) -> str:
        sign = "·" if self.passed is None else "✓" if self.passed else "✗"
        return f"{sign} {self.name:24} {self.result}{'' if self.passed or not self.help else ': ' + self.help}"


def checks(robot: Robot, *, sends: bool) -> Iterator[Check]:
    """All checks of a robot; with `sends` those too for which a command is sent."""
    states = collect_states(robot)
    if isinstance(states, str):
        yield Check("state", False, states)
        return
    for sentence in robot.find_other_messages():
        yield Check("messages", None, sentence)
    for sentence in find_slow_topics(states):
        yield Check("topics", False, sentence, "raise its publisher's rate, or its age limit in configs/robot")
    for sentence in [*find_jumps(states, robot.spec.arm), *find_disputes(states)]:
        yield Check("publishers", False, sentence, "stop one (`rostopic info`, `ros2 topic info -v` name them)")
    stamps = {state.t_robot for state in states}
    rate, needed = (len(stamps) - 1) / WATCH_S, 2 / robot.spec.latest_state_s
    yield Check(
        "state rate", rate >= needed, f"{rate:.0f} a second, {needed:.0f} are needed", "raise the publisher's rate"
    )
    offset = float(np.median([state.t_robot - (robot.clock() - (time.monotonic() - state.t)) for state in states]))
    yield Check(
        "clocks", abs(offset) < OFFSET_S, f"the robot's is {1e3 * offset:+.0f} ms from ours", "run chrony on both"
    )
    yield check_limits(robot)
    last = states[-1]
    yield Check("mode", last.mode in ("idle", "move"), last.mode, "release the stop, clear the arm's errors")
    yield Check(
        "contact", last.force < 10, f"{last.force:.0f} N felt at rest", "free the hand, or set the load that it carries"
    )
    if not sends:
        yield Check("stop", None, "nothing is sent in a dry run")
        yield Check("commands come back", None, "nothing is sent in a dry run")
        return
    began = time.monotonic()
    try:
        robot.stop()
    except RobotError as error:
        yield Check("stop", False, str(error), "a controller that does not stop must not be driven")
        yield Check("commands come back", None, "nothing is sent after a stop that failed")
        return
    yield Check("stop", True, f"answered in {1e3 * (time.monotonic() - began):.0f} ms")
    if robot.spec.has_echo:
        yield check_echo(robot)
    else:
        yield Check("commands come back", None, "there is no echo without a bridge")


def check_cameras(cameras: Cameras) -> Iterator[Check]:
    """Whether each camera sends images now."""
    end = time.monotonic() + ECHO_S
    for name, topic in cameras.topics.items():
        result, age = "", np.inf
        while age > cameras.latest_s and time.monotonic() < end:
            time.sleep(0.02)
            try:
                age = cameras.age(name)
                height, width, _ = cameras.newest[name][2].shape
                result = f"{width} x {height}, {1e3 * age:.0f} ms old"
            except StateError as error:
                result = str(error)
        help_ = f"start it, and set its clock; its topic is {topic}"
        yield Check(f"camera {name}", age <= cameras.latest_s, result, help_)


def collect_states(robot: Robot) -> list[State] | str:
    """The states of one second, or a sentence why there are none."""
    end, states, problem = time.monotonic() + 5, [], "nothing came"
    while time.monotonic() < end:
        try:
            states.append(robot.observe())
            if len(states) == 1:
                end = time.monotonic() + WATCH_S
        except StateError as error:
            problem = str(error)
        time.sleep(0.002)
    return states or problem


def check_limits(robot: Robot) -> Check:
    """Whether the robot's own description has the limits of robots/<name>/arm.yaml: a Panda's are wrong for an FR3."""
    name = "joint limits"
    try:
        text = robot.description()
    except RobotError as error:
        return Check(name, False, str(error), "start rosapi, which gives /robot_description")
    try:
        theirs = urdf_limits(text, robot.spec.arm.joints)
    except xml.ParseError as error:
        return Check(name, False, f"the robot's description cannot be read as a URDF: {error}")
    except ValueError as error:
        return Check(name, False, str(error), "is it another arm, or /robot_description another robot's?")
    differing = robot.spec.arm.explain_limits(theirs)
    result = f"differ from the robot's: {differing}" if differing else "as the robot's own description has them"
    return Check(name, not differing, result)


def urdf_limits(text: str, joints: Sequence[str]) -> np.ndarray:
    """Lower and upper limit [J, 2] rad of a URDF's joints. Raises ParseError, and ValueError where one has none."""
    root: Any = xml.fromstring(
        text.strip().removeprefix('"').removesuffix('"').replace('\\"', '"').replace("\\n", "\n")
    )
    found = {joint.get("name"): joint.find("limit") for joint in root.iter("joint")}
    missing = [name for name in joints if name not in found]
    if missing:
        raise ValueError(f"the robot's description has no joint {', '.join(missing)}")
    return np.array([read_limits(found[name], name) for name in joints])


def read_limits(limit: Any, joint: str) -> tuple[float, float]:
    """Lower and upper limit in rad of a URDF's element. Raises ValueError."""
    try:
        low, high = float(limit.get("lower")), float(limit.get("upper"))
    except (AttributeError, TypeError, ValueError):
        raise ValueError(f"the robot's description gives {joint} no limits that are numbers") from None
    return low, high


def check_echo(robot: Robot) -> Check:
    """Sends where the arm is now, to an arm that takes no commands now, and waits for it on the topic."""
    name, stamps = "commands come back", set()
    end = time.monotonic() + ECHO_S
    while time.monotonic() < end:
        try:
            applied = robot.apply(Command(Motion.at_rest(robot.observe().q)))
        except StateError as error:
            return Check(name, False, str(error))
        stamps |= {applied.stamp} if applied is not None else set()
        time.sleep(0.02)
        if robot.echo() in stamps:
            return Check(name, True, "the bridge delivers them")
    return Check(name, False, "the bridge drops them in silence", "look at topic and type")

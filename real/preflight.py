"""What is looked at before an arm moves, one thing after the other, each with what to do where it is not so."""

import time
import xml.etree.ElementTree as xml
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from real.cameras import Cameras
from real.driver import BadState, Driver, State
from real.libfranka import Libfranka
from real.link import BridgeError
from real.safety import Motion
from robots.arm import Arm

WATCH_S = 1.0
OFFSET_S = 0.05
SAME_RAD = 1e-3
LISTEN_S = 1.0


class Check(NamedTuple):
    """`passed` None: it could not be looked at in this mode. `help` is what to do where it is not so."""

    what: str
    passed: bool | None
    said: str
    help: str = ""

    def __str__(self) -> str:
        sign = "·" if self.passed is None else "✓" if self.passed else "✗"
        return f"{sign} {self.what:24} {self.said}{'' if self.passed or not self.help else ': ' + self.help}"


def checks(driver: Driver | Libfranka, *, sends: bool) -> Iterator[Check]:
    """One after the other; what needs a command to be sent only with `sends`."""
    states = watched(driver)
    if isinstance(states, str):
        yield Check("state", False, states)
        return
    stamps = {state.t_robot for state in states}
    rate, needed = (len(stamps) - 1) / WATCH_S, 2 / driver.settings["latest_state_s"]
    yield Check(
        "state rate", rate >= needed, f"{rate:.0f} a second, {needed:.0f} are needed", "raise the publisher's rate"
    )
    offset = float(np.median([state.t_robot - (driver.clock() - (time.monotonic() - state.t)) for state in states]))
    yield Check(
        "clocks", abs(offset) < OFFSET_S, f"the robot's is {1e3 * offset:+.0f} ms from ours", "run chrony on both"
    )
    yield limits(driver)
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
        driver.stop()
        yield Check("stop", True, f"answered in {1e3 * (time.monotonic() - began):.0f} ms")
    except BridgeError as error:
        yield Check("stop", False, str(error))
    if isinstance(driver, Driver):
        yield echoed(driver, last)
    else:
        yield Check("commands come back", None, "there is no echo without a bridge")


def looks(cameras: Cameras) -> Iterator[Check]:
    """Whether each camera sees something now."""
    end = time.monotonic() + LISTEN_S
    for name, topic in cameras.topics.items():
        what, said, age = f"camera {name}", "", np.inf
        while age > cameras.latest_s and time.monotonic() < end:
            time.sleep(0.02)
            try:
                age = cameras.age(name)
                height, width, _ = cameras.newest[name][2].shape
                said = f"{width} x {height}, {1e3 * age:.0f} ms old"
            except BadState as error:
                said = str(error)
        yield Check(what, age <= cameras.latest_s, said, f"start it, and set its clock; its topic is {topic}")


def watched(driver: Driver | Libfranka) -> list[State] | str:
    """What comes in a second, or why nothing does."""
    end, states, said = time.monotonic() + 5, [], ""
    while time.monotonic() < end:
        try:
            states.append(driver.state())
            if len(states) == 1:
                end = time.monotonic() + WATCH_S
        except BadState as error:
            said = str(error)
        time.sleep(0.002)
    return states or said


def limits(driver: Driver | Libfranka) -> Check:
    """Whether the robot's own description says the limits that ours does: a Panda's are wrong for an FR3."""
    what = "limits of joints"
    try:
        text = driver.description()
    except BridgeError as error:
        return Check(what, False, str(error), "start rosapi, which gives /robot_description")
    try:
        theirs = described(text, driver.settings["joints"])
    except (xml.ParseError, KeyError, ValueError) as error:
        return Check(what, False, f"the robot's description cannot be read: {error!r}")
    differing = wrong(theirs, driver.arm)
    said = "as the robot's own description has them" if not differing else f"differ from the robot's: {differing}"
    return Check(what, not differing, said)


def described(text: str, joints: list[str]) -> np.ndarray:
    """Lower and upper limit [7, 2] rad of a URDF's joints."""
    root: Any = xml.fromstring(
        text.strip().removeprefix('"').removesuffix('"').replace('\\"', '"').replace("\\n", "\n")
    )
    found = {joint.get("name"): joint.find("limit") for joint in root.iter("joint")}
    return np.array([[float(found[name].get("lower")), float(found[name].get("upper"))] for name in joints])


def wrong(theirs: np.ndarray, arm: Arm) -> str:
    """Which joints' limits are not ours, in words."""
    ours = np.stack([arm.limits.position_min, arm.limits.position_max], axis=1)
    return ", ".join(
        f"joint {i + 1}: {theirs[i].tolist()} there, {ours[i].tolist()} here"
        for i in np.flatnonzero(np.abs(theirs - ours).max(1) > SAME_RAD)
    )


def echoed(driver: Driver, state: State) -> Check:
    """Sends where the arm is, to an arm that takes no commands now, and waits for it on the topic."""
    stamps, end = set(), time.monotonic() + LISTEN_S
    while time.monotonic() < end:
        stamps.add(driver.command(Motion.at_rest(state.q)))
        time.sleep(0.02)
        if driver.echo() in stamps - {None}:
            return Check("commands come back", True, "the bridge delivers them")
    return Check("commands come back", False, "the bridge drops them, and says nothing", "look at topic and type")

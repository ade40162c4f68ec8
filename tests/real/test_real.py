"""An arm behind the mock's bridge, over real sockets: it follows commands, and every fault stops it in time."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pbrl.types import UserError
from real.control import Chunk
from real.drivers.ros import RosDriver
from real.mock.process import MockProcess
from real.preflight import checks
from real.process import Control
from real.robot import Command, Motion
from real.settings import load_robot_settings
from real.transports import link_opener
from real.transports.link import LinkError
from robots import arm
from tests.real.proxy import Wire

PANDA = arm.load("panda")
STEP = 0.05
FORWARD = np.array([[0.4, 0.0, 0.2, -1.0]])
OVER_S = 0.4  # a command's way to rest is over by then
SOON = 2.0  # s, for what takes a moment on a machine with other work


@pytest.fixture(scope="module")
def mock():
    with MockProcess(task="reach") as mock:
        yield mock


@pytest.fixture
def robot(mock):
    """Settings of an arm with nothing wrong, at its task's beginning."""
    fine = {"state": "", "clock_s": 0.0, "mode": "", "success_rate": 1.0, "force": 0.0, "gripper": "", "refuses": False}
    mock.request(fault=fine, reset=1)
    time.sleep(0.2)
    return {**load_robot_settings("panda"), "url": mock.url}


@pytest.fixture(scope="module")
def driven(mock):
    control = Control({**load_robot_settings("panda"), "url": mock.url}, "cartesian", 20, {})
    yield control
    control.close()


@pytest.fixture
def control(driven, mock, robot):
    """A controller that moves nothing yet."""
    driven.stop()
    driven.wait("idle", "fault", timeout_s=SOON)
    mock.request(reset=1)
    time.sleep(0.2)
    return driven


def stream(control, seconds, action=FORWARD):
    """A policy that acts for so long; the report at its end."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        control.give(Chunk(time.monotonic(), action))
        time.sleep(STEP)
    return control.report()


def moving(control):
    report = control.start()
    assert report.phase == "moving", report.detail
    return control


def until(is_done, seconds=SOON):
    """Waits until something is so; returns whether, and after how many seconds."""
    begun = time.monotonic()
    while time.monotonic() - begun < seconds:
        if is_done():
            return True, time.monotonic() - begun
        time.sleep(0.002)
    return False, seconds


def test_an_arm_follows_its_commands(mock, control):
    before = np.array(mock.request()["q"])
    report = stream(moving(control), 1.5)
    assert report.phase == "moving" and report.age < 0.1
    time.sleep(0.5)
    arm_report = mock.request()
    assert np.abs(np.array(arm_report["q"]) - before).max() > 0.1
    assert np.abs(np.array(arm_report["q"]) - control.report().sent).max() < 0.01, "the arm is where it was commanded"
    assert arm_report["count"]["executed"] > 40 and arm_report["oldest"] < OVER_S
    assert not {"non_finite", "out_of_limits", "too_fast"} & set(arm_report["count"])


def test_preflight_checks_everything(mock, robot):
    driver = RosDriver(PANDA, robot)
    driver.connect(SOON)
    found = list(checks(driver, sends=True))
    assert [check.name for check in found if check.passed is not True] == []
    assert len(found) == 7
    mock.request(fault={"clock_s": 0.3, "mode": "reflex", "force": 15.0})
    time.sleep(0.2)
    assert {check.name for check in checks(driver, sends=True) if not check.passed} == {"clocks", "mode", "contact"}
    assert all("✗" in str(check) for check in checks(driver, sends=True) if not check.passed)
    mock.request(fault={"clock_s": 0.0, "mode": "", "force": 0.0})
    driver.close()
    mistaken = {**robot, "topics": {**robot["topics"], "command": ["/command", "trajectory_msgs/JointTrajectoryPoint"]}}
    driver = RosDriver(PANDA, mistaken)
    driver.connect(SOON)
    assert [check.name for check in checks(driver, sends=True) if not check.passed] == ["commands come back"]
    driver.close()
    fr3 = arm.load("fr3")
    other = RosDriver(replace(fr3, joints=PANDA.joints, gripper=PANDA.gripper), robot)
    other.connect(SOON)
    limits = next(check for check in checks(other, sends=False) if check.name == "joint limits")
    assert not limits.passed and "joint6" in limits.result, "a Panda is no FR3"
    other.close()
    other = RosDriver(fr3, robot)
    other.connect(SOON)
    (state,) = checks(other, sends=False)
    assert not state.passed and "fr3_joint1" in state.result, "nor has it a Panda's joints"
    other.close()


@pytest.mark.parametrize(
    "fault, word, within",
    [
        ({"state": "nan"}, "bad_state", 0.2),
        ({"state": "short"}, "bad_state", 0.2), ({"state": "drop_name"}, "old_state", 0.7),
        ({"state": "frozen"}, "old_state", 0.7), ({"state": "silent"}, "old_state", 0.7),
        ({"clock_s": 0.3}, "clock", 0.2), ({"clock_s": -5.0}, "clock", 0.2), ({"mode": "reflex"}, "mode", 0.2),
        ({"mode": "user_stopped"}, "mode", 0.2), ({"mode": "guiding"}, "mode", 0.2),
        ({"success_rate": 0.5}, "lost_commands", 0.2), ({"force": 40.0}, "force", 0.2),
    ],
)  # fmt: skip
def test_a_fault_of_the_arm_stops_it(mock, control, fault, word, within):
    stream(moving(control), 0.4)
    mock.request(fault=fault)
    stopped, after = until(lambda: stream(control, STEP).fault == word)
    assert stopped, control.report()
    assert after < within + 1.0, "a machine with other work"
    control.wait("fault", timeout_s=SOON)
    assert until(lambda: not mock.request()["active"])[0], "its controller was stopped"
    time.sleep(0.3)
    q = np.array(mock.request()["q"])
    mock.request(fault={"state": "", "clock_s": 0.0, "mode": "", "success_rate": 1.0, "force": 0.0})
    assert stream(control, 0.3).phase == "fault"
    assert np.abs(np.array(mock.request()["q"]) - q).max() < 1e-3, "nothing moves until it is armed again"
    assert stream(moving(control), 0.3).phase == "moving"


def test_joints_may_come_in_any_order(mock, robot):
    mock.request(fault={"state": "shuffled"})
    driver = RosDriver(PANDA, robot)
    assert until(lambda: driver.latest["joint_states"].received[0] is not None)[0]
    time.sleep(0.2)
    assert np.allclose(driver.observe().q, mock.request()["q"], atol=1e-3)
    driver.close()


def test_another_client_at_the_same_arm_is_noticed(mock, robot, control):
    stream(moving(control), 0.3)
    other = RosDriver(PANDA, robot)
    other.connect(SOON)
    time.sleep(0.3)
    rest = Motion.at_rest(control.report().sent)
    assert until(lambda: other.apply(Command(rest)) and stream(control, STEP).fault == "second_client")[0], (
        control.report()
    )
    other.close()


@pytest.fixture
def wire(mock, robot):
    wire = Wire(int(mock.url.rsplit(":", 1)[1]))
    robot["url"] = f"ws://127.0.0.1:{wire.port}"
    yield wire
    wire.close()


@pytest.mark.parametrize("outage, transport", [("hold", "websockets"), ("cut", "websockets"), ("cut", "roslibpy")])
def test_after_an_outage_nothing_that_was_meant_for_earlier_moves_the_arm(mock, robot, wire, outage, transport):
    robot["transport"] = transport
    control = Control(robot, "cartesian", 20, {})
    stream(moving(control), 0.8)
    getattr(wire, outage)()
    begun = time.monotonic()
    report = stream(control, 3.0)
    assert report.fault == "old_state" and time.monotonic() - begun < 5
    q = np.array(mock.request()["q"])
    wire.let_go()
    wire.mend()
    assert until(lambda: stream(control, STEP).age < 0.1, 5)[0], "the connection comes back"
    stream(control, 0.5)
    arm_report = mock.request()
    assert arm_report["oldest"] < OVER_S, "no command whose way was over was executed"
    late = arm_report["count"].get("late", 0)  # a backlog would be dozens; a busy machine makes one or two late
    assert late < 5 and arm_report["fastest"] < 1
    assert np.abs(np.array(arm_report["q"]) - q).max() < 0.02, "and the arm stayed"
    assert control.report().phase == "fault"
    control.close()


def test_a_short_stutter_holds_the_arm_and_it_goes_on(mock, robot, wire):
    control = moving(Control(robot, "cartesian", 20, {}))
    stream(control, 0.5)
    wire.hold()
    stream(control, 0.25)
    wire.let_go()
    report = stream(control, 0.5)
    assert report.phase == "moving" and report.count["held"] > 0
    assert mock.request()["oldest"] < OVER_S
    control.close()


def test_a_link_that_is_cut_leaves_an_arm_that_brakes_as_it_was_planned(mock, robot, wire):
    control = moving(Control(robot, "cartesian", 20, {}))
    assert until(lambda: np.abs(stream(control, STEP).state.dq).max() > 0.05, 10)[0], "in mid-motion"
    wire.cut()
    time.sleep(0.8)
    arm_report = mock.request()
    assert arm_report["fastest"] < 0.3, "the filter's share is a fifth; accelerations: tests/test_link.py"
    assert arm_report["active"], "no stop was commanded"
    time.sleep(0.2)
    assert np.abs(np.array(mock.request()["q"]) - arm_report["q"]).max() < 1e-3
    control.close()


@pytest.mark.parametrize("end", ["kill", "freeze"])
def test_a_bridge_that_dies_or_freezes(end):
    with MockProcess(task="reach") as mock:
        time.sleep(0.2)
        control = Control({**load_robot_settings("panda"), "url": mock.url}, "cartesian", 20, {})
        stream(moving(control), 0.5)
        getattr(mock, end)()
        stopped, after = until(lambda: stream(control, STEP).fault == "old_state")
        assert stopped and after < 1.6
        if end == "freeze":
            time.sleep(1.0)
            mock.thaw()
            stream(control, 1.0)
            arm_report = mock.request()
            assert arm_report["oldest"] < OVER_S and control.report().phase == "fault"
        control.close()


def test_a_bridge_that_accepts_and_does_nothing_is_not_driven():
    with MockProcess(task="reach") as mock:
        mock.request(zombie=True)
        with pytest.raises(UserError, match="nothing has come on /joint_states"):
            Control({**load_robot_settings("panda"), "url": mock.url}, "cartesian", 20, {})


def test_an_address_without_an_arm_is_reported():
    with pytest.raises(UserError, match="no answer at"):
        Control({**load_robot_settings("panda"), "url": "ws://127.0.0.1:9"}, "cartesian", 20, {}, timeout_s=0.5)


POLICY = """
import signal, sys, time, numpy as np
from real.control import Chunk
from real.process import Control
from real.settings import load_robot_settings
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a parent process may ignore it
    control = Control({**load_robot_settings("panda"), "url": sys.argv[1]}, "cartesian", 20, {})
    control.start()
    print("moving", flush=True)
    while True:
        control.give(Chunk(time.monotonic(), np.array([[0.4, 0, 0.2, -1]])))
        time.sleep(0.05)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_policy_that_is_killed_leaves_no_moving_arm(mock, robot, tmp_path, how):
    (tmp_path / "policy.py").write_text(POLICY)
    policy = subprocess.Popen(
        [sys.executable, tmp_path / "policy.py", robot["url"]], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True, env={**os.environ, "PYTHONPATH": os.getcwd()},
    )  # fmt: skip
    assert policy.stdout is not None and policy.stdout.readline() == "moving\n"
    time.sleep(0.5)
    policy.send_signal(how)
    policy.wait(5)
    assert until(lambda: not mock.request()["active"])[0], "the arm's controller was stopped"
    time.sleep(0.3)
    q = np.array(mock.request()["q"])
    time.sleep(0.3)
    assert np.abs(np.array(mock.request()["q"]) - q).max() < 1e-4


def test_a_control_process_that_is_killed_leaves_an_arm_that_holds(mock, robot):
    control = moving(Control(robot, "cartesian", 20, {}))
    stream(control, 0.5)
    control.process.kill()
    time.sleep(0.5)
    q = np.array(mock.request()["q"])
    time.sleep(0.3)
    assert not control.is_alive
    assert np.abs(np.array(mock.request()["q"]) - q).max() < 1e-3
    control.close()


@pytest.mark.parametrize("gripper", ["stuck", "blocks"])
def test_a_gripper_that_hangs_stops_neither_commands_nor_the_stop(gripper):
    with MockProcess(robot="fr3", task="reach", serial=True) as mock:  # ROS 2, one thing after the other
        mock.request(fault={"gripper": gripper})
        time.sleep(0.2)
        robot = {**load_robot_settings("fr3"), "url": mock.url}
        control = moving(Control(robot, "cartesian", 20, {}))
        report = stream(control, 1.0, np.array([[0.3, 0, 0, 1.0]]))
        assert report.phase == "moving", report.detail
        arm_report = mock.request()
        assert arm_report["count"]["executed"] > 30 and arm_report["oldest"] < OVER_S
        driver = RosDriver(arm.load("fr3"), robot)
        driver.connect(SOON)
        driver.stop()
        assert not mock.request()["active"]
        driver.close()
        control.close()


@pytest.mark.parametrize("transport", ["websockets", "roslibpy"])
def test_what_is_published_while_the_link_is_down_is_never_sent(mock, robot, wire, transport):
    link: Any = link_opener({**robot, "transport": transport})(robot["url"])
    link.wait(SOON)
    link.advertise("/words", "std_msgs/String")
    subscription = link.subscribe("/words", "std_msgs/String")
    time.sleep(0.3)
    assert link.publish("/words", {"data": "first"}) and until(lambda: subscription.received[0] == {"data": "first"})[0]
    wire.cut()
    assert until(lambda: not link.is_connected)[0]
    assert not any(link.publish("/words", {"data": str(i)}) for i in range(50))
    with pytest.raises(LinkError, match="no connection"):
        link.call("/rosapi/get_time", {}, 1)
    wire.mend()
    link.wait(SOON)
    time.sleep(0.5)
    assert subscription.received[0] == {"data": "first"} and link.connections == 2
    assert (
        link.publish("/words", {"data": "second"}) and until(lambda: subscription.received[0] == {"data": "second"})[0]
    )
    assert not link.publish("/words", {"data": float("nan")}), "no number is no command"
    with pytest.raises(LinkError, match="failed|did not answer"):
        link.call("/no/such/service", {}, 1)
    link.close()
    assert not link.publish("/words", {"data": "late"})


@pytest.mark.parametrize("transport", ["websockets", "roslibpy"])
def test_a_frozen_peer_is_disconnected(mock, robot, wire, transport):
    link: Any = link_opener({**robot, "transport": transport})(robot["url"])
    link.wait(SOON)
    wire.hold()
    gone, after = until(lambda: not link.is_connected, 4)
    assert gone and after < 2.5
    wire.let_go()
    link.wait(SOON)
    link.close()

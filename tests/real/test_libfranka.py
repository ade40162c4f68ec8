"""An arm in simulation that speaks Franka's own protocol: it follows commands, and stops at faults."""

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from pbrl.types import UserError
from real.drivers import make_driver
from real.drivers.libfranka import LibfrankaDriver
from real.preflight import checks
from real.process import Control
from real.robot import Command, Motion
from real.safety import SafetySettings
from real.settings import load_robot_settings
from real.watch import Age, Watch
from robots import arm
from tests.real.test_real import SOON, STEP, moving, stream, until

franky = pytest.importorskip("franky", reason="needs franky: pip install -e '.[libfranka]'")
pytest.importorskip("franky_sim", reason="needs an arm in simulation: pip install franky-sim")
FR3 = arm.load("fr3")
SERVER = """
import franky_sim, sys
from franky_sim.mujoco_simulator import MujocoSimulator
with MujocoSimulator() as sim:
    robot = sim.add_robot(initial_q=eval(sys.argv[1]))
    with franky_sim.SimulationServer(sim) as server:
        print(robot.hostname, flush=True)
        server.run_forever()
"""  # its own command begins at a pose outside the workspace


class Server:
    """franky-sim in a process of its own, at an address of 127.0.0.0/8 that is free."""

    def __init__(self) -> None:
        start = [sys.executable, "-c", SERVER, str(FR3.home.tolist())]
        self.process = subprocess.Popen(start, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.robot = {
            **load_robot_settings("fr3_direct"),
            "url": self.process.stdout.readline().strip(),
            "realtime": False,
        }

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def server(tmp_path_factory):
    with open(tmp_path_factory.getbasetemp().parent / "franky-sim", "w") as one:
        fcntl.flock(one, fcntl.LOCK_EX)  # it computes a thousand steps a second: two at a time are late
        server = Server()
        yield server
        server.close()


@pytest.fixture
def control(server):
    control = Control(server.robot, "cartesian", 20, {})
    yield control
    control.close()


@pytest.fixture
def driver(server):
    driver = make_driver(FR3, server.robot, SafetySettings())
    assert isinstance(driver, LibfrankaDriver)
    driver.connect(5)
    assert until(lambda: driver.latest is not None)[0]
    yield driver
    driver.close()


def q(control):
    return control.report().state.q


def test_an_arm_follows_its_commands(control):
    before, moved = q(control), moving(control)
    far, speeds, report = 0.0, [], control.report()
    end = time.monotonic() + 2.0
    while time.monotonic() < end:
        report = stream(moved, STEP)
        far, speeds = max(far, np.abs(report.sent - report.state.q).max()), [*speeds, np.abs(report.state.dq)]
    assert report.phase == "moving" and report.age < 0.1
    there = until(lambda: np.abs(q(control) - control.report().sent).max() < 0.01, 4.0)[0]
    assert there, "the arm is where it was commanded"
    report = control.report()
    assert np.abs(report.state.q - before).max() > 0.1
    assert far < 0.3, "and was never far from it: half a second behind, more where the simulation is slow"
    assert (np.max(speeds, axis=0) < 1.1 * SafetySettings().speed * FR3.limits.velocity).all(), (
        "within the filter's share"
    )
    assert not {"not_sent", "fault_no_echo"} & set(report.count)


def test_it_stops_and_may_be_armed_again(control):
    stream(moving(control), 0.8)
    control.stop()
    report = control.wait("fault", timeout_s=SOON)
    assert report.phase == "fault" and report.fault == "stopped"
    assert until(lambda: control.report().state.mode == "idle")[0], "its motion was ended"
    time.sleep(1.0)  # its servos come to rest
    before = q(control)
    assert stream(control, 0.5).phase == "fault"
    assert np.abs(q(control) - before).max() < 1e-3, "nothing moves until it is armed again"
    stream(moving(control), 0.8)
    assert np.abs(q(control) - before).max() > 0.01


def test_an_arm_without_commands_goes_to_its_last_target_and_holds(driver):
    driver.start()
    target = driver.observe().q + 0.05
    assert driver.apply(Command(Motion.at_rest(target))) is not None
    time.sleep(1.0)
    assert np.abs(driver.observe().q - target).max() < 0.005 and driver.observe().mode == "move"


def test_a_frozen_arm_is_a_fault(server, control):
    stream(moving(control), 0.8)
    os.kill(server.process.pid, signal.SIGSTOP)
    stopped, after = until(lambda: stream(control, STEP).fault == "old_state")
    assert stopped and after < 2.0, control.report()
    time.sleep(1.5)  # franky has given up by then
    begun = time.monotonic()
    assert control.report().t > begun - 0.1, "the watch goes on"
    os.kill(server.process.pid, signal.SIGCONT)
    report = control.start()
    assert report.phase == "fault" and report.fault == "refused" and "start again" in report.detail


def test_non_finite_commands_are_never_sent(driver):
    driver.start()
    before = driver.observe().q
    applied = driver.apply(Command(Motion.at_rest(before)))
    assert applied is not None
    for wrong in (np.full(7, np.nan), np.full(7, np.inf), before[:6]):
        time.sleep(0.05)
        assert driver.apply(Command(Motion.at_rest(before)._replace(q=wrong))) is None
        assert driver.echo() == applied.stamp
    time.sleep(0.3)
    assert driver.observe().mode == "move" and np.abs(driver.observe().q - before).max() < 1e-3
    driver.stop()
    assert driver.apply(Command(Motion.at_rest(before + 0.1))) is None, "nor anything after a stop"
    time.sleep(0.3)
    assert driver.observe().mode == "idle" and np.abs(driver.observe().q - before).max() < 1e-3


def test_a_policy_without_numbers_moves_nothing(control):
    before = q(moving(control))
    report = stream(control, 0.6, np.full((1, 4), np.nan))
    assert report.phase == "moving" and report.count["bad_action"] > 5
    assert np.abs(report.state.q - before).max() < 1e-3


def test_preflight_checks_everything(driver):
    found = {check.name: check for check in checks(driver, sends=True)}
    assert found["commands come back"].passed is None, "there is no echo on this path"
    wrong = [check.name for check in found.values() if check.passed is False]
    assert wrong == ["joint limits"], "franky-sim's description has wider ones than a Research 3"


class Stuck:
    """A gripper that never answers a command."""

    state = type("State", (), {"width": 0.04})()

    def __init__(self):
        self.commands, self.free = [], threading.Event()

    def grasp(self, *args, **kwargs):
        self.commands.append("grasp")
        self.free.wait()

    def move(self, *args):
        self.commands.append("move")
        self.free.wait()


def test_a_gripper_that_blocks_stops_nothing(driver):
    stuck = Stuck()
    assert driver.hand is not None
    driver.hand.gripper = stuck
    driver.start()
    target = driver.observe().q + 0.05
    for close in 20 * (True, False):
        begun = time.monotonic()
        driver.grip(close)
        assert time.monotonic() - begun < 0.05
        assert driver.apply(Command(Motion.at_rest(target))) is not None
        time.sleep(0.02)
    assert until(lambda: np.abs(driver.observe().q - target).max() < 0.005, 4.0)[0]
    driver.stop()
    assert until(lambda: driver.observe().mode == "idle")[0] and len(stuck.commands) == 1
    stuck.free.set()


def test_the_gripper_follows_its_commands(driver):
    driver.grip(False)
    assert until(lambda: driver.observe().width > 0.075, 6.0)[0]
    driver.grip(True)
    assert until(lambda: driver.observe().width < 0.01, 6.0)[0]


def gripper_age(driver) -> Age:
    return Watch(noun="width").look(driver.observe().readings, time.monotonic())[1]


def test_a_gripper_that_moves_goes_on_saying_its_width(driver):
    for close in (False, True, False):
        driver.grip(close)
        for _ in range(20):
            time.sleep(0.05)
            assert not gripper_age(driver).is_old
    assert driver.observe().width > 0.075


class Silent:
    """A gripper whose connection hangs: its state never comes."""

    def __init__(self):
        self.free = threading.Event()

    @property
    def state(self):
        self.free.wait()
        raise RuntimeError("gone")


def test_a_gripper_that_falls_silent_holds_the_arm_and_then_stops_it(driver):
    assert driver.hand is not None and not gripper_age(driver).is_old
    silent = driver.hand.gripper = Silent()
    assert until(lambda: gripper_age(driver).is_old, 2.0)[0] and not gripper_age(driver).is_too_old
    assert "on the gripper's connection is 0." in gripper_age(driver).sentence
    assert until(lambda: gripper_age(driver).is_too_old, 4.0)[0]
    silent.free.set()


def test_a_second_client_gets_the_reason_for_having_no_arm(driver, server):
    second = make_driver(FR3, server.robot, SafetySettings())
    with pytest.raises(UserError, match="another client"):
        second.connect(1.0)


def test_an_address_without_an_arm_is_reported(server):
    with pytest.raises(UserError, match="no arm at 127.9.9.9"):
        Control({**server.robot, "url": "127.9.9.9"}, "cartesian", 20, {})


def test_the_setting_chooses_the_driver(monkeypatch):
    with pytest.raises(UserError, match="ros, libfranka"):
        make_driver(FR3, {**load_robot_settings("fr3_direct"), "driver": "carrier pigeon"}, SafetySettings())
    assert load_robot_settings("fr3")["driver"] == load_robot_settings("panda")["driver"] == "ros"
    with pytest.raises(UserError, match="observes no objects"):
        make_driver(FR3, {**load_robot_settings("fr3_direct"), "objects": 1}, SafetySettings())
    monkeypatch.setitem(sys.modules, "franky", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[libfranka\]'"):
        make_driver(FR3, load_robot_settings("fr3_direct"), SafetySettings())

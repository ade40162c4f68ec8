"""A controller on messages put in by hand, by a clock of ours: every topic that is used is watched, and named."""

import numpy as np
import pytest

from real.control import Chunk, Controller
from real.robot import Command, Motion
from real.safety import SafetyFilter, SafetySettings
from robots.actions import ActionMapping
from tests.real.memory import MemoryRobot

CYCLE = 0.01
FORWARD = np.array([[0.5, 0.0, 0.0, -1.0]])
STATES = "/franka_state_controller/franka_states"
LIMITS = {
    "joint_states": 0.1,
    "arm": 0.1,
    "gripper": 0.5,
    "objects": 0.5,
    "goal": 0.5,
}  # s, of configs/robot/panda.yaml


@pytest.fixture(scope="module")
def safety():
    return SafetyFilter(MemoryRobot().arm, SafetySettings())


class Run:
    """An arm that is where it was commanded to be, a policy, and a controller, whose time goes on by `go`."""

    def __init__(self, safety):
        self.robot = MemoryRobot(objects=1, goal=True)
        self.control = Controller(self.robot.driver, ActionMapping(self.robot.arm, "cartesian", 20), safety)
        self.robot.speak()
        self.control.start(self.robot.now)
        assert self.go(0.5).phase == "moving", self.control.detail

    @property
    def speed(self):
        """The largest of the joints' that is commanded, rad/s."""
        return 0.0 if self.control.last is None else np.abs(self.control.last.dq).max()

    def go(self, seconds, *silent, offset_s=0.0, every=1):
        """The report after so long, or at a fault; the silent topics speak every `every` cycles only, if at all."""
        report = None
        for i in range(round(seconds / CYCLE)):
            self.robot.now += CYCLE
            for link in self.robot.links:
                link.now = self.robot.now
            if self.control.last is not None:
                self.robot.q = self.control.last.q
            self.robot.speak(*(silent if every == 1 or i % every else ()), offset_s=offset_s)
            if i % 5 == 0:
                self.control.give(Chunk(self.robot.now, FORWARD))
            if self.control.job is not None:
                self.control.job.result()
            report = self.control.cycle(self.robot.now)
            if report.fault:
                self.took = (i + 1) * CYCLE
                break
        assert report is not None
        return report


@pytest.mark.parametrize("name", LIMITS)
def test_a_silent_topic_holds_the_arm_and_stops_it_as_a_fault_that_names_it(safety, name):
    run, limit = Run(safety), LIMITS[name]
    topic = run.robot.topics[name]
    report = run.go(limit - 0.02, name)
    assert report.phase == "moving" and "held" not in report.count and run.speed > 0
    report = run.go(0.38, name)
    assert report.phase == "moving" and report.count[f"held:{topic}"] == report.count["held"] > 20
    assert run.speed < 1e-6, "it has braked"
    report = run.go(5.0, name)
    within = min(5 * limit, limit + 1.0)
    assert report.fault == "old_state" and run.took == pytest.approx(within - (limit + 0.36), abs=0.025)
    assert f"the newest message on {topic} is {within:.2f}"[:-1] in report.detail, report.detail


def test_a_topic_that_comes_back_lets_the_arm_go_on(safety):
    run = Run(safety)
    run.go(0.4, "arm")
    report = run.go(0.3)
    assert report.phase == "moving" and run.speed > 0.01


@pytest.mark.parametrize("period, fault", [(15, False), (40, True)])
def test_a_topic_that_comes_too_seldom_is_a_fault_in_the_end(safety, period, fault):
    """Every 0.15 s it is too old for a third of the time; every 0.4 s for three quarters: then it is held for 1 s."""
    run = Run(safety)
    report = run.go(6.0, "arm", every=period)
    assert (report.fault == "old_state") is fault and report.count["held"] > 50
    assert not fault or (run.took < 3.0 and report.detail.startswith("held for 1 s") and STATES in report.detail)


@pytest.mark.parametrize(
    "offset, within", [(-0.05, None), (-0.3, 1.03), (-2.0, 0.01), (0.04, None), (0.3, 0.01), (3600, 0.01)]
)
def test_a_clock_that_is_set_is_named_as_that(safety, offset, within):
    run = Run(safety)
    report = run.go(2.0, offset_s=offset)
    assert report.fault == ("clock" if within else "")
    if within is None:
        assert report.phase == "moving" and "held" not in report.count
    else:
        assert run.took <= within and "clock" in report.detail and f"{abs(offset):.2f}" in report.detail, report.detail


def test_a_perception_nodes_clock_is_watched_too(safety):
    run = Run(safety)
    for _ in range(60):
        ahead = run.robot.header(0.3 + CYCLE)
        run.robot.hear("goal", {"header": ahead, "point": {"x": 0.5, "y": 0.0, "z": 0.3}})
        report = run.go(CYCLE, "goal")
    assert report.fault == "clock" and "/goal is 0.300 s ahead" in report.detail


def test_an_arm_is_not_armed_on_a_silent_topic(safety):
    run = Run(safety)
    run.control.stop()
    while run.control.phase != "fault":
        run.go(CYCLE)
    for _ in range(60):
        run.go(CYCLE, "goal")
    run.control.start(run.robot.now)
    report = run.control.cycle(run.robot.now)
    assert (report.phase, report.fault) == ("fault", "refused")
    assert report.detail.startswith("the newest message on /goal is 0.6")


def test_a_wait_for_an_echo_is_counted_as_that(safety):
    run = Run(safety)
    command = run.robot.links[1].topics.pop(run.robot.topics["command"])
    report = run.go(0.3)
    assert report.phase == "moving" and report.count["held:echo"] == report.count["held"] > 10
    run.robot.links[1].topics[run.robot.topics["command"]] = command


def test_another_clients_command_without_a_time_is_noticed(safety):
    run = Run(safety)
    run.robot.hear("command", {"header": {"stamp": {"secs": 0, "nsecs": 0}}, "points": []})
    run.control.cycle(run.robot.now + 0.001)
    assert run.control.fault == "second_client"


def test_what_another_client_commanded_before_is_no_fault(safety):
    robot = MemoryRobot()
    robot.speak()
    robot.hear("command", {"header": {"stamp": {"secs": 0, "nsecs": 0}}, "points": []})
    control = Controller(robot.driver, ActionMapping(robot.arm, "cartesian", 20), safety)
    control.start(robot.now)
    assert control.job is not None
    control.job.result()
    for _ in range(3):
        robot.now += CYCLE
        robot.speak()
        control.cycle(robot.now)
    assert control.phase == "moving"


def test_no_motion_has_a_way_to_rest_that_is_shorter_than_a_millisecond(safety):
    """Nearly at rest, as after a braking: dq 0 and ddq 1e-7 rad/s² take less than a nanosecond."""
    home = safety.arm.home
    assert safety.braking(Motion(home, np.zeros(7), np.full(7, 1e-7))) == []
    assert safety.braking(Motion.at_rest(home)) == []
    (first, _), (last, rest) = safety.braking(Motion(home, np.full(7, 0.01), np.zeros(7)), 2)
    assert 1e-3 < first == pytest.approx(last / 2) and np.abs(rest.dq).max() < 1e-9


def test_all_that_is_sent_in_mid_motion_and_on_the_way_to_rest_increases_in_time(safety):
    run = Run(safety)
    run.go(0.5)
    run.control.stop()
    for _ in range(100):
        run.go(CYCLE)
    sent = [message for link in run.robot.links for message in link.published if "points" in message]
    assert len(sent) > 80
    for message in sent:
        stamps = [point["time_from_start"] for point in message["points"]]
        times = [stamp["secs"] * 10**9 + stamp["nsecs"] for stamp in stamps]
        assert all(b - a >= 10**6 - 10 for a, b in zip(times, times[1:], strict=False)), times
    assert any(len(message["points"]) == 1 for message in sent) and any(len(m["points"]) == 3 for m in sent)
    assert run.robot.driver.apply(Command(Motion.at_rest(run.robot.q))) is not None


def test_another_node_that_publishes_the_arms_joints_stops_the_arm(safety):
    run = Run(safety)
    assert run.go(0.3).phase == "moving"
    speak = run.robot.speak

    def both(*silent, **given):
        speak(*silent, **given)
        if round(run.robot.now / CYCLE) % 2:
            run.robot.hear("joint_states", run.robot.joints(run.robot.arm.joints, 0 * run.robot.q))

    run.robot.speak = both
    report = run.go(1.0)
    assert (report.fault, run.took <= 3 * CYCLE) == ("bad_state", True)
    assert "on /joint_states jumps by" in report.detail and "another node" in report.detail

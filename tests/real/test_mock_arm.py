"""The mock's arm switches controllers and takes trajectories as the real ones do, and the product copes with it.

What is expected is what the real controller manager (noetic) and joint trajectory controller answered when they were
asked, and for ROS 2 what their sources have.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from real import preflight
from real.drivers.messages import to_stamp
from real.drivers.ros import RosDriver
from real.mock.__main__ import carry_out
from real.mock.arm import MockArm
from real.mock.bridge import Bridge
from real.mock.hub import Hub
from real.robot import Command, Motion
from real.settings import load_robot_settings
from real.transports.link import Latest, LinkError
from robots import arm as arms
from sim.tabletop import Tabletop

BEST_EFFORT, STRICT = 1, 2


class HubLink:
    """A link straight to a hub, without a socket."""

    def __init__(self, hub: Hub):
        self.hub, self.is_connected, self.calls = hub, True, ThreadPoolExecutor(4)

    def wait(self, timeout_s): ...
    def close(self): ...
    def subscribe(self, topic, type_):
        latest = Latest(type_)

        def take(message):
            latest.received = message, time.monotonic()

        self.hub.subscribe(topic, type_, take)
        return latest

    def advertise(self, topic, type_):
        self.hub.advertise(topic, type_, self)

    def publish(self, topic, message):
        self.hub.publish(topic, message, self)
        return True

    def call(self, service, args, timeout_s):
        try:
            return self.calls.submit(self.hub.call, service, args).result(timeout_s)
        except TimeoutError:
            raise LinkError(f"{service} did not answer within {timeout_s} s") from None
        except ValueError as error:
            raise LinkError(str(error)) from None

    def act(self, action, type_, goal):
        return True


class Robot:
    """A mock's arm, and a driver at the same hub."""

    def __init__(self, name: str):
        self.settings: dict[str, Any] = load_robot_settings(name)
        self.ros1 = self.settings["dialect"] == "ros1"
        style: dict[str, Any] = {"style": {}, "preference": {}}
        self.hub = Hub(self.settings["dialect"])
        env = Tabletop("reach", robot=self.settings["robot"], control="cartesian", horizon=10**9, **style)
        self.arm = MockArm(self.hub, env, self.settings)
        self.controller = self.arm.name
        self.driver = self.drive(self.settings)

    def drive(self, settings: dict[str, Any]) -> RosDriver:
        driver = RosDriver(arms.load(self.settings["robot"]), settings, open_link=lambda url: HubLink(self.hub))
        end = time.monotonic() + 5
        while any(latest.received[0] is None for latest in driver.latest.values()) and time.monotonic() < end:
            time.sleep(0.01)
        return driver

    def switch(self, word: str, strictness: int, name: str = "") -> bool:
        on, off = ("start", "stop") if self.ros1 else ("activate", "deactivate")
        names = {f"{one}_controllers": [name or self.controller] if one == word else [] for one in (on, off)}
        request = {**names, "strictness": strictness}
        return self.hub.call(self.settings["services"]["start"][0], request)["ok"]

    def command(self, times_ns, names=None, size=None):
        """A trajectory to where the arm is, through points at such times (ns)."""
        q = self.arm.env.joint_positions.tolist()[:size]
        still = [0.0] * len(q)
        stamps = [to_stamp(0, self.ros1) | dict(zip(self.words, divmod(t, 10**9), strict=True)) for t in times_ns]
        points = [
            {"positions": q, "velocities": still, "accelerations": still, "time_from_start": stamp} for stamp in stamps
        ]
        joints = names or list(self.arm.env.arm.joints)
        message = {"header": {"stamp": to_stamp(time.time(), self.ros1)}, "joint_names": joints, "points": points}
        self.hub.advertise(*self.arm.topics["command"])
        self.hub.publish(self.arm.topics["command"][0], message)

    @property
    def words(self):
        return ("secs", "nsecs") if self.ros1 else ("sec", "nanosec")


@pytest.fixture(scope="module", params=["panda", "fr3"])
def shared(request):
    robot = Robot(request.param)
    yield robot
    robot.arm.close()


@pytest.fixture
def robot(shared):
    shared.arm.fault(refuses=False, switch_s=0.0, mode="", force=0.0)
    shared.arm.reset(1)
    shared.arm.count.clear()
    return shared


def test_switching_is_strict_or_a_best_effort(robot):
    on, off = ("start", "stop") if robot.ros1 else ("activate", "deactivate")
    answered = [
        (off, STRICT, False, False), (off, BEST_EFFORT, True, False), (on, STRICT, True, True),
        (on, STRICT, False, True), (on, BEST_EFFORT, True, True), (on, 0, True, True), (off, BEST_EFFORT, True, False),
        (off, 0, True, False), (on, BEST_EFFORT, True, True), (off, STRICT, True, False),
    ]  # fmt: skip
    for step, (word, strictness, ok, runs) in enumerate(answered):
        assert robot.switch(word, strictness) is ok and robot.arm.active is runs, step
    assert not robot.switch(on, STRICT, "no_such_controller") and robot.switch(on, BEST_EFFORT, "no_such_controller")
    assert not robot.switch(off, STRICT, "no_such_controller") and robot.switch(off, BEST_EFFORT, "no_such_controller")
    (listed,) = robot.hub.call(robot.settings["services"]["controllers"][0], {})["controller"]
    assert (listed["name"], listed["state"]) == (robot.controller, "stopped" if robot.ros1 else "inactive")


def test_the_driver_starts_and_stops_as_often_as_one_likes(robot):
    for _ in range(2):
        robot.driver.stop()
        robot.driver.stop()
        assert not robot.arm.active
        robot.driver.start()
        robot.driver.start()
        assert robot.arm.active
    assert robot.arm.count["switches_refused"] == 0


@pytest.mark.parametrize(
    "change, sentence",
    [({"strictness": 2}, "strictness 2"), ({"name": "typing_error"}, "has no controller typing_err")],
)
def test_a_switch_that_does_nothing_is_noticed(robot, change, sentence):
    """A best effort says ok for a name that there is not; and who asks for strictness 2 is told."""
    settings = {**robot.settings, "services": dict(robot.settings["services"])}
    for name in ("start", "stop"):
        service, args, type_ = settings["services"][name]
        args = {**args, "strictness": change.get("strictness", 1)}
        for key in [key for key in args if key.endswith("_controllers") and args[key] and "name" in change]:
            args[key] = [change["name"]]
        settings["services"][name] = [service, args, type_]
    driver = robot.drive(settings)
    with pytest.raises(LinkError, match=sentence):
        driver.stop()
    with pytest.raises(LinkError, match="has no controller" if "name" in change else "strictness"):
        driver.start()
        driver.start()


def test_a_manager_that_lists_nothing_is_believed(robot):
    settings = {**robot.settings, "services": dict(robot.settings["services"])}
    settings["services"]["controllers"] = ["/no/such/service", {}, "controller_manager_msgs/ListControllers"]
    driver = robot.drive(settings)
    driver.stop()
    driver.start()
    del settings["services"]["controllers"]
    driver.stop()
    assert not robot.arm.active


def test_a_switch_takes_as_long_as_it_takes(robot, monkeypatch):
    robot.arm.fault(switch_s=0.3)
    begun = time.monotonic()
    robot.driver.start()
    assert robot.arm.active and 0.3 <= time.monotonic() - begun < 2
    monkeypatch.setattr("real.drivers.ros.SWITCH_S", 0.1)
    with pytest.raises(LinkError, match="did not answer within 0.1 s"):
        robot.driver.stop()
    assert robot.arm.active, "and is stopped later"
    end = time.monotonic() + 3
    while robot.arm.active and time.monotonic() < end:
        time.sleep(0.01)
    assert not robot.arm.active


@pytest.mark.parametrize(
    "times_ns, points, becomes",
    [
        ([50_000_000], {}, "executed"),
        ([50_000_000, 200_000_000, 300_000_000], {}, "executed"),
        ([50_000_000, 50_000_001], {}, "executed"),
        ([50_000_000, 50_000_000, 50_000_000], {}, "refused"),
        ([50_000_000, 49_999_999], {}, "refused"),
        ([50_000_000], {"names": ["other"] * 7}, "refused"),
        ([50_000_000], {"size": 6}, "refused"),
        ([], {}, "empty"),
    ],
)
def test_a_trajectory_is_taken_or_refused_as_a_whole(robot, times_ns, points, becomes):
    robot.command(times_ns, **points)
    assert dict(robot.arm.count) == {"ignored": 1}, "its controller does not run"
    robot.driver.start()
    robot.arm.count.clear()
    before = robot.arm.trajectory
    robot.command(times_ns, **points)
    assert dict(robot.arm.count) == {becomes: 1}
    if becomes == "refused":
        assert robot.arm.trajectory is before, "what was wanted goes on"


def test_a_controller_that_is_switched_off_holds_the_arm_at_once_whatever_its_speed(robot):
    robot.driver.start()
    limits = robot.arm.env.arm.limits.velocity
    with robot.arm.lock:
        q = robot.arm.trajectory.at(time.time()).q
        fast = Motion(q + 0.01, 0.2 * limits, 0 * limits)
        robot.driver.apply(Command(fast, [(0.5, Motion.at_rest(q + 0.1))], time.time() - 0.04))
        time.sleep(0.015)
    robot.driver.stop()
    assert 0.05 < robot.arm.report()["stopped_speed"] < 0.5, "a fifth of the limit, in one tick"
    there = robot.arm.trajectory.at(time.time()).q
    time.sleep(0.05)
    assert (robot.arm.trajectory.at(time.time()).q == there).all()


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(preflight, "WATCH_S", 0.2)
    monkeypatch.setattr(preflight, "ECHO_S", 0.3)


@pytest.mark.parametrize("fault", [{"refuses": True}, {"switch_s": 0.4}])
def test_preflight_sends_nothing_after_a_stop_that_failed(robot, quick, monkeypatch, fault):
    """The real ones refused, or took 1.5 s; then one command of one was executed by a controller that ran."""
    robot.driver.start()
    monkeypatch.setattr("real.drivers.ros.SWITCH_S", 0.2)
    robot.arm.fault(**fault)
    robot.arm.count.clear()
    found = {check.name: check for check in preflight.checks(robot.driver, sends=True)}
    assert found["stop"].passed is False and found["commands come back"].passed is None
    assert "nothing is sent" in str(found["commands come back"])
    assert not set(robot.arm.count) - {"switches_refused"}, "no command came"


@pytest.mark.parametrize("runs", [False, True])
def test_preflight_passes_whether_the_controller_runs_already_or_not(robot, quick, runs):
    robot.arm.fault(switch_s=0.2)
    if runs:
        robot.driver.start()
    found = {check.name: check for check in preflight.checks(robot.driver, sends=True)}
    assert found["stop"].passed and found["commands come back"].passed, [str(check) for check in found.values()]
    assert set(robot.arm.count) <= {"ignored", "stops"}, "what was sent met a controller that is off"


@pytest.mark.parametrize("line", [
    "x", "5", "[1", '{"fault": 5}', '{"fault": {"nosuch": 1}}', '{"reset": "a"}', "",
])  # fmt: skip
def test_a_line_that_is_no_request_is_answered_and_ends_no_mock(robot, line):
    answer = carry_out(line, robot.arm, Bridge(robot.hub, port=0))
    assert list(answer) == ["error"] and "is no request" in answer["error"]
    assert "count" in carry_out('{"report": true}', robot.arm, Bridge(robot.hub, port=0))


def test_a_port_that_there_is_not_is_no_wait_for_ever():
    with pytest.raises(OverflowError, match="port"):
        Bridge(Hub("ros1"), port=99999).start()

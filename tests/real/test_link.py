"""A link that stalls, by a clock of ours: whatever comes late, what the arm's own controller makes of it is smooth."""

import json
from collections import deque
from typing import Any

import numpy as np
import pytest

from real.control import Chunk, Controller
from real.drivers.ros import RosDriver
from real.mock.trajectory import Point, Trajectory, parse_trajectory
from real.robot import State
from real.safety import SafetyFilter, SafetySettings
from real.settings import load_robot_settings
from real.transports.link import Latest
from robots import arm
from robots.actions import ActionMapping

CYCLE, TICK = 0.01, 0.001  # s
FORWARD, BACK, STAY = (0.6, 0.0, 0.3, -1.0), (-0.6, 0.0, -0.3, -1.0), (0.0, 0.0, 0.0, -1.0)


class Wire:
    """In a socket's place: frames arrive after `delay_s`, in order, one in a tick; while it is held, none does."""

    def __init__(self, url: str):
        self.now, self.delay_s, self.held, self.underway, self.is_connected = 0.0, 0.002, False, deque(), True

    def subscribe(self, topic, type_):
        return Latest(type_)

    def advertise(self, topic, type_): ...
    def publish(self, topic, message):
        self.underway.append((self.now + self.delay_s, json.loads(json.dumps(message))))
        return True

    def arrived(self):
        if self.underway and not self.held and self.underway[0][0] <= self.now:
            return self.underway.popleft()[1]
        return None


class Remote(RosDriver):
    """An arm at the other end of such a link, whose states come whenever its commands do."""

    def __init__(self, name: str):
        self.now, self.last_echo = 1e9, None
        super().__init__(arm.load(name), load_robot_settings(name), lambda: self.now, Wire)  # type: ignore[arg-type]
        self.wire: Any = self.stream
        self.trajectory, self.stamp = Trajectory([Point.at_rest(self.arm.home)]), self.now
        self.wanted, self.late, self.hardest, self.fastest, self.begin = self.trajectory.at(0), 0, 0.0, 0.0, 0.0
        self.delivered, self.executed = deque(), []

    def tick(self):
        self.now += TICK
        self.wire.now = self.now
        message = self.wire.arrived()
        if message is not None:
            begin, points = parse_trajectory(message, self.arm.joints, self.now)
            after = self.trajectory.replace(points, self.now - TICK, self.now, jumps=not self.ros1)
            if after is not None:
                self.trajectory, self.late = after, self.late + (points[0].t <= self.now)
                self.executed.append((self.now - begin, points[-1].t))
            self.delivered.append((self.now + 0.002, begin))
        if not self.wire.held:
            self.stamp = self.now
            while self.delivered and self.delivered[0][0] <= self.now:
                self.last_echo = self.delivered.popleft()[1]
        before, self.wanted = self.wanted, self.trajectory.at(self.now)
        limits = self.arm.limits
        self.fastest = max(self.fastest, (np.abs(self.wanted.q - before.q) / TICK / limits.velocity).max())
        self.hardest = max(self.hardest, (np.abs(self.wanted.dq - before.dq) / TICK / limits.acceleration).max())

    def observe(self):
        return State(self.wanted.q, self.wanted.dq, 0.08, "move", 0.0, 1.0, np.zeros((0, 7)), np.zeros(3),
                     self.stamp, self.stamp)  # fmt: skip

    def echo(self):
        return self.last_echo

    def grip(self, close): ...
    def start(self): ...
    def stop(self): ...


class Run:
    """A policy, a controller and an arm, whose time goes on by `go`."""

    def __init__(self, name="panda", seed=0, **settings):
        self.arm = Remote(name)
        self.control = Controller(
            self.arm,
            ActionMapping(self.arm.arm, "cartesian", 20),
            SafetyFilter(self.arm.arm, SafetySettings(**settings)),
        )
        self.random, self.cycles = np.random.default_rng(seed), 0
        self.control.cycle(self.arm.now)
        self.begin()

    def begin(self):
        self.control.start(self.arm.now)
        assert self.control.job is not None
        self.control.job.result()
        self.go(0.02)
        assert self.control.phase == "moving"

    def go(self, seconds, action=None, stalled=False):
        report = None
        for _ in range(round(seconds / CYCLE)):
            for _ in range(round(CYCLE / TICK)):
                self.arm.tick()
            self.cycles += 1
            if stalled:
                continue
            if self.cycles % 5 == 0:
                wild = np.append(self.random.uniform(-1, 1, 3), -1.0) if action is None else np.array(action)
                self.control.give(Chunk(self.arm.now, wild[None]))
            report = self.control.cycle(self.arm.now)
            if self.control.job is not None:
                self.control.job.exception()  # waits
        return report


@pytest.mark.parametrize("name", arm.NAMES)
def test_a_cut_link_leaves_the_arm_on_its_way_to_rest(name):
    for seed in range(4):
        run = Run(name, seed)
        run.go(0.5, FORWARD)
        assert np.abs(run.arm.wanted.dq).max() > 0.05, "in mid-motion"
        run.arm.wire.held = True
        where = [run.control.safety.rest(at) for at in (run.control.known, run.control.last) if at is not None]
        run.go(2.0, FORWARD)
        assert run.control.phase == "fault" and run.control.fault == "old_state"
        assert not run.arm.wanted.dq.any() and min(np.abs(run.arm.wanted.q - rest).max() for rest in where) < 1e-6
        assert run.arm.hardest < 0.35 and run.arm.fastest < 0.21, "the filter's shares are a fifth"


def test_of_an_outage_of_any_length_one_command_is_left_that_may_be_late():
    for outage in (0.06, 0.1, 0.2, 0.3, 0.45, 1.0, 5.0):
        run = Run()
        run.go(0.5, FORWARD)
        run.arm.wire.held, sent = True, len(run.arm.executed)
        run.go(outage, FORWARD)
        assert len(run.arm.wire.underway) == 1
        before = run.arm.wanted.q
        run.arm.wire.held = False
        run.go(0.02, STAY)
        assert all(end > run.arm.now - 0.02 for _, end in run.arm.executed[sent:]), "what is over moves nothing"
        assert np.abs(run.arm.wanted.q - before).max() < (0.01 if outage < 0.4 else 1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_stalls_of_link_and_process_make_no_fast_motion(seed):
    """On ROS 1, whose controller has time for the way between: a late command is a cycle's motion from where it is."""
    run = Run(seed=seed)
    for _ in range(12):
        run.go(0.4)
        run.arm.wire.held = run.random.random() < 0.7
        run.go(run.random.uniform(0.02, 0.45), stalled=not run.arm.wire.held)
        run.arm.wire.held = False
        run.go(0.8)
        assert run.control.phase == "moving"
    assert run.arm.fastest < 1.0


def test_a_process_that_stalls_goes_on_from_where_the_arm_has_braked_to():
    run = Run()
    for stall in (0.03, 0.06, 0.1, 0.2, 0.5):
        run.go(0.5, FORWARD)
        run.go(stall, stalled=True)
        run.go(0.5, BACK)
    assert run.control.phase == "moving" and run.arm.hardest < 0.35 and run.arm.late == 0


def test_a_slow_link_is_driven_more_slowly():
    run = Run()
    run.arm.wire.delay_s = 0.02
    run.go(1.0, FORWARD)
    assert 15 < len(run.arm.executed) < 50 and run.arm.late == 0 and run.arm.hardest < 0.35
    assert np.abs(run.arm.wanted.q - run.arm.arm.home).max() > 0.05

"""The controller by a clock of ours: every watchdog, what it does, within what time, and what it counts."""

import math

import numpy as np
import pytest

from real.control import ECHO_S, Chunk, Controller, Schedule
from real.mock.trajectory import Point, Trajectory
from real.robot import Applied, Motion, State, StateError, make_spec
from real.safety import SafetyFilter, SafetySettings
from real.settings import load_robot_settings
from robots import arm
from robots.actions import ActionMapping

PANDA = arm.load("panda")
CYCLE, STEP = 0.01, 0.05  # s
HALF = np.array([0.5, 0, 0, -1])


class Arm:
    """A `Robot` by a clock of ours, that follows commands and can be made to misbehave."""

    def __init__(self, arm=PANDA):
        settings = {**load_robot_settings(arm.name), "objects": 0, "goal": False}
        self.arm, self.spec = arm, make_spec(arm, settings, has_echo=True, is_exclusive=False)
        self.now, self.sent, self.switched, self.gripped = 100.0, [], [], []
        self.q = arm.home
        self.mode, self.stamp_offset, self.rate, self.force = "idle", 0.0, 1.0, 0.0
        self.fault, self.frozen, self.deaf, self.link = "", None, False, True
        self.echoed = None

    def clock(self):
        return self.now

    def connect(self, timeout_s): ...
    def close(self): ...
    def find_other_messages(self):
        return []

    def description(self):
        return ""

    def observe(self):
        if self.fault:
            raise StateError(self.fault, "as the test has it")
        t = self.now if self.frozen is None else self.frozen
        still = np.zeros(self.arm.dof)
        return State(self.q, still, 0.08, self.mode, self.force, self.rate, np.zeros((0, 7)), np.zeros(3),
                     t + self.stamp_offset, self.now)  # fmt: skip

    @property
    def q(self):
        return self.trajectory.at(self.now).q

    @q.setter
    def q(self, q):
        self.trajectory = Trajectory([Point.at_rest(np.array(q))])

    def apply(self, command):
        if not self.link:
            return None
        motion, way, t = command
        self.sent.append((self.now, motion))
        points = [Point(t + 0.05 + after, *at) for after, at in [(0.0, motion), *way]]
        self.trajectory = self.trajectory.replace(points, self.now, self.now, jumps=False)
        if not self.deaf:
            self.echoed = self.now
        return Applied(motion.q, self.now)

    def echo(self):
        return self.echoed

    def grip(self, close):
        self.gripped.append(close)

    def start(self):
        self.switched.append("start")
        self.mode = "move"

    def stop(self):
        self.switched.append("stop")
        self.mode = "idle"


class Run:
    """A controller whose time goes on by `go`."""

    def __init__(self, arm=PANDA, **settings):
        self.arm = Arm(arm)
        self.safe = SafetyFilter(arm, SafetySettings(**settings))
        self.control = Controller(self.arm, ActionMapping(arm, "cartesian", 20), self.safe)
        self.control.cycle(self.arm.now)

    def go(self, seconds, action=None, delay=0.0):
        """Cycles for so long; a policy that sees the arm every step acts, so many seconds later."""
        report, given, pending = None, -math.inf, []
        for _ in range(round(seconds / CYCLE)):
            self.arm.now += CYCLE
            if action is not None and self.arm.now - given >= STEP - 1e-9:
                given = self.arm.now
                pending.append((given + delay, Chunk(given, np.array([action]))))
            while pending and pending[0][0] <= self.arm.now + 1e-9:
                self.control.give(pending.pop(0)[1])
            report = self.control.cycle(self.arm.now)
            if self.control.job is not None:
                self.control.job.result()
        return report

    def moving(self):
        self.control.start(self.arm.now)
        report = self.go(0.1)
        assert report.phase == "moving"
        return self


def test_actions_move_the_arm_as_far_as_they_say():
    run = Run(speed=1, acceleration=1, jerk=1).moving()
    before, _ = PANDA.kinematics.pose(run.arm.q)
    run.go(1.0, action=HALF)
    run.go(0.5)
    after, _ = PANDA.kinematics.pose(run.arm.q)
    assert after[0] - before[0] == pytest.approx(20 * 0.01, abs=0.012), "20 actions of half of 2 cm"
    assert np.abs((after - before)[1:]).max() < 0.005
    assert set(run.arm.gripped) == {False}


def test_nothing_is_sent_before_it_is_armed_or_without_actions_moved():
    run = Run()
    assert run.go(0.5, action=HALF).phase == "idle" and not run.arm.sent
    run.moving().go(0.5)
    assert all(np.array_equal(motion.q, PANDA.home) for _, motion in run.arm.sent)


@pytest.mark.parametrize("delay, moved", [(0.02, True), (0.04, True), (0.06, False), (0.25, False)])
def test_an_action_that_comes_too_late_for_its_step_is_left_out(delay, moved):
    run = Run().moving()
    report = run.go(0.5, action=HALF, delay=delay)
    assert (np.abs(run.arm.q - PANDA.home).max() > 0.01) == moved
    assert (report.count.get("skipped", 0) > 3) == (not moved)
    assert report.phase == "moving"


def test_of_a_chunk_each_action_has_its_time():
    run = Run(speed=1, acceleration=1, jerk=1).moving()
    x = [0.0, 0.0, 0.5, 0.5, 0.0, 0.0]
    run.control.give(Chunk(run.arm.now, np.array([[a, 0, 0, -1] for a in x])))
    begin = PANDA.kinematics.pose(run.arm.q)[0][0]
    places = []
    for _ in range(7):
        run.go(STEP)
        places.append(PANDA.kinematics.pose(run.arm.q)[0][0] - begin)
    assert abs(places[2]) < 1e-3 and places[3] > 2e-3, "a command's time later"
    assert places[6] == pytest.approx(0.02, abs=0.005)
    late = Run().moving()
    late.arm.now += 0.1  # the first two are over when it comes
    late.control.give(Chunk(late.arm.now - 0.1, np.array([[1, 0, 0, -1]] * 2 + [[0, 1, 0, -1]] * 2)))
    report = late.go(0.1)
    assert report.count["skipped"] == 2 and PANDA.kinematics.pose(late.arm.q)[0][1] > 0


def test_a_policy_that_stops_deciding_leaves_the_arm_at_rest_where_it_was_commanded():
    run = Run().moving()
    run.go(0.5, action=HALF)
    report = run.go(0.6)
    assert report.phase == "moving" and report.count["expired"] > 0
    last = [motion for _, motion in run.arm.sent[-10:]]
    assert all(np.abs(motion.dq).max() < 1e-6 and np.array_equal(motion.q, last[0].q) for motion in last)
    assert run.go(0.3, action=HALF).phase == "moving" and np.abs(run.arm.sent[-1][1].dq).max() > 0, "and goes on"


FAULTS = [
    ("bad_state", {"fault": "bad_state"}, 0.02), ("no_state", {"fault": "no_state"}, 0.02),
    ("old_state", {"frozen": True}, 0.52), ("clock", {"stamp_offset": 0.2}, 0.02), ("mode", {"mode": "reflex"}, 0.52),
    ("mode", {"mode": "user_stopped"}, 0.52), ("mode", {"mode": "guiding"}, 0.52),
    ("lost_commands", {"rate": 0.85}, 0.02), ("force", {"force": 30.0}, 0.02), ("force", {"force": math.nan}, 0.02),
    ("no_echo", {"deaf": True}, ECHO_S + 0.02),
]  # fmt: skip


@pytest.mark.parametrize("word, fault, within", FAULTS)
def test_a_fault_stops_the_arm_in_time_until_a_person_arms_it(word, fault, within):
    run = Run().moving()
    run.go(0.6, action=HALF)
    for name, value in fault.items():
        setattr(run.arm, name, run.arm.now if value is True and name == "frozen" else value)
    report = run.go(within, action=HALF)
    assert report.fault == word and report.phase in ("stopping", "fault") and report.detail
    report = run.go(1.0, action=HALF)
    assert report.phase == "fault" and report.count[f"fault_{word}"] == 1
    assert run.arm.switched == ["start", "stop"], "its own controller was stopped"
    assert np.abs(run.arm.sent[-1][1].dq).max() < 1e-6, "at rest"
    sent = len(run.arm.sent)
    for name, value in vars(Arm()).items():  # all is well again
        if name in fault:
            setattr(run.arm, name, value)
    assert run.go(1.0, action=HALF).phase == "fault" and len(run.arm.sent) == sent, "nothing moves of itself"
    there = run.arm.q.copy()
    run.moving()
    assert np.abs(run.arm.sent[sent][1].q - there).max() < 1e-9, "from where it was commanded"
    speeds = [np.abs(motion.dq).max() for _, motion in run.arm.sent[sent:]]
    assert max(speeds) < 1e-6


def test_an_old_state_holds_the_arm_before_it_is_a_fault():
    run = Run().moving()
    run.go(0.5, action=HALF)
    run.arm.frozen = run.arm.now
    report = run.go(0.49, action=HALF)
    assert report.phase == "moving" and report.count["held"] > 0
    assert np.abs(run.arm.sent[-1][1].dq).max() < 1e-6
    run.arm.frozen = None
    assert run.go(0.3, action=HALF).phase == "moving"


def test_another_commander_is_noticed():
    run = Run().moving()
    run.go(0.2, action=HALF)
    run.arm.deaf, run.arm.echoed = True, run.arm.now + 0.003
    assert run.go(0.02).fault == "second_client"


@pytest.mark.parametrize("fault", [{"mode": "reflex"}, {"fault": "bad_state"}, {"stamp_offset": -1.0}])
def test_it_is_not_armed_where_it_must_not_be(fault):
    run = Run()
    for name, value in fault.items():
        setattr(run.arm, name, value)
    run.control.start(run.arm.now)
    report = run.go(0.1)
    assert (report.phase, report.fault) == ("fault", "refused") and report.detail and not run.arm.sent


def test_an_arm_that_was_moved_by_hand_is_taken_from_where_it_is():
    run = Run().moving()
    run.control.stop()
    run.go(0.3)
    run.arm.q = PANDA.home + np.array([0.3, 0.1, 0, 0.1, 0, 0, 0])
    run.moving()
    assert np.allclose(run.arm.sent[-1][1].q, run.arm.q)


def test_actions_that_are_none_are_counted_and_hold():
    run = Run().moving()
    for bad in ([math.nan, 0, 0, 0], [0, math.inf, 0, 0]):
        report = run.go(0.3, action=np.array(bad))
        assert report.count["bad_action"] > 0 and report.phase == "moving"
    run.control.give(Chunk(run.arm.now, np.zeros((1, 9))))
    run.control.give(Chunk(run.arm.now, np.zeros(4)))
    assert run.go(0.2).phase == "moving"
    assert np.array_equal(run.arm.q, PANDA.home)


@pytest.mark.parametrize("name, seed", [("panda", 0), ("panda", 1), ("fr3", 2), ("ur5", 3), ("ur5", 4)])
def test_whatever_a_policy_does_limits_hold_and_the_motion_is_of_one_piece(name, seed):
    random = np.random.default_rng(seed)
    run = Run(arm.load(name)).moving()
    for _ in range(60):
        kind = random.integers(4)
        actions = random.normal(size=(random.integers(1, 6), 4)) * 10.0 ** random.integers(-1, 3)
        if kind == 0:
            actions[random.integers(len(actions))] = random.choice([np.nan, np.inf, 1e30])
        run.control.give(Chunk(run.arm.now + random.uniform(-0.2, 0.1), actions))
        run.go(random.uniform(0.01, 0.2))
    run.go(1.0)
    moves = run.arm.sent
    assert len(moves) > 300
    before = Motion.at_rest(run.arm.arm.home)
    for _, motion in moves:
        assert np.isfinite(motion.q).all()
        assert (motion.q >= run.safe.low - 1e-9).all() and (motion.q <= run.safe.high + 1e-9).all()
        assert (np.abs(motion.dq) <= run.safe.speed + 1e-6).all()
        assert (np.abs(motion.ddq) <= run.safe.acceleration + 1e-6).all()
        assert (np.abs(motion.q - before.q) <= run.safe.speed * CYCLE + 1e-6).all(), "no seam"
        before = motion
    assert np.abs(moves[-1][1].dq).max() < 1e-6, "at rest when nothing is asked any more"
    assert max(np.abs(motion.dq).max() for _, motion in moves) > 0.05, "and it did move"


class Clock:
    def __init__(self):
        self.now, self.slept = 7.0, []

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds


def test_no_slot_is_lost_and_nothing_drifts():
    clock = Clock()
    schedule = Schedule(20, clock, clock.sleep)
    random = np.random.default_rng(0)
    for n in range(1, 10_001):
        at = schedule.wait()
        assert at == pytest.approx(7.0 + n * 0.05, abs=1e-6) and clock.now == pytest.approx(at, abs=1e-6)
        clock.now += random.uniform(0, 0.049)
    assert schedule.missed == 0
    clock.now += 0.12
    at = schedule.wait()
    assert schedule.missed in (2, 3) and at > clock.now - 0.05
    assert (at - 7.0) / 0.05 == pytest.approx(round((at - 7.0) / 0.05), abs=1e-6), "the same slots as before"

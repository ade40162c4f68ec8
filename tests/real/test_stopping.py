"""How a session stops an arm, by a clock of ours: along the way that it has, and only then its controller."""

import signal
import time
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from real import session as sessions
from real.control import FAULTS
from real.ending import StopSignal, StopSignals, write
from real.keys import Keys
from real.process import Control
from real.session import Session
from real.transports.link import LinkError
from tests.real.test_link import CYCLE, FORWARD, Run


class Handle:
    """In the place of `real.process.Control`: a controller in this process, whose time goes on while one waits."""

    def __init__(self, run: Run):
        self.run, self.is_alive, self.is_silent, self.killed = run, True, False, False
        self.last = run.control.cycle(run.arm.now)

    def report(self):
        return self.last

    def stop(self):
        self.run.control.stop()

    def kill(self):
        self.killed, self.is_alive = True, False

    def go(self, seconds, action=None):
        self.last = self.run.go(seconds, action, stalled=self.is_silent or not self.is_alive) or self.last

    def wait_until_off(self):
        for _ in range(200):
            if not self.is_alive or self.is_silent:
                break
            self.go(CYCLE)
            if self.last.phase in ("idle", "fault") and self.last.controller != "switching":
                break
        return self.last


class Moving:
    """An arm in mid-motion, and a session that may stop it. `switched`: the speed, as a share of the arm's limits, and
    the time of each switch."""

    def __init__(self, monkeypatch, fails=()):
        self.run, self.switched, self.fails = Run(), [], list(fails)
        self.run.arm.stop = self.switch_off
        self.control = Handle(self.run)
        clock = SimpleNamespace(monotonic=lambda: self.run.arm.now, sleep=self.control.go)
        monkeypatch.setattr(sessions, "time", clock)
        self.keys = SimpleNamespace(is_terminal=True, read_key=lambda: "")
        self.session = Session(
            cast(Any, None), cast(Any, self.control), self.run.arm, None, None, cast(Keys, self.keys), 10
        )
        self.control.go(0.5, FORWARD)

    @property
    def speed(self):
        return float((np.abs(self.run.arm.wanted.dq) / self.run.arm.arm.limits.velocity).max())

    def switch_off(self):
        self.switched.append((self.speed, self.run.arm.now))
        if self.fails and self.fails.pop(0):
            raise LinkError("no connection to ws://robot")


def test_a_stop_brakes_along_the_way_and_then_the_controller_is_switched_off_once(monkeypatch):
    arm = Moving(monkeypatch)
    assert arm.speed > 0.1, "half of its share: what the controller would have had to stop in one tick"
    pressed, rests = arm.run.arm.now, arm.control.last.rests
    assert arm.session.stop() == "the arm is at rest; its controller is off"
    ((speed, at),) = arm.switched
    assert speed < 1e-9 and pressed < at <= rests + 3 * CYCLE and rests - pressed < 0.4
    executed = len(arm.run.arm.executed)
    arm.control.go(0.5, FORWARD)
    assert len(arm.run.arm.executed) == executed, "nothing is sent afterwards"


@pytest.mark.parametrize("fault", ["cut", "killed", "frozen"])
def test_without_link_or_process_the_arm_is_switched_off_all_the_same_when_its_way_is_over(monkeypatch, fault):
    arm = Moving(monkeypatch)
    pressed, rests = arm.run.arm.now, arm.control.last.rests
    arm.run.arm.wire.held = fault == "cut"
    arm.control.is_alive, arm.control.is_silent = fault != "killed", fault == "frozen"
    sentence = arm.session.stop()
    assert [speed < 1e-9 for speed, _ in arm.switched] == [True]
    assert pressed < arm.switched[0][1] < rests + sessions.REST_S + 0.05
    assert sentence.endswith("its controller is off")
    assert arm.control.killed == (fault == "frozen"), "what hangs sends nothing when it goes on"


def test_a_controller_that_does_not_go_off_is_tried_twice_and_named(monkeypatch):
    arm = Moving(monkeypatch, fails=[True, True])
    assert arm.session.stop() == (
        "the arm is at rest; its controller may be on (no connection to ws://robot): press the arm's own stop before "
        "you go near it"
    )
    assert len(arm.switched) == 2 and all(speed < 1e-9 for speed, _ in arm.switched)
    arm = Moving(monkeypatch, fails=[True])
    assert arm.session.stop().endswith("its controller is off")


def test_nothing_is_sent_after_a_stop_that_failed_until_one_succeeds():
    run, failing, calls = Run(), [True, True], []

    def switch_off():
        calls.append("stop")
        if failing and failing.pop():
            raise LinkError("refused")

    run.arm.stop, run.arm.start = switch_off, lambda: calls.append("start")
    run.go(0.3, FORWARD)
    run.control.stop()
    report = run.go(0.5)
    assert report is not None and (report.phase, report.controller) == ("fault", "failed")
    sent = len(run.arm.executed)
    run.control.start(run.arm.now)  # tries to stop it first, in vain
    report = run.go(0.5, FORWARD)
    assert report is not None and (report.phase, report.fault) == ("fault", "refused") and "refused" in report.detail
    assert len(run.arm.executed) == sent and calls == ["stop", "stop", "stop"], "and once more after that"
    run.control.start(run.arm.now)
    report = run.go(0.2)
    assert report is not None and report.phase == "moving" and calls[3:] == ["start"]


@pytest.mark.parametrize("fails", [False, True])
def test_a_start_that_fails_or_is_stopped_before_its_end_leaves_a_controller_that_is_off(fails):
    run, calls = Run(), []
    run.control.stop()
    run.go(0.2)

    def switch_on():
        calls.append("start")
        if fails:
            raise LinkError("did not answer in time, and starts later")

    run.arm.start, run.arm.stop = switch_on, lambda: calls.append("stop")
    sent = len(run.arm.executed)
    run.control.start(run.arm.now)
    if not fails:
        run.control.stop()
    report = run.go(0.2, FORWARD)
    assert report is not None and calls == ["start", "stop"] and (report.phase, report.controller) == ("fault", "off")
    assert report.fault == ("refused" if fails else "stopped") and len(run.arm.executed) == sent


def test_a_signal_is_raised_once_and_not_while_the_arm_is_being_stopped():
    before = signal.getsignal(signal.SIGHUP)
    with pytest.raises(StopSignal) as ended, StopSignals(keeps_on=False):
        try:
            signal.raise_signal(signal.SIGHUP)
        finally:
            signal.raise_signal(signal.SIGINT)  # an impatient person
            signal.raise_signal(signal.SIGTERM)
    assert ended.value.status == 129 and signal.getsignal(signal.SIGHUP) == before
    with StopSignals(keeps_on=False) as signals:
        signals.hold()
        signal.raise_signal(signal.SIGINT)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with StopSignals(keeps_on=True):
            signal.raise_signal(signal.SIGHUP)
        with pytest.raises(StopSignal), StopSignals(keeps_on=False):
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_line_that_nobody_can_read_any_more_is_a_stop():
    class Gone:
        def write(self, text):
            raise BrokenPipeError

        def flush(self): ...

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("real.ending.drop_output", lambda: None)  # it would be this process's own
        with pytest.raises(StopSignal) as ended:
            write("step 3", file=cast(Any, Gone()))
    assert ended.value.status == 129


def test_a_process_that_hangs_is_told_from_one_that_works():
    control, now = Control.__new__(Control), time.monotonic()
    for age, silent in ((0.0, False), (5.0, True)):
        handle = SimpleNamespace(is_alive=True, report=lambda age=age: SimpleNamespace(t=now - age))
        assert type(control).is_silent.fget(handle) is silent  # type: ignore[attr-defined]


def test_exit_statuses_are_of_one_thing_each():
    assert len(set(FAULTS.values())) == len(FAULTS) and not {0, 1, 2, 129, 130, 131, 143} & set(FAULTS.values())

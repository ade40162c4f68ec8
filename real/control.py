"""The control loop between a policy and a robot, a hundred times a second: actions become commands, watchdogs watch.

A policy's actions say when they are meant: action k of a chunk belongs to the observation's time + k control steps, and
one whose time has passed is left out. When none is left the arm brakes and holds what it was last *commanded*. A fault
brakes, stops the arm's controller, and nothing moves until a person arms it again.

Every command holds how the arm brakes after it, so that an arm which receives no more comes to rest as planned. A late
command must not pull the arm over to another motion, which may be quick, however close the two are. So one command at
a time is under way: the next goes out when the last has come back on its topic, and begins on it. Until then the arm
does what the last one holds, which is to go on for `valid_s` and then to brake. What did not come back in that time may
be late: then nothing is sent until its braking is over, when the arm rests at one of two places, a cycle apart, and the
state shows at which. That one late command is all that may move the arm after an outage, of any length.
"""

import math
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from real.jumps import describe_jump
from real.robot import Command, Motion, Reading, Robot, State, StateError
from real.safety import SafetyFilter
from real.watch import Age, Watch, worst
from robots.actions import ActionMapping

FAULTS = {  # a word for the record, and the exit status of `python -m real.deploy`
    "no_state": 10, "bad_state": 11, "old_state": 12, "clock": 13, "mode": 14, "lost_commands": 15, "no_echo": 16,
    "second_client": 17, "no_plan": 18, "force": 19, "policy_gone": 20, "control_gone": 21, "stopped": 22,
    "refused": 23, "no_image": 24,
}  # fmt: skip
HOLD_S = 1.0  # held for longer than this, less half of the time between, it is a fault
CYCLE_S = 0.1  # a cycle that takes longer counts as one of this
ECHO_S = 0.5  # a command that was delivered comes back on its topic within this
POINTS = 2  # of the braking that are sent: the next one is seldom near, for a command that is late


class Chunk(NamedTuple):
    """Actions [K, A] of a policy that observed at `t` (s, `time.monotonic`), one for each control step from then."""

    t: float
    actions: np.ndarray


class Report(NamedTuple):
    """The controller after a cycle."""

    t: float
    phase: str  # idle: nothing is sent; starting; moving; stopping: braking after a fault; fault
    fault: str  # of FAULTS, or nothing
    detail: str
    state: State | None
    age: float  # s, of the state
    sent: np.ndarray  # [J] rad, commanded last
    t_sent: float
    count: dict[str, int]  # of interventions, since the beginning
    rests: float = -math.inf  # s, `time.monotonic`: when the arm has come to rest as it was last commanded
    controller: str = "unknown"  # the arm's own: unknown, switching, on, off, failed: it did not stop


class Controller:
    """One cycle after the other, without a clock of its own: `cycle(now)`."""

    def __init__(self, robot: Robot, actions: ActionMapping, safety: SafetyFilter):
        self.robot, self.actions, self.safety = robot, actions, safety
        self.latest_s = robot.spec.latest_state_s
        self.valid_s = safety.settings.latest if robot.spec.valid_s is None else robot.spec.valid_s
        self.phase, self.fault, self.detail = "idle", "", ""
        self.count: Counter[str] = Counter()
        self.last: Motion | None = None  # that was sent
        self.known: Motion | None = None  # that came back in time
        self.chunk, self.done, self.until = None, -1, -math.inf
        self.target: np.ndarray | None = None
        self.now = self.armed = self.t_sent = self.t_echo = -math.inf
        self.t_last = self.ends = -math.inf  # when `last` was sent, and when the last that moves is over
        self.underway: float | None = None  # the stamp of a command that has not come back
        self.watch = Watch(robot.clock)
        self.wrong: Age | None = None  # of the topics that a state is read from, the one that holds the arm
        self.before: State | None = None  # the state of the cycle before
        self.held_s = 0.0
        self.stamps: list[float] = []  # of the commands sent last
        self.echoed: float | None = None  # the last that came back
        self.jobs, self.job = ThreadPoolExecutor(1), None
        self.controller, self.stopped = "unknown", None  # the arm's own, and the last stop of it
        self.moves = False  # what was sent last

    def give(self, chunk: Chunk) -> None:
        """Takes a policy's newest actions in place of those before."""
        if not (chunk.actions.ndim == 2 and chunk.actions.shape[1] == self.actions.action_dim):
            self.count["bad_action"] += 1
            return
        self.chunk, self.done = chunk, -1

    def go(self, q: np.ndarray) -> None:
        """Moves to joint positions [J] rad, step by step, and holds there until actions come."""
        self.chunk, self.target, self.until = None, q, math.inf

    def not_ready(self, now: float) -> str:
        """Why the arm must not be armed now: a sentence, or nothing where it may."""
        try:
            state = self.robot.observe()
        except StateError as error:
            return str(error)
        wrong = worst(self.look(state, now))
        if wrong is not None:
            return wrong.sentence
        if state.mode not in ("idle", "move"):
            return f"the arm is in mode {state.mode}: release the stop, clear its errors"
        violation = self.safety.violation(state.q)
        if violation:
            return f"the arm stands where it must not ({violation}): move it by hand"
        return ""

    def start(self, now: float) -> None:
        """Arms: from here on commands are sent, from where the arm was last commanded to be, at rest."""
        self.count["started"] += 1
        reason = self.not_ready(now)
        if reason:
            self._fail("refused", reason)
            return
        state = self.robot.observe()
        rest = state.q if self.last is None else self.safety.rest(self.last)
        is_close = np.abs(rest - state.q).max() < self.safety.settings.step / 3
        self.last = self.known = Motion.at_rest(rest if is_close else state.q)
        self.underway = None
        self.chunk, self.target, self.until, self.fault, self.detail = None, None, -math.inf, "", ""
        self.stamps.clear()
        self.echoed, self.held_s = self.robot.echo(), 0.0
        self.t_echo = self.now = self.t_last = now
        self.phase, self.job = "starting", self.jobs.submit(self._switch_on, self.stopped)

    def stop(self, fault: str = "stopped", detail: str = "") -> None:
        """Brakes, and then nothing moves until it is started again. A stop that failed is tried again."""
        if self.phase in ("moving", "starting"):
            self._fail(fault, detail)
        elif self.phase == "fault" and self.controller == "failed" and self.job is None:
            self._switch_off()

    def _switch_on(self, stopped: Future | None) -> None:
        if stopped is not None and stopped.exception() is not None:
            self.robot.stop()  # or raises: nothing is sent after a stop that failed
        self.robot.start()

    def _switch_off(self) -> None:
        self.phase, self.job = "fault", self.jobs.submit(self.robot.stop)
        self.stopped = self.job

    def cycle(self, now: float) -> Report:
        """Watches the robot, and sends the command of this cycle, at `now` (s, `time.monotonic`)."""
        passed, self.now, t = min(now - self.now, CYCLE_S), now, self.robot.clock()
        state, age, self.wrong = None, math.inf, None
        try:
            state = self.robot.observe()
            ages = self.look(state, now)
            age, self.wrong = ages[0].age_s, worst(ages)
            self._watch(state, age, now, passed)
            self.before = state
        except StateError as error:
            self.stop(error.fault, str(error))
        if self.job is not None and self.job.done():
            self._on_finished(self.job)
        if self.phase in ("moving", "stopping") and self.job is None:
            if self.phase == "stopping" and not self.moves:
                pass  # what was sent last ends at rest: another one would only put that off
            elif self._is_arm_known(state, age, now):
                self._move(state, now, t)
            elif self.phase == "moving" and now - self.t_last > self.valid_s:
                self._count_hold()
            if self.phase == "stopping" and now > self.ends:
                self._switch_off()
        controller = self.controller if self.job is None else "switching"
        sent = np.full(self.actions.arm.dof, np.nan) if self.last is None else self.last.q
        return Report(
            now,
            self.phase,
            self.fault,
            self.detail,
            state,
            age,
            sent,
            self.t_sent,
            dict(self.count),
            self.ends,
            controller,
        )

    def look(self, state: State, now: float) -> list[Age]:
        """How old each of the messages is that a state was read from, the joints' first."""
        alone = Reading("the arm's connection", state.t_robot, state.t, self.latest_s)
        return self.watch.look(state.readings or (alone,), now)

    def _watch(self, state: State, age: float, now: float, passed: float) -> None:
        if self.phase != "moving":
            return
        wrong = self.wrong
        jump = "" if self.before is None else describe_jump(self.before, state, self.actions.arm)
        self.held_s = max(self.held_s + (passed if wrong is not None else -passed / 2), 0.0)
        if wrong is not None and (wrong.is_ahead or wrong.is_too_old):
            self.stop("clock" if wrong.is_clock else "old_state", wrong.sentence)
        elif wrong is not None and self.held_s > HOLD_S:
            self.stop("clock" if wrong.is_clock else "old_state", f"held for {HOLD_S:g} s: {wrong.sentence}")
        elif jump:
            self.stop("bad_state", jump)
        elif state.mode != "move" and now - self.armed > 0.5:
            self.stop("mode", f"the arm is in mode {state.mode}")
        elif state.mode == "move" and state.success_rate < 0.9:
            self.stop("lost_commands", f"{1 - state.success_rate:.0%} of the commands do not reach the arm's own loop")
        elif not state.force <= self.safety.settings.force:
            self.stop("force", f"the arm feels {state.force:.0f} N")
        else:
            self._watch_echo(age, now)

    def _count_hold(self) -> None:
        """Counts a cycle in which the arm is held, and for want of what."""
        self.count["held"] += 1
        self.count["held:echo" if self.wrong is None else f"held:{self.wrong.topic}"] += 1

    def _watch_echo(self, age: float, now: float) -> None:
        """Commands come back on their topic: ours, and none of another client."""
        echo = self.robot.echo()
        if echo is not None and echo != self.echoed:
            if any(abs(echo - stamp) < 1e-6 for stamp in self.stamps):
                self.t_echo = now
            elif self.stamps and (echo > self.stamps[0] or echo == 0):  # 0: at once, without a time
                self.stop("second_client", "another client commands the arm too")
            self.echoed = echo
        if age > self.latest_s:  # nor do states come
            self.t_echo = now
        if now - self.t_echo > ECHO_S:
            self.stop("no_echo", "commands do not come back: the bridge drops them, and says nothing")

    def _is_arm_known(self, state: State | None, age: float, now: float) -> bool:
        """Whether the arm's motion is known, so that the next command can begin on it."""
        if self.underway is None:
            return True
        assert self.last is not None and self.known is not None
        echo, waited = self.robot.echo(), now - self.t_last
        if echo is not None and abs(echo - self.underway) < 1e-6 and waited <= self.valid_s:
            self.known = self.last
        elif state is None or age > self.latest_s or now - age <= max(self.ends, self.t_last + self.valid_s):
            return False
        else:
            rests = [self.safety.rest(motion) for motion in (self.known, self.last)]
            rest = min(rests, key=lambda rest: np.abs(rest - state.q).max())
            self.last = self.known = Motion.at_rest(rest)
        self.underway = None
        return True

    def _move(self, state: State | None, now: float, t: float) -> None:
        assert self.last is not None
        over = now - self.t_last - self.valid_s
        if over > 0:
            self.last, self.t_last = self.safety.after_braking(self.last, over), now - self.valid_s
        target, expired = None, False
        if self.phase == "moving":
            if self.wrong is not None:
                self._count_hold()
            else:
                self._take_action(now)
                target, expired = self.target, self.target is not None and now > self.until
                self.target = None if expired else self.target
        force = 0.0 if state is None or self.phase != "moving" else state.force
        motion, reasons = self.safety(target, self.last, now - self.t_last, expired=expired, force=force)
        self.count.update(reasons)
        if "no_plan" in reasons:
            self.stop("no_plan", "no braking to rest was found")
        self._send(motion, now, t)

    def _send(self, motion: Motion, now: float, t: float) -> None:
        braking = self.safety.braking(motion, POINTS)
        applied = self.robot.apply(Command(motion, braking, t))
        if applied is None:
            self.count["not_sent"] += 1
            return
        self.last, self.t_last, self.t_sent, self.underway = motion, now, now, applied.stamp
        self.stamps = [*self.stamps[-99:], applied.stamp]
        if braking or self.moves:  # the first command at rest is reached in its time, too
            self.ends = now + self.valid_s + (braking[-1][0] if braking else 0.0)
        self.moves = bool(braking)

    def _take_action(self, now: float) -> None:
        """Makes a target of the action whose time has come."""
        if self.chunk is None:
            return
        assert self.last is not None
        step = 1 / self.actions.hz
        k = min(math.floor((now - self.chunk.t) / step + 1e-6), len(self.chunk.actions))
        if k <= self.done or k < 0:
            return
        self.count["skipped"] += k - self.done - 1
        self.done = k
        if k == len(self.chunk.actions):
            return
        action = self.chunk.actions[k]
        if not np.isfinite(action).all():
            self.count["bad_action"] += 1
            self.target = None
            return
        action = np.clip(action, -1, 1)
        rest = self.safety.rest(self.last)  # so that nothing asked for brakes, and what is still to go counts once
        self.target, self.until = self.actions.joint_targets(rest, action), self.chunk.t + (k + 2) * step
        self.robot.grip(bool(action[-1] > 0))

    def _on_finished(self, job: Future) -> None:
        self.job = None
        error = job.exception()
        if self.phase == "starting" and error is None:
            self.phase, self.armed, self.t_echo, self.controller = "moving", self.now, self.now, "on"
        elif self.phase == "fault":
            self.controller = "off" if error is None else "failed"
            if error is not None:
                self.detail += f"; and its controller did not stop: {error}"
        else:  # a start that failed, or that was stopped before its end
            if self.phase == "starting":
                self._fail("refused", str(error))
            self._switch_off()

    def _fail(self, fault: str, detail: str) -> None:
        assert fault in FAULTS
        self.phase = "stopping" if self.phase in ("moving", "starting") else "fault"
        self.fault, self.detail = fault, detail
        self.count[f"fault_{fault}"] += 1


class Schedule:
    """Slots at a fixed rate from one beginning: being late in one moves no other."""

    def __init__(
        self, hz: float, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
    ):
        self.period, self.clock, self.sleep, self.begun = 1 / hz, clock, sleep, clock()
        self.slot = self.missed = 0

    def wait(self) -> float:
        """Until the next slot: when it was meant to begin. Slots that are over already count as missed."""
        over = math.floor((self.clock() - self.begun) / self.period)
        if over > self.slot:
            self.missed += over - self.slot
            self.slot = over
        self.slot += 1
        at = self.begun + self.slot * self.period
        left = at - self.clock()
        if left > 0:
            self.sleep(left)
        return at

"""Episodes of a policy on an arm: homing, steps at a fixed rate, keys, faults, recording."""

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from pbrl.types import UserError
from real.agent import Agent
from real.cameras import Cameras
from real.control import Chunk, Report, Schedule
from real.ending import StopSignal, check_output, write
from real.keys import STOPS, Keys
from real.process import Control
from real.record import Recorder, Step
from real.robot import Robot, RobotError, State, StateError
from real.takeover import REASON, TAKE, TakeOver
from real.watch import explain_no_way

HOME_S, HOME_RAD = 20.0, 0.01
REST_S = 0.1  # after which an arm that had no more commands is at rest, beyond the time that it was to take
LONGEST_REST_S = 5.0
SETTLE_S = 0.5  # that the measured arm may lag
MOVING_RAD_S = 0.02  # a joint that is slower is at rest
BLIND = 5  # times `latest_s` without an image: the arm is stopped
CHECK_EVERY = 5  # steps between two checks for success in simulation

IsSuccess = Callable[[], bool]


class Session:
    """Episodes of one policy on one arm, moved by the process `control`; `robot` is this process's own connection."""

    def __init__(
        self,
        agent: Agent,
        control: Control,
        robot: Robot,
        cameras: Cameras | None,
        recorder: Recorder | None,
        keys: Keys,
        keep_s: float,
        takeover: TakeOver | None = None,
    ):
        self.agent, self.control, self.robot, self.recorder, self.keys = agent, control, robot, recorder, keys
        self.cameras, self.keep_s, self.takeover = cameras, keep_s, takeover
        self.gripper = 0.0  # the last action's
        self.inference_s: list[float] = []
        self.late_s: list[float] = []  # how much later than scheduled a step began
        self.missed = 0

    def run_episode(self, about: dict[str, Any], steps: int, is_success: IsSuccess | None = None) -> str:
        """Runs an episode; its outcome. `is_success` checks for success in simulation; else a person presses s."""
        report = self.control.start()
        if report.phase != "moving":
            return f"aborted:{report.fault or 'refused'}"
        self.agent.policy.reset()
        if self.takeover is not None:
            self.takeover.is_on = False
        if self.recorder is not None:
            self.recorder.begin(about)
        try:
            outcome = self._run_steps(steps, is_success)
        except StopSignal:
            self.control.stop()  # before anything else
            self._end_recording("aborted:stopped")
            raise
        self._end_recording(outcome)
        return outcome

    def _end_recording(self, outcome: str) -> None:
        if self.recorder is not None:
            self.recorder.end(outcome)
            if self.recorder.error:
                write(f"\nnot recorded: {self.recorder.error}", file=sys.stderr)

    def _run_steps(self, steps: int, is_success: IsSuccess | None) -> str:
        schedule, before, last_image = Schedule(self.agent.hz), self.control.report(), time.monotonic()
        outcome = ""
        for t in range(steps):
            scheduled = schedule.wait()
            begun, report = time.monotonic(), self.control.report()
            self.late_s.append(begun - scheduled)
            outcome = self._requested_outcome(report)
            if not outcome and report.state is not None:
                images, outcome = self._read_images(report.state, begun - last_image)
                if images is not None:
                    last_image = begun
                    try:
                        self._step(scheduled, begun, report, report.state, before, images)
                    except UserError as error:  # of a policy on a server
                        self.stop()
                        write(f"\r{error}", file=sys.stderr)
                        outcome = "aborted:policy_gone"
                    before = report
            if not outcome and is_success is not None and t % CHECK_EVERY == CHECK_EVERY - 1 and is_success():
                outcome = "success"
            if outcome:
                break
            self._show(t, steps, report)
        self.missed += schedule.missed
        return outcome or ("success" if is_success is not None and is_success() else "failure")

    def _read_images(self, state: State, since_last_s: float) -> tuple[dict[str, np.ndarray] | None, str]:
        """The images of all cameras, or None: no action is asked for, so the arm brakes and holds; and an outcome."""
        if self.cameras is None:
            return {}, ""
        try:
            images = self.cameras.images()
            self.cameras.check_frozen(state.q)
            return images, ""
        except StateError as error:
            if since_last_s <= BLIND * self.cameras.latest_s:
                return None, ""
            self.stop()
            write(f"\r{error}", file=sys.stderr)
            return None, f"aborted:{error.fault}"

    def _step(
        self,
        scheduled: float,
        begun: float,
        report: Report,
        state: State,
        before: Report,
        images: dict[str, np.ndarray],
    ) -> None:
        reasons = tuple(sorted(k for k, n in report.count.items() if n > before.count.get(k, 0)))
        if self.takeover is not None and self.takeover.is_on:
            obs, actions = self.agent.state_vector(state).astype(np.float32), self.takeover.action(begun)[None]
            reasons = (*reasons, REASON)
        else:
            obs, actions = self.agent.act(state, images)
        self.gripper = float(actions[0, -1])
        inferred = time.monotonic()
        self.inference_s.append(inferred - begun)
        self.control.give(Chunk(begun, actions))
        if self.recorder is None:
            return
        self.recorder.add(
            Step(
                scheduled,
                state.t,
                inferred,
                report.t_sent,
                report.age,
                obs,
                actions[0],
                report.sent,
                state.q,
                state.dq,
                state.width,
                reasons,
                report.phase,
                images,
            )
        )

    def go_home(self) -> str:
        """Moves to the home pose; the outcome where a key, or a fault, stops it on its way. Raises UserError."""
        report = self.control.start()
        if report.phase != "moving":
            return f"aborted:{report.fault or 'refused'}"
        home = self.agent.arm.home
        self.control.go(home)
        before, end = self.control.report(), time.monotonic() + HOME_S
        while np.abs((report := self.control.report()).sent - home).max() > HOME_RAD:
            outcome = self._requested_outcome(report)
            if outcome.startswith("aborted:"):
                return outcome
            if time.monotonic() > end:
                self.stop()
                cycles = round((report.t - before.t) * self.robot.spec.command_hz)
                why = report.detail or explain_no_way(before.count, report.count, cycles)
                raise UserError(f"the home pose was not reached: {why}")
            time.sleep(0.02)
        return ""

    def stop(self) -> str:
        """Stops the arm: what it does now, in a sentence.

        It brakes along the way that it was last commanded, and then its controller is switched off, by the process
        that commands it. Where that process is gone, or does not manage, the arm comes to rest by that same way; it is
        given the time, and its controller is switched off over this process's own connection.
        """
        self.control.stop()
        report = self.control.wait_until_off()
        problem = ""
        if not (self.control.is_alive and report.controller == "off"):
            if self.control.is_silent:
                self.control.kill()  # what hangs must not go on to send
            time.sleep(float(np.clip(report.rests + REST_S - time.monotonic(), 0, LONGEST_REST_S)))
            try:
                self.robot.stop()
            except RobotError as error:
                problem = str(error)
        return describe_arm(self._wait_for_rest(), problem)

    def _wait_for_rest(self) -> State | None:
        """The arm's state when it is at rest, or when that takes too long; None where none comes."""
        end, state = time.monotonic() + SETTLE_S, self._newest_state()
        while (state is None or not is_at_rest(state)) and time.monotonic() < end:
            time.sleep(0.01)
            state = self._newest_state()
        return state

    def _newest_state(self) -> State | None:
        if self.control.is_alive:
            report = self.control.report()
            return report.state if report.age < self.robot.spec.latest_state_s else None
        try:
            state = self.robot.observe()
        except (StateError, RobotError):
            return None
        return state if time.monotonic() - state.t < self.robot.spec.latest_state_s else None

    def _requested_outcome(self, report: Report) -> str:
        """The outcome that a person or a fault has brought about, or nothing. Raises StopSignal where the terminal is
        gone."""
        if not self.control.is_alive or self.control.is_silent:
            self.stop()
            return "aborted:control_gone"
        if report.phase != "moving":
            return f"aborted:{report.fault}"
        check_output()
        while key := self.keys.read_key():
            if self.takeover is not None and self.takeover.press(key, time.monotonic(), self.gripper):
                if key == TAKE:
                    write(
                        "\ra person has the arm: t gives it back" if self.takeover.is_on else "\rthe policy has the arm"
                    )
            elif key == "k" and self.recorder is not None:
                self.recorder.save_last(self.keep_s)
            elif key in STOPS:
                self.stop()
                return "aborted:stopped"
            elif key in ("s", "f"):
                return {"s": "success", "f": "failure"}[key]
        return ""

    def _show(self, t: int, steps: int, report: Report) -> None:
        if sys.stderr.isatty():
            counts = " ".join(f"{n} {name}" for name, n in sorted(report.count.items()) if n)
            line = f"step {t + 1}/{steps}  state {1e3 * report.age:.0f} ms old  {counts}"
            write(f"\r{line:100.100}", end="", file=sys.stderr)

    def timing(self) -> str:
        """How punctual the steps were, in a line."""
        if len(self.late_s) < 2:
            return "no steps"
        late, inference = np.array(self.late_s) * 1e3, np.array(self.inference_s or [0.0]) * 1e3
        return (
            f"{len(late)} steps, {self.missed} slots missed; begun late by {np.median(late):.1f} ms (median), "
            f"{np.percentile(late, 99):.1f} (p99), {late.max():.1f} (most); inference {np.median(inference):.1f} ms"
        )


def is_at_rest(state: State) -> bool:
    """Whether no joint moves by more than its sensor's noise."""
    return bool(np.abs(state.dq).max() < MOVING_RAD_S)


def describe_arm(state: State | None, problem: str) -> str:
    """What an arm does after a stop: `state` is its own, if one comes, `problem` why its controller may still be on."""
    if state is None:
        what = "no state comes from the arm, which comes to rest as it was last commanded"
    elif is_at_rest(state):
        what = "the arm is at rest"
    else:
        what = f"the arm still moves, at {np.abs(state.dq).max():.2f} rad/s"
    if problem:
        return f"{what}; its controller may be on ({problem}): press the arm's own stop before you go near it"
    return f"{what}; its controller is off"

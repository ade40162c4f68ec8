"""Episodes of a policy on an arm: homing, steps at a fixed rate, keys, faults, recording."""

import contextlib
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from pbrl.types import UserError
from real.agent import Agent
from real.cameras import Cameras
from real.control import Chunk, Report, Schedule
from real.keys import Keys
from real.process import Control
from real.record import Recorder, Step
from real.robot import Robot, RobotError, State, StateError
from real.watch import explain_no_way

HOME_S, HOME_RAD, START_S = 20.0, 0.01, 3.0
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
    ):
        self.agent, self.control, self.robot, self.recorder, self.keys = agent, control, robot, recorder, keys
        self.cameras, self.keep_s = cameras, keep_s
        self.inference_s: list[float] = []
        self.late_s: list[float] = []  # how much later than scheduled a step began
        self.missed = 0

    def run_episode(self, about: dict[str, Any], steps: int, is_success: IsSuccess | None = None) -> str:
        """Runs an episode; its outcome. `is_success` checks for success in simulation; else a person presses s."""
        report = self.control.start()
        if report.phase != "moving":
            return f"aborted:{report.fault or 'refused'}"
        self.agent.policy.reset()
        if self.recorder is not None:
            self.recorder.begin(about)
        outcome = self._run_steps(steps, is_success)
        if self.recorder is not None:
            self.recorder.end(outcome)
            if self.recorder.error:
                print(f"\nnot recorded: {self.recorder.error}", file=sys.stderr)
        return outcome

    def _run_steps(self, steps: int, is_success: IsSuccess | None) -> str:
        schedule, before, last_image = Schedule(self.agent.hz), self.control.report(), time.monotonic()
        outcome = ""
        for t in range(steps):
            scheduled = schedule.wait()
            begun, report = time.monotonic(), self.control.report()
            self.late_s.append(begun - scheduled)
            outcome = self._requested_outcome(report)
            if not outcome and report.state is not None:
                images, outcome = self._read_images(begun - last_image)
                if images is not None:
                    last_image = begun
                    self._step(scheduled, begun, report, report.state, before, images)
                    before = report
            if not outcome and is_success is not None and t % CHECK_EVERY == CHECK_EVERY - 1 and is_success():
                outcome = "success"
            if outcome:
                break
            self._show(t, steps, report)
        self.missed += schedule.missed
        return outcome or ("success" if is_success is not None and is_success() else "failure")

    def _read_images(self, since_last_s: float) -> tuple[dict[str, np.ndarray] | None, str]:
        """The images of all cameras, or None: no action is asked for, so the arm brakes and holds; and an outcome."""
        if self.cameras is None:
            return {}, ""
        try:
            return self.cameras.images(), ""
        except StateError as error:
            if since_last_s <= BLIND * self.cameras.latest_s:
                return None, ""
            self.stop()
            print(f"\r{error}", file=sys.stderr)
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
        obs, actions = self.agent.act(state, images)
        inferred = time.monotonic()
        self.inference_s.append(inferred - begun)
        self.control.give(Chunk(begun, actions))
        if self.recorder is None:
            return
        reasons = tuple(sorted(k for k, n in report.count.items() if n > before.count.get(k, 0)))
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

    def go_home(self) -> None:
        """Moves to the home pose. Raises UserError."""
        if self.control.start().phase != "moving":
            return
        home = self.agent.arm.home
        self.control.go(home)
        before, end = self.control.report(), time.monotonic() + HOME_S
        while np.abs((report := self.control.report()).sent - home).max() > HOME_RAD:
            if time.monotonic() > end or report.phase != "moving":
                self.stop()
                cycles = round((report.t - before.t) * self.robot.spec.command_hz)
                why = report.detail or explain_no_way(before.count, report.count, cycles)
                raise UserError(f"the home pose was not reached: {why}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Stops the arm over a connection of its own and through the controller; returns when it is at rest."""
        self.control.stop()
        with contextlib.suppress(RobotError):
            self.robot.stop()
        self.control.wait("idle", "fault", timeout_s=START_S)

    def _requested_outcome(self, report: Report) -> str:
        """The outcome that a person or a fault has brought about, or nothing."""
        if not self.control.is_alive:
            with contextlib.suppress(RobotError):
                self.robot.stop()
            return "aborted:control_gone"
        if report.phase != "moving":
            return f"aborted:{report.fault}"
        key = self.keys.read_key()
        if key == "k" and self.recorder is not None:
            self.recorder.save_last(self.keep_s)
        if key in (" ", "q"):
            self.stop()
            return "aborted:stopped"
        return {"s": "success", "f": "failure"}.get(key, "")

    def _show(self, t: int, steps: int, report: Report) -> None:
        if sys.stderr.isatty():
            counts = " ".join(f"{n} {name}" for name, n in sorted(report.count.items()) if n)
            line = f"step {t + 1}/{steps}  state {1e3 * report.age:.0f} ms old  {counts}"
            print(f"\r{line:100.100}", end="", file=sys.stderr)

    def timing(self) -> str:
        """How punctual the steps were, in a line."""
        if len(self.late_s) < 2:
            return "no steps"
        late, inference = np.array(self.late_s) * 1e3, np.array(self.inference_s or [0.0]) * 1e3
        return (
            f"{len(late)} steps, {self.missed} slots missed; begun late by {np.median(late):.1f} ms (median), "
            f"{np.percentile(late, 99):.1f} (p99), {late.max():.1f} (most); inference {np.median(inference):.1f} ms"
        )

"""A Franka arm on the same network, without ROS: franky (over libfranka, Franka's own protocol) reads and commands it.

This computer is then the real-time one: franky's own thread talks to the arm a thousand times a second, and plans the
way to the newest target within the shares of the arm's limits that the safety filter has. Every target is a place to
rest at: an arm that receives no more goes to the last one and holds. At full speed it is half a second behind. What
ROS has and this path has not: commands do not come back, so `echo` is no more than the last command that franky
took; the arm's clock is not ours, so a state is stamped when it comes; one client holds the arm at a time; and objects
are not observed, nor a goal: it is a setting.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from pbrl.types import UserError
from real.robot import (
    MODES,
    Applied,
    Command,
    Reading,
    RobotError,
    RobotSpec,
    State,
    StateError,
    check_finite,
    make_spec,
)
from real.safety import SafetySettings
from robots.arm import Arm, Gripper

log = logging.getLogger(__name__)

REST_S, REST = 1.0, 1e-3  # how long a stop waits for the arm to be at its last target, and rad/s that are rest
BEGIN_S = 1.0
READ_S = 0.002
UNFILTERED = 1000.0  # Hz, libfranka's word for no low-pass filter: franky's plan is smooth
SAME = 1e-6  # rad: to plan anew for what is the same only delays it
# A motion that takes over begins where the one before commanded the arm to be, not where franky estimates that it is:
# with franky's own variances a new target every 30 ms loses the acceleration, and the arm goes to and fro.
COMMANDED = {
    "kalman_q_process_var": 1.0, "kalman_dq_process_var": 1e2, "kalman_ddq_process_var": 1e4,
    "kalman_control_process_var": 1e4, "kalman_q_d_obs_var": 1e-10, "kalman_dq_d_obs_var": 1e-10,
    "kalman_ddq_d_obs_var": 1e-10, "kalman_control_adaptation_rate": 1.0,
}  # fmt: skip


def import_franky() -> Any:
    """The module franky. Raises UserError."""
    try:
        import franky  # type: ignore[import-not-found]
    except ImportError as error:
        raise UserError(f"driver: libfranka needs franky ({error}): pip install -e '.[libfranka]'") from error
    return franky


class GripperThreads:
    """A gripper that may take its time or never answer: two threads of its own wait for it."""

    def __init__(self, gripper: Any, limits: Gripper):
        self.gripper, self.limits = gripper, limits
        self.width, self.read_at = float(gripper.state.width), time.monotonic()  # m, s
        self.target: bool | None = None  # whether to be closed
        self.new, self.over = threading.Event(), threading.Event()
        for work in (self._read, self._act):
            threading.Thread(target=work, daemon=True).start()

    def grip(self, close: bool) -> None:
        """Takes a target; the newest is carried out when the gripper is free."""
        if close != self.target:
            self.target = close
            self.new.set()

    def close(self) -> None:
        """Ends both threads."""
        self.over.set()
        self.new.set()

    def _read(self) -> None:
        while not self.over.wait(0.02):
            with contextlib.suppress(Exception):  # the width before stands, and grows old
                self.width, self.read_at = float(self.gripper.state.width), time.monotonic()

    def _act(self) -> None:
        full, speed, force = self.limits.width, self.limits.speed, self.limits.force
        while True:
            self.new.wait()
            self.new.clear()
            if self.over.is_set():
                return
            try:
                if self.target:
                    self.gripper.grasp(0.0, speed, force / 2, epsilon_inner=full, epsilon_outer=full)
                else:
                    self.gripper.move(full, speed)
            except Exception as error:  # whatever it is, the arm goes on
                log.warning("the gripper did not %s: %s", "close" if self.target else "open", error)


class LibfrankaDriver:
    """A `Robot` over libfranka. `settings` as in configs/robot/fr3_direct.yaml.

    `safety`: its shares of the arm's limits are those of franky's plans. Raises UserError for settings that it cannot
    serve.
    """

    def __init__(
        self, arm: Arm, settings: dict[str, Any], safety: SafetySettings, clock: Callable[[], float] = time.time
    ):
        self.franky = import_franky()
        if settings["objects"]:
            raise UserError("driver: libfranka observes no objects: a perception node needs ROS, robot=fr3")
        self.arm, self.settings, self.safety, self.clock = arm, settings, safety, clock
        self.spec: RobotSpec = make_spec(arm, settings, has_echo=False, is_exclusive=True)
        self.robot: Any = None
        self.hand: GripperThreads | None = None
        self.failed: Exception | None = None
        self.latest: State | None = None
        self.broken: StateError | None = None  # why the last motion ended; the fault no_state: the connection is gone
        self.accepted: float | None = None
        self.target: np.ndarray | None = None  # [J] rad, franky's now
        self.active, self.over = False, False
        self.lock = threading.Lock()  # no command slips in behind a stop
        self.connecting = threading.Thread(target=self._connect, daemon=True)
        self.connecting.start()

    def connect(self, timeout_s: float) -> None:
        """Waits until the arm and its gripper have answered. Raises UserError."""
        self.connecting.join(timeout_s)
        url = self.settings["url"]
        if self.connecting.is_alive():
            self.over = True
            raise UserError(f"{url} does not answer, or another client has the arm: one at a time")
        if self.failed is not None:
            raise UserError(f"no arm at {url} ({self.failed}): is FCI activated in Desk, and the brakes open?")

    def _connect(self) -> None:
        real_time = (
            self.franky.RealtimeConfig.Enforce if self.settings["realtime"] else self.franky.RealtimeConfig.Ignore
        )
        try:
            robot = self.franky.Robot(self.settings["url"], realtime_config=real_time, **COMMANDED)
            for limit, share, ours in (
                (robot.joint_velocity_limit, self.safety.speed, self.arm.limits.velocity),
                (robot.joint_acceleration_limit, self.safety.acceleration, self.arm.limits.acceleration),
                (robot.joint_jerk_limit, self.safety.jerk, self.arm.limits.jerk),
            ):
                limit.set(share * np.minimum(ours, limit.max))
            self.hand = GripperThreads(self.franky.Gripper(self.settings["url"]), self.arm.gripper)
            self.robot = robot
        except (self.franky.Exception, RuntimeError, ValueError) as error:
            self.failed = error
            return
        threading.Thread(target=self._read, args=(robot,), daemon=True).start()

    def _read(self, robot: Any) -> None:
        """The newest state, until the connection is gone: reading then waits a second each time."""
        last_s = -1.0
        while not self.over and not self._is_gone():
            try:
                if self.active:
                    robot.poll_motion()
                state = robot.state
            except Exception as error:  # libfranka's own, or franky's
                self._record_error(error)
                continue
            if state.time.to_sec() != last_s:
                last_s = state.time.to_sec()
                self.latest = self._parse(state)
            time.sleep(READ_S)

    def _parse(self, state: Any) -> State:
        assert self.hand is not None
        t_robot, t = self.clock(), time.monotonic()
        return State(
            q=np.array(state.q, float),
            dq=np.array(state.dq, float),
            width=self.hand.width,
            mode=MODES[int(state.robot_mode)],
            force=float(np.linalg.norm(state.O_F_ext_hat_K[:3])),
            success_rate=float(state.control_command_success_rate),
            objects=np.zeros((0, 7)),
            goal=np.array(self.settings["goal_m"], float),
            t_robot=t_robot,
            t=t,
            readings=(
                Reading("the arm's connection", t_robot, t, self.spec.latest_state_s),
                Reading("the gripper's connection", None, self.hand.read_at, float(self.settings["latest_gripper_s"])),
            ),
        )

    def observe(self) -> State:
        """The newest state. Raises StateError."""
        if self.broken is not None:
            raise self.broken
        if self.latest is None:
            raise StateError("no_state", f"nothing has come from {self.settings['url']}")
        try:
            assert self.latest.q.shape == self.latest.dq.shape == (self.arm.dof,), "another number of joints"
            return check_finite(self.latest)
        except (ValueError, AssertionError) as error:
            raise StateError("bad_state", f"a state that cannot be read: {error}") from error

    def apply(self, command: Command) -> Applied | None:
        """Moves to where a command's braking ends; the last target that franky took, or None.

        franky plans how and when. A new target goes out every `retarget_s`; those between are passed over, and one that
        it has is not sent again.
        """
        motion, rest = command.motion, command.braking[-1][1].q if command.braking else command.motion.q
        if motion.q.shape != (self.arm.dof,) or not motion.is_finite or not np.isfinite(rest).all():
            return None  # franky takes numbers that are not finite, and fails when it plans
        with self.lock:
            now = self.clock()
            if not self.active or self.broken is not None:
                return None
            if self.accepted is None or not 0 <= now - self.accepted < self.settings["retarget_s"]:
                try:
                    if self.target is None or np.abs(rest - self.target).max() > SAME:
                        self._move_towards(rest)
                except Exception as error:  # what ended the motion before comes up here too
                    self._record_error(error)
                    return None
                self.accepted, self.target = now, rest
            assert self.target is not None
            return Applied(self.target, self.accepted)

    def echo(self) -> float | None:
        """The stamp of the last command that franky took. That it reached the arm, the success rate has to say."""
        return self.accepted

    def grip(self, close: bool) -> None:
        """Closes or opens the gripper, if it is not doing so already. Returns at once."""
        if self.hand is not None:
            self.hand.grip(close)

    def start(self) -> None:
        """Holds the arm where it is, and begins to take commands. Recovers from nothing. Raises RobotError."""
        with self.lock:
            state = self._robot().state
            if MODES[int(state.robot_mode)] != "idle" or self._robot().has_errors:
                raise RobotError(
                    f"the arm is in mode {state.robot_mode.name} ({state.current_errors}): clear it in Desk"
                )
            try:
                self._move_towards(np.array(state.q_d, float))
            except self.franky.Exception as error:
                raise RobotError(f"the arm does not start: {error}") from error
            self.accepted, self.target, self.active = None, None, True
        end = time.monotonic() + BEGIN_S
        while self.latest is None or self.latest.mode != "move":
            if self.broken is not None or time.monotonic() > end:
                self.active = False
                raise RobotError(f"the arm does not begin to move: {self.broken or 'its mode stays as it was'}")
            time.sleep(READ_S)

    def stop(self) -> None:
        """Takes no more commands, lets the arm come to rest at its last target, and ends the motion. RobotError."""
        with self.lock:
            self.active = False
        robot = self._robot()
        end = time.monotonic() + REST_S
        while (
            self.latest is not None
            and np.abs(self.latest.dq).max() > REST
            and time.monotonic() < end
            and not self._is_gone()
        ):
            time.sleep(READ_S)
        try:
            robot.stop()
            with contextlib.suppress(self.franky.Exception):
                robot.join_motion(BEGIN_S)  # says that it was stopped
        except self.franky.Exception as error:
            self._record_error(error)
            raise RobotError(str(error)) from error
        if not self._is_gone():
            self.broken = None

    def find_other_messages(self) -> list[str]:
        """None: the arm alone speaks on this path."""
        return []

    def description(self) -> str:
        """The arm's URDF, as the arm has it. Raises RobotError."""
        return str(self._robot().model_urdf)

    def close(self) -> None:
        """Lets the arm go."""
        self.active, self.over = False, True
        if self.hand is not None:
            self.hand.close()
        if self.robot is not None and not self._is_gone():
            with contextlib.suppress(self.franky.Exception):
                self.robot.stop()
        self.robot = self.hand = None  # the last that refers to them closes the connection

    def _move_towards(self, q: np.ndarray) -> None:
        target = self.franky.JointState(q)
        motion = self.franky.JointMotion(target, return_when_finished=False)
        self._robot().move(motion, asynchronous=True, cutoff_frequency=UNFILTERED)

    def _robot(self) -> Any:
        if self.robot is None or self._is_gone():
            raise RobotError(f"no connection to {self.settings['url']}")
        return self.robot

    def _is_gone(self) -> bool:
        return self.broken is not None and self.broken.fault == "no_state"

    def _record_error(self, error: Exception) -> None:
        if isinstance(error, self.franky.NetworkException):
            self.broken = StateError("no_state", f"the connection to the arm is gone ({error}): start again")
        elif self.active and self.broken is None:
            self.broken = StateError("refused", f"the arm ended its motion: {error}")

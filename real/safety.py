"""What may be sent to an arm: every wish passes through here, and comes out as motion that the arm can do and stop.

No clock, no connection: a function of what was last commanded, of the wish and of the time in between. The wish is a
joint position; what is sent follows it by a trajectory within speed, acceleration and jerk (Ruckig, Berscheid & Kröger
2021, arXiv:2105.04830), begun at the last *commanded* motion, since the measured one lags and would make the arm dip.

It holds by induction: a motion is sent only if the arm, braking from there, comes to rest at a place that is allowed;
else the brake of the motion before is sent, which ends at one. What was changed about a wish is said by name.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import mujoco
import numpy as np
from ruckig import ControlInterface, InputParameter, Result, Ruckig, RuckigError, Synchronization, Trajectory

from pbrl.types import UserError
from robots.arm import Arm

REASONS = ("not_finite", "expired", "late", "joint_limit", "step", "workspace", "collision", "force", "no_plan")

LOOKS = 5  # places on the way to rest that are looked at
SPARE = 0.003  # m, for what lies between them


@dataclass(frozen=True)
class Settings:
    """Shares of the arm's limits, in (0, 1]; margins in rad and m; N; s. Wider ones are asked for by name."""

    speed: float = 0.2
    acceleration: float = 0.2
    jerk: float = 0.05
    joint_margin: float = 0.05  # from each end of a joint
    step: float = 0.3  # rad from what was last commanded to a wish, for each joint
    workspace: tuple[tuple[float, ...], ...] = ((0.25, -0.4, 0.01), (0.75, 0.4, 0.7))  # of the tool point
    table: float = 0.004  # m that all but the base stay above the plane it stands on: what lies there can be gripped
    force: float = 25.0  # N, of the estimated contact
    latest: float = 0.1  # s; more time than this between two commands counts as this much

    def __post_init__(self) -> None:
        shares = {"speed": self.speed, "acceleration": self.acceleration, "jerk": self.jerk}
        for name, value in shares.items():
            if not 0 < value <= 1:
                raise UserError(f"safety.{name}={value} is a share of the arm's limit, in (0, 1]")
        if np.shape(self.workspace) != (2, 3) or not np.less(*self.workspace).all():
            raise UserError(f"safety.workspace={self.workspace} is two corners in m: [[x, y, z], [x, y, z]]")
        if min(self.joint_margin, self.table) < 0 or min(self.step, self.force, self.latest) <= 0:
            raise UserError("safety's margins are not negative, and step, force and latest are positive")


class Motion(NamedTuple):
    """What was commanded: joint positions, speeds and accelerations [7]."""

    q: np.ndarray
    dq: np.ndarray
    ddq: np.ndarray

    @classmethod
    def at_rest(cls, q: np.ndarray) -> "Motion":
        return cls(np.array(q, float), np.zeros(7), np.zeros(7))


Way = Sequence[tuple[float, Motion]]  # to rest: s after a motion, and what it has become by then


class Sent(NamedTuple):
    """What goes to the arm, and what was changed about the wish: of REASONS, in their order."""

    motion: Motion
    why: tuple[str, ...]


@dataclass
class Filter:
    """Filters wishes for one arm. `count` says how often each reason was given."""

    arm: Arm
    settings: Settings = Settings()
    count: Counter = field(default_factory=Counter)

    def __post_init__(self) -> None:
        limits, s = self.arm.limits, self.settings
        self.low, self.high = limits.position_min + s.joint_margin, limits.position_max - s.joint_margin
        self.speed, self.acceleration = s.speed * limits.velocity, s.acceleration * limits.acceleration
        self.jerk = s.jerk * limits.jerk
        self.planner, self.trajectory = Ruckig(7), Trajectory(7)
        spec = mujoco.MjSpec()
        spec.worldbody.add_geom(name="table", type=mujoco.mjtGeom.mjGEOM_PLANE, size=[2, 2, 0.1], margin=s.table)
        self.arm.mount(spec, spec.worldbody)
        spec.add_exclude(bodyname1="world", bodyname2="link0")
        self.model = spec.compile()
        self.data = mujoco.MjData(self.model)
        self.tool = self.model.site("tcp").id

    def __call__(
        self, wish: np.ndarray | None, last: Motion, dt: float, *, expired: bool = False, force: float = 0.0
    ) -> Sent:
        """wish [7] rad (None: come to rest), `dt` seconds after `last` → what to send now."""
        why: list[str] = []
        if wish is not None:
            wish = np.asarray(wish, float)
            if wish.shape != (7,) or not np.isfinite(wish).all():
                why.append("not_finite")
        if expired:
            why.append("expired")
        if not 0 <= dt <= self.settings.latest:
            why.append("late")
            dt = float(np.clip(np.nan_to_num(dt), 0, self.settings.latest))
        if not force <= self.settings.force:  # NaN too
            why.append("force")
        halt = wish is None or not {"not_finite", "expired", "force"}.isdisjoint(why)
        motion = self._braked(last, dt, why) if halt else self._towards(wish, last, dt, why)  # type: ignore[arg-type]
        said = tuple(reason for reason in REASONS if reason in why)
        self.count.update(said)
        return Sent(motion, said)

    def _towards(self, wish: np.ndarray, last: Motion, dt: float, why: list[str]) -> Motion:
        within = np.clip(wish, self.low, self.high)
        if not np.array_equal(within, wish):
            why.append("joint_limit")
        step = self.settings.step
        near = np.clip(within, last.q - step, last.q + step)
        if not np.array_equal(near, within):
            why.append("step")
        plan = self._plan(last, ControlInterface.Position)
        plan.target_position, plan.target_velocity, plan.target_acceleration = near, np.zeros(7), np.zeros(7)
        plan.synchronization = Synchronization.TimeIfNecessary
        motion = self._after(plan, dt)
        if motion is None:
            return self._braked(last, dt, why)
        for place in (motion, *(braked for _, braked in self.way(motion))):
            trouble = self.trouble(place.q, SPARE)
            if trouble:
                why.append(trouble)
                return self._braked(last, dt, why)
        return motion

    def trouble(self, q: np.ndarray, spare: float = 0.0) -> str | None:
        """Why the arm should not be at joint positions [7]: of REASONS, or None. The workspace is `spare` m smaller."""
        low, high = self.arm.limits.position_min, self.arm.limits.position_max
        if (q < low).any() or (q > high).any():
            return "joint_limit"
        self.data.qpos[:7] = q
        mujoco.mj_kinematics(self.model, self.data)
        lowest, highest = self.settings.workspace
        where = self.data.site_xpos[self.tool]
        if (where < np.array(lowest) + spare).any() or (where > np.array(highest) - spare).any():
            return "workspace"
        mujoco.mj_collision(self.model, self.data)
        return "collision" if self.data.ncon else None

    def rest(self, last: Motion) -> np.ndarray:
        """Where the arm comes to rest [7] if it brakes from a motion."""
        return self.braked(last, math.inf).q

    def braked(self, last: Motion, seconds: float) -> Motion:
        """What a motion has become after braking for so long."""
        return self._after(self._stop(last), seconds) or Motion.at_rest(last.q)

    def way(self, motion: Motion, points: int = LOOKS) -> Way:
        """How the arm brakes from a motion, at so many times evenly spread: none where it is at rest already.

        Quintic splines through two are within 2 mrad of the plan, and at most half above its acceleration.
        """
        if self._after(self._stop(motion), 0.0) is None or not self.trajectory.duration:
            return []
        times = np.linspace(0, self.trajectory.duration, points + 1)[1:]
        return [(float(t), Motion(*map(np.array, self.trajectory.at_time(t)))) for t in times]

    def _braked(self, last: Motion, dt: float, why: list[str]) -> Motion:
        """The quickest way to rest; where there is none, as from a motion that was never sent, the place itself."""
        motion = self._after(self._stop(last), dt)
        if motion is None:
            why.append("no_plan")  # whoever drives must take this for a fault
            return Motion.at_rest(last.q)
        return motion

    def _stop(self, motion: Motion) -> InputParameter:
        plan = self._plan(motion, ControlInterface.Velocity)
        plan.target_velocity, plan.target_acceleration = np.zeros(7), np.zeros(7)
        plan.synchronization = Synchronization.No  # each joint as fast as it can
        return plan

    def _plan(self, motion: Motion, interface: ControlInterface) -> InputParameter:
        plan = InputParameter(7)
        plan.control_interface = interface
        plan.current_position, plan.current_velocity, plan.current_acceleration = motion
        plan.max_velocity, plan.max_acceleration, plan.max_jerk = self.speed, self.acceleration, self.jerk
        return plan

    def _after(self, plan: InputParameter, dt: float) -> Motion | None:
        """The motion of a plan after some time, at most at its end; None where there is no such plan."""
        try:
            result = self.planner.calculate(plan, self.trajectory)
        except RuckigError:  # it was given no numbers
            return None
        if result not in (Result.Working, Result.Finished):
            return None
        q, dq, ddq = self.trajectory.at_time(min(dt, self.trajectory.duration))
        return Motion(np.array(q), np.array(dq), np.array(ddq))

"""What may be sent to an arm: every target passes through here, and comes out as motion that the arm can do and stop.

No clock, no connection: a function of what was last commanded, of the target and of the time in between. The target
is a joint position; what is sent follows it by a trajectory within speed, acceleration and jerk (Ruckig, Berscheid &
Kröger 2021, arXiv:2105.04830), begun at the last *commanded* motion: the measured one lags and would make the arm dip.

It holds by induction: a motion is sent only if the arm, braking from there, comes to rest at a place that is allowed;
else the brake of the motion before is sent, which ends at one. What was changed about a target is named.
"""

# pyright: reportAttributeAccessIssue=false
# MuJoCo's compiled module carries no types

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

import mujoco
import numpy as np
from ruckig import ControlInterface, InputParameter, Result, Ruckig, RuckigError, Synchronization, Trajectory

from pbrl.types import UserError
from real.robot import Braking, Motion
from robots.arm import Arm
from robots.model import add_arm, base_link

REASONS = ("not_finite", "expired", "late", "joint_limit", "step", "workspace", "collision", "force", "no_plan")

SHORTEST_S = 1e-3  # of a way to rest; controllers refuse points whose times do not increase
CHECKED = 5  # motions between a command and rest that are checked
SPARE_M = 0.003  # m, for what lies between them


@dataclass(frozen=True)
class SafetySettings:
    """Shares of the arm's limits, in (0, 1]; margins in rad and m; N; s. Wider ones are asked for by name."""

    speed: float = 0.2
    acceleration: float = 0.2
    jerk: float = 0.05
    joint_margin: float = 0.05  # from each end of a joint
    step: float = 0.3  # rad from what was last commanded to a target, for each joint
    workspace: tuple[tuple[float, ...], ...] | None = None  # m, two corners for the tcp; None: the arm's own
    table: float = 0.004  # m that all but the base stay above the plane it stands on: what lies there can be gripped
    force: float = 25.0  # N, of the estimated contact
    latest: float = 0.1  # s; more time than this between two commands counts as this much

    def __post_init__(self) -> None:
        shares = {"speed": self.speed, "acceleration": self.acceleration, "jerk": self.jerk}
        for name, value in shares.items():
            if not 0 < value <= 1:
                raise UserError(f"safety.{name}={value} is a share of the arm's limit, in (0, 1]")
        corners = np.array([[0.0] * 3, [1.0] * 3]) if self.workspace is None else np.array(self.workspace, float)
        if corners.shape != (2, 3) or not (corners[0] < corners[1]).all():
            raise UserError(f"safety.workspace={self.workspace} is two corners in m: [[x, y, z], [x, y, z]]")
        if min(self.joint_margin, self.table) < 0 or min(self.step, self.force, self.latest) <= 0:
            raise UserError("safety's margins are not negative, and step, force and latest are positive")


class Filtered(NamedTuple):
    """What may go to the arm, and what was changed about the target: of REASONS, in their order."""

    motion: Motion
    reasons: tuple[str, ...]


@dataclass
class SafetyFilter:
    """Filters the targets of one arm. `count`: how often each reason was given."""

    arm: Arm
    settings: SafetySettings = SafetySettings()
    count: Counter = field(default_factory=Counter)

    def __post_init__(self) -> None:
        limits, s = self.arm.limits, self.settings
        self.low, self.high = limits.position_min + s.joint_margin, limits.position_max - s.joint_margin
        self.speed, self.acceleration = s.speed * limits.velocity, s.acceleration * limits.acceleration
        self.jerk = s.jerk * limits.jerk
        self.planner, self.trajectory = Ruckig(self.arm.dof), Trajectory(self.arm.dof)
        self.workspace = np.array(self.arm.safety_workspace if s.workspace is None else s.workspace, float)
        spec = mujoco.MjSpec()
        spec.worldbody.add_geom(name="table", type=mujoco.mjtGeom.mjGEOM_PLANE, size=[2, 2, 0.1], margin=s.table)
        add_arm(spec, self.arm)
        spec.add_exclude(bodyname1="world", bodyname2=base_link(self.arm))
        self.model = spec.compile()
        self.data = mujoco.MjData(self.model)
        self.tool = self.model.site("tcp").id

    def __call__(
        self, target: np.ndarray | None, last: Motion, dt: float, *, expired: bool = False, force: float = 0.0
    ) -> Filtered:
        """target [J] rad (None: come to rest), `dt` seconds after `last` → what to send now."""
        changes: list[str] = []
        if target is not None:
            target = np.asarray(target, float)
            if target.shape != (self.arm.dof,) or not np.isfinite(target).all():
                changes.append("not_finite")
        if expired:
            changes.append("expired")
        if not 0 <= dt <= self.settings.latest:
            changes.append("late")
            dt = float(np.clip(np.nan_to_num(dt), 0, self.settings.latest))
        if not force <= self.settings.force:  # NaN too
            changes.append("force")
        halt = target is None or not {"not_finite", "expired", "force"}.isdisjoint(changes)
        motion = self._brake(last, dt, changes) if halt else self._plan_towards(target, last, dt, changes)  # type: ignore[arg-type]
        reasons = tuple(reason for reason in REASONS if reason in changes)
        self.count.update(reasons)
        return Filtered(motion, reasons)

    def _plan_towards(self, target: np.ndarray, last: Motion, dt: float, changes: list[str]) -> Motion:
        within = np.clip(target, self.low, self.high)
        if not np.array_equal(within, target):
            changes.append("joint_limit")
        step = self.settings.step
        limited = np.clip(within, last.q - step, last.q + step)
        if not np.array_equal(limited, within):
            changes.append("step")
        plan = self._plan(last, ControlInterface.Position)
        plan.target_position, plan.target_velocity, plan.target_acceleration = Motion.at_rest(limited)
        plan.synchronization = Synchronization.TimeIfNecessary
        motion = self._after(plan, dt)
        if motion is None:
            return self._brake(last, dt, changes)
        for later in (motion, *(braked for _, braked in self.braking(motion))):
            violation = self.violation(later.q, SPARE_M)
            if violation:
                changes.append(violation)
                return self._brake(last, dt, changes)
        return motion

    def violation(self, q: np.ndarray, spare: float = 0.0) -> str | None:
        """Why the arm should not be at joint positions [J]: of REASONS, or None. The workspace is `spare` m smaller."""
        low, high = self.arm.limits.position_min, self.arm.limits.position_max
        if (q < low).any() or (q > high).any():
            return "joint_limit"
        self.data.qpos[: self.arm.dof] = q
        mujoco.mj_kinematics(self.model, self.data)
        lowest, highest = self.workspace
        where = self.data.site_xpos[self.tool]
        if (where < lowest + spare).any() or (where > highest - spare).any():
            return "workspace"
        mujoco.mj_collision(self.model, self.data)
        return "collision" if self.data.ncon else None

    def rest(self, last: Motion) -> np.ndarray:
        """Where the arm comes to rest [J] if it brakes from a motion."""
        return self.after_braking(last, math.inf).q

    def after_braking(self, last: Motion, seconds: float) -> Motion:
        """What a motion has become after braking for so long."""
        return self._after(self._stop(last), seconds) or Motion.at_rest(last.q)

    def braking(self, motion: Motion, points: int = CHECKED) -> Braking:
        """How the arm brakes from a motion, at so many times evenly spread: none where it is as good as at rest.

        Quintic splines through two are within 2 mrad of the plan, and at most half above its acceleration.
        """
        if self._after(self._stop(motion), 0.0) is None or self.trajectory.duration < SHORTEST_S:
            return []
        times = np.linspace(0, self.trajectory.duration, points + 1)[1:]
        return [(float(t), Motion(*map(np.array, self.trajectory.at_time(t)))) for t in times]

    def _brake(self, last: Motion, dt: float, changes: list[str]) -> Motion:
        """The quickest way to rest; where there is none, as from a motion that was never sent, the place itself."""
        motion = self._after(self._stop(last), dt)
        if motion is None:
            changes.append("no_plan")  # a fault to the controller
            return Motion.at_rest(last.q)
        return motion

    def _stop(self, motion: Motion) -> InputParameter:
        plan = self._plan(motion, ControlInterface.Velocity)
        _, plan.target_velocity, plan.target_acceleration = Motion.at_rest(motion.q)
        plan.synchronization = Synchronization.No  # each joint as fast as it can
        return plan

    def _plan(self, motion: Motion, interface: ControlInterface) -> InputParameter:
        plan = InputParameter(self.arm.dof)
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

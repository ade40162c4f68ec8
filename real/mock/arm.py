"""The arm behind the mock's bridge: MuJoCo in real time, a trajectory controller, and faults at a switch.

The controller does with trajectories what ros_control's does (`real.mock.trajectory`), and is started and stopped as
controller_manager does it (`real.mock.controllers`): it holds the arm where it was wanted, whatever its speed, from one
step to the next. What no policy may send is
counted as it arrives, and every step of the physics at which the controller wants more speed or acceleration than the
arm has. The arm has no reflexes of its own: those are switched on, like every fault.
"""

# pyright: reportAttributeAccessIssue=false
# MuJoCo's compiled module carries no types

import json
import math
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, replace
from typing import Any

import mujoco
import numpy as np

from real.drivers.messages import UNIVERSAL_ROBOTS_MODES, gripper_actions, to_stamp
from real.mock.cameras import MockCameras
from real.mock.controllers import Controllers
from real.mock.hub import Hub
from real.mock.trajectory import Point, Trajectory, parse_trajectory, refusal
from real.mock.urdf import urdf
from real.robot import MODES
from sim.tabletop import Tabletop

TICK_S = 0.004  # between reads of the clock; the physics' own step is 2 ms
PERIODS = {  # s between messages of a topic
    "joint_states": 0.01, "arm": 1 / 30, "wrench": 1 / 30, "gripper": 1 / 30, "objects": 0.02, "goal": 0.02,
}  # fmt: skip


@dataclass(frozen=True)
class Faults:
    """What is wrong with the arm now."""

    state: str = ""  # nan, inf, short, drop_name, shuffled, frozen, silent
    clock_s: float = 0.0  # added to every stamp
    mode: str = ""  # of MODES
    success_rate: float = 1.0
    force: float = 0.0  # N
    gripper: str = ""  # stuck: does not move; blocks: moves, and its action does not end
    refuses: bool = False  # to switch controllers
    switch_s: float = 0.0  # that a switch takes
    cameras: str = ""  # silent, frozen, torn


class MockArm:
    """Runs `env` in real time behind `hub`. `settings` as in configs/robot."""

    def __init__(self, hub: Hub, env: Tabletop, settings: dict[str, Any]):
        self.hub, self.env, self.settings = hub, env, settings
        self.ros1, self.faults = settings["dialect"] == "ros1", Faults()
        self.topics = {name: (topic, type_) for name, (topic, type_) in settings["topics"].items()}
        self.lock, self.running = threading.RLock(), True
        self.count: Counter[str] = Counter()
        self.ages: deque[float] = deque(maxlen=100_000)  # s, of the commands that moved the arm, when they came
        self.oldest = self.stopped = 0.0  # s: the oldest of those; when the controller was last stopped
        self.stopped_speed = 0.0  # that the controller wanted then, as a share of the arm's limits
        self.builders = {
            "joint_states": self._joint_states,
            "arm": self._arm_status,
            "wrench": self._wrench,
            "gripper": self._gripper,
            "objects": self._objects,
            "goal": self._goal,
        }
        self.periods = {name: period for name, period in PERIODS.items() if name in self.topics}
        self._connect()
        self.reset(0)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        self.cameras = MockCameras(
            hub, env, settings.get("cameras", {}), self.lock, ros1=self.ros1, fault=lambda: self.faults.cameras
        )

    def _connect(self) -> None:
        for name in self.periods:
            self.hub.advertise(*self.topics[name])
        self.hub.subscribe(*self.topics["command"], self._command)
        services = self.settings["services"]
        (self.name,) = services["start"][1]["start_controllers" if self.ros1 else "activate_controllers"]
        self.controllers = Controllers([self.name], ros1=self.ros1, prepare=self._is_startable, stopping=self._hold)
        self.hub.serve(services["start"][0], "controller_manager_msgs/SwitchController", self._switch)
        self.hub.serve(services["controllers"][0], "controller_manager_msgs/ListControllers", self.controllers.list)
        self.hub.serve(services["description"][0], "rosapi/GetParam", self._description)
        for name in gripper_actions(self.topics):
            if self.ros1:
                self.hub.subscribe(*self.topics[name], lambda message: self._grip(message["goal"]))
            else:
                self.hub.act(*self.topics[name], self._grip)

    @property
    def active(self) -> bool:
        """Whether the controller runs."""
        return self.controllers.is_running(self.name)

    def reset(self, seed: int) -> None:
        """The task's beginning; the controller stops."""
        with self.lock:
            self.env.reset(seed=seed)
            self.controllers.running[self.name] = self.reached = False
            q = self.env.joint_targets.copy()
            self.trajectory, self.before = Trajectory([Point.at_rest(q)]), None
            self.fastest = self.hardest = 0.0
            self.width = self.target_width = float(2 * self.env.finger_targets[0])
            self.begun, self.steps = time.time(), 0

    def report(self) -> dict[str, Any]:
        """What happened so far: success now and ever, commands by what became of them, how old those were that moved
        the arm (s: the oldest; median and p99 of the last), when its controller was stopped (its clock) and at what
        speed; what the controller wanted since the beginning at most; speeds and accelerations as shares of the arm's
        limits."""
        with self.lock:
            _, success = self.env.evaluate()
            return {
                "success": bool(success),
                "reached": self.reached,
                "count": dict(self.count),
                "oldest": self.oldest,
                "ages": np.percentile(self.ages or [0.0], [50, 99]).tolist(),
                "stopped": self.stopped,
                "stopped_speed": self.stopped_speed,
                "active": self.active,
                "q": self.env.joint_positions.tolist(),
                "fastest": self.fastest,
                "hardest": self.hardest,
            }

    def fault(self, **which: Any) -> None:
        """Switches faults on or off."""
        self.faults = replace(self.faults, **which)
        self.controllers.refuses, self.controllers.delay_s = self.faults.refuses, self.faults.switch_s
        if which.get("mode") in ("reflex", "user_stopped", "guiding"):
            self.controllers.halt(self.name)

    def close(self) -> None:
        """Ends the arm and its cameras."""
        self.running = False
        self.thread.join()
        self.cameras.close()

    def _run(self) -> None:
        due = dict.fromkeys(self.periods, 0.0)
        while self.running:
            with self.lock:
                self._physics()
                now = time.time()
                for name, period in self.periods.items():
                    if now >= due[name]:
                        due[name] = max(due[name] + period, now - period)
                        self._publish(name, now)
            time.sleep(TICK_S)

    def _physics(self) -> None:
        """Steps until the clock is reached; after a pause it goes on from now."""
        data, step = self.env.data, self.env.model.opt.timestep
        now = time.time()
        if now - self.begun - self.steps * step > 0.2:
            self.begun, self.before = now - self.steps * step, None
        self.env.grasp()
        while self.begun + self.steps * step < now:
            self.steps += 1
            wanted = self.trajectory.at(self.begun + self.steps * step)
            self._check_motion(wanted, step)
            far = self.env.arm.gripper.speed * step
            if self.faults.gripper != "stuck":
                self.width += float(np.clip(self.target_width - self.width, -far, far))
            self.env.joint_targets[:], self.env.finger_targets[:] = wanted.q, self.width / 2
            mujoco.mj_step(self.env.model, data)
        mujoco.mj_forward(self.env.model, data)
        self.reached |= bool(self.env.evaluate()[1])

    def _check_motion(self, wanted: Point, step: float) -> None:
        """Speed and acceleration from one step to the next, whatever a spline says of its own: seams count too."""
        before, self.before = self.before, wanted if self.active else None
        if before is None or self.before is None:
            return
        limits = self.env.arm.limits
        speed = float((np.abs(wanted.q - before.q) / step / limits.velocity).max())
        acceleration = float((np.abs(wanted.dq - before.dq) / step / limits.acceleration).max())
        self.count.update({"too_fast": speed > 1.001, "too_hard": acceleration > 1.001})
        self.count = +self.count
        self.fastest, self.hardest = max(self.fastest, speed), max(self.hardest, acceleration)

    def _publish(self, name: str, now: float) -> None:
        if self.faults.state == "silent":
            return
        if self.faults.state != "frozen":
            self.stamp = now + self.faults.clock_s
        self.hub.publish(self.topics[name][0], self.builders[name]())

    def _joint_states(self) -> dict[str, Any]:
        names = list(self.env.arm.joints)
        q, dq = self.env.joint_positions.tolist(), self.env.joint_velocities.tolist()
        wrong = self.faults.state
        if wrong in ("nan", "inf"):
            q[3] = math.nan if wrong == "nan" else math.inf
        elif wrong == "short":
            q = q[:-1]
        elif wrong == "drop_name":
            names = [f"unknown{i}" for i in range(len(names))]
        elif wrong == "shuffled":
            names, q, dq = names[::-1], q[::-1], dq[::-1]
        return {"header": self._header(), "name": names, "position": q, "velocity": dq, "effort": []}

    def _arm_status(self) -> dict[str, Any]:
        mode = self.faults.mode or ("move" if self.active else "idle")
        if self.topics["arm"][1].endswith("RobotMode"):  # of Universal Robots, which reports less
            running = next(number for number, name in UNIVERSAL_ROBOTS_MODES.items() if name == "move")
            return {"mode": running if mode in ("idle", "move") else -1}
        force, rate = "O_F_ext_hat_K", "control_command_success_rate"
        wrench: Any = [self.faults.force, 0, 0, 0, 0, 0]
        if self.topics["arm"][1].endswith("FrankaRobotState"):
            wrench = self._wrench()
        return {
            "header": self._header(),
            force if self.ros1 else force.lower(): wrench,
            rate: self.faults.success_rate if self.active else 0.0,
            "robot_mode": MODES.index(mode),
        }

    def _wrench(self) -> dict[str, Any]:
        return {"header": self._header(), "wrench": {"force": {"x": self.faults.force, "y": 0.0, "z": 0.0}}}

    def _gripper(self) -> dict[str, Any]:
        names, fingers = list(self.env.arm.gripper.joints), self.env.finger_positions.tolist()
        return {"header": self._header(), "name": names, "position": fingers, "velocity": [0, 0], "effort": [0, 0]}

    def _objects(self) -> dict[str, Any]:
        data, poses = self.env.data, []
        for body in self.env.objects:
            position, turn = data.xpos[body].tolist(), data.xquat[body].tolist()
            poses.append(
                {
                    "position": dict(zip("xyz", position, strict=True)),
                    "orientation": dict(zip("wxyz", turn, strict=True)),
                }
            )
        return {"header": self._header(), "poses": poses}

    def _goal(self) -> dict[str, Any]:
        goal = self.env.model.site_pos[self.env.goal].tolist()
        return {"header": self._header(), "point": dict(zip("xyz", goal, strict=True))}

    def _header(self) -> dict[str, Any]:
        return {"stamp": to_stamp(self.stamp, self.ros1)}

    def _command(self, message: dict[str, Any]) -> None:
        now = time.time()
        if refusal(message, self.env.arm.joints):
            self.count["refused" if self.active else "ignored"] += 1
            return
        begin, points = parse_trajectory(message, self.env.arm.joints, now)
        limits = self.env.arm.limits
        with self.lock:
            if not all(point.is_finite for point in points):
                self.count["non_finite"] += 1
            elif any((p.q < limits.position_min).any() or (p.q > limits.position_max).any() for p in points):
                self.count["out_of_limits"] += 1
            elif not self.active:
                self.count["ignored"] += 1
            elif not points:
                self.count["empty"] += 1
                self._hold(self.name)
            else:
                updated = self.begun + self.steps * self.env.model.opt.timestep
                trajectory = self.trajectory.replace(points, updated, now, jumps=not self.ros1)
                if trajectory is None:
                    self.count["expired"] += 1
                    return
                self.trajectory = trajectory
                self.count["executed" if points[0].t > now else "late"] += 1
                self.ages.append(now - begin)
                self.oldest = max(self.oldest, now - begin)

    def _switch(self, request: dict[str, Any]) -> dict[str, Any]:
        was_active, answer = self.active, self.controllers.switch(request)
        with self.lock:
            self.count.update({"stops": was_active and not self.active, "switches_refused": not answer["ok"]})
            self.count = +self.count
        return answer

    def _is_startable(self, name: str) -> bool:
        return self.faults.mode in ("", "idle", "move")

    def _hold(self, name: str) -> None:
        """Stays where the controller wanted the arm to be now."""
        with self.lock:
            wanted, self.stopped = self.trajectory.at(time.time()), time.time()
            self.stopped_speed = float((np.abs(wanted.dq) / self.env.arm.limits.velocity).max())
            self.trajectory = Trajectory([Point.at_rest(wanted.q)])

    def _grip(self, goal: dict[str, Any]) -> dict[str, Any]:
        width = goal["command"]["position"] if "command" in goal else goal["width"]
        with self.lock:
            self.target_width = float(np.clip(width, 0, self.env.arm.gripper.width))
        while self.faults.gripper == "blocks" and not self.ros1 and self.running:
            time.sleep(0.05)
        if "command" in goal:
            return {"position": self.width, "effort": 0.0, "stalled": False, "reached_goal": True}
        return {"success": True, "error": ""}

    def _description(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"value": json.dumps(urdf(self.env.arm))}

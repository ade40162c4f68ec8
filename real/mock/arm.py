"""The arm behind the stand-in's bridge: MuJoCo in real time, a trajectory controller, and faults at a switch.

The controller does with trajectories what ros_control's does (`real.standin.trajectory`). What no policy may send is
counted as it arrives, and every step of the physics at which the controller wants more speed or acceleration than the
arm has. The arm has no reflexes of its own: those are switched on, like every fault.
"""

import json
import math
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, replace
from typing import Any

import mujoco
import numpy as np

from real.driver import MODES
from real.standin.cameras import Cameras
from real.standin.hub import Hub
from real.standin.trajectory import Point, Trajectory, heard
from sim.franka import Franka

TICK_S = 0.004  # between looks at the clock; the physics' own step is 2 ms
GAIN = {"joint_states": 0.01, "arm": 1 / 30, "gripper": 1 / 30, "objects": 0.02, "goal": 0.02}  # s between messages


@dataclass(frozen=True)
class Faults:
    """What is wrong with the arm now."""

    state: str = ""  # nan, inf, short, unnamed, shuffled, frozen, silent
    clock_s: float = 0.0  # added to every stamp
    mode: str = ""  # of MODES
    success_rate: float = 1.0
    force: float = 0.0  # N
    gripper: str = ""  # stuck: does not move; blocks: moves, and its action does not end
    refuses: bool = False  # to switch controllers
    cameras: str = ""  # silent, frozen, torn


class Robot:
    """Plays `env` in real time behind `hub`. `settings` as in configs/robot."""

    def __init__(self, hub: Hub, env: Franka, settings: dict[str, Any]):
        self.hub, self.env, self.settings = hub, env, settings
        self.ros1, self.faults = settings["dialect"] == "ros1", Faults()
        self.topics = {name: (topic, type_) for name, (topic, type_) in settings["topics"].items()}
        self.lock, self.running, self.active = threading.RLock(), True, False
        self.count: Counter[str] = Counter()
        self.ages: deque[float] = deque(maxlen=100_000)  # s, of the commands that moved the arm, when they came
        self.oldest = self.stopped = 0.0  # s: the oldest of those
        for name in GAIN:
            hub.advertise(*self.topics[name])
        hub.subscribe(*self.topics["command"], self._command)
        hub.serve(self.settings["services"]["start"][0], "controller_manager_msgs/SwitchController", self._switch)
        hub.serve(self.settings["services"]["description"][0], "rosapi/GetParam", self._description)
        if self.ros1:
            hub.subscribe(*self.topics["move"], lambda message: self._grip(message["goal"]))
            hub.subscribe(*self.topics["grasp"], lambda message: self._grip(message["goal"]))
        else:
            hub.act(*self.topics["move"], self._grip)
            hub.act(*self.topics["grasp"], self._grip)
        self.reset(0)
        self.thread = threading.Thread(target=self._live, daemon=True)
        self.thread.start()
        self.cameras = Cameras(
            hub, env, settings.get("cameras", {}), self.lock, ros1=self.ros1, fault=lambda: self.faults.cameras
        )

    def reset(self, seed: int) -> None:
        """The task's beginning; the controller stops."""
        with self.lock:
            self.env.reset(seed=seed)
            self.active, self.reached = False, False
            q = self.env.data.ctrl[:7].copy()
            self.trajectory, self.before = Trajectory([Point.at_rest(q)]), None
            self.fastest = self.hardest = 0.0
            self.width = self.opened = float(2 * self.env.data.ctrl[7])
            self.begun, self.steps = time.time(), 0

    def report(self) -> dict[str, Any]:
        """What happened so far: success now and ever, commands by what became of them, how old those were that moved
        the arm (s: the oldest; median and p99 of the last), when it was stopped (its clock); what the controller wanted
        since the beginning at most, as shares of the arm's limits of speed and acceleration."""
        with self.lock:
            _, success = self.env.job.judge(self.env._observe())
            return {"success": bool(success), "reached": self.reached, "count": dict(self.count),
                    "oldest": self.oldest, "ages": np.percentile(self.ages or [0.0], [50, 99]).tolist(),
                    "stopped": self.stopped, "active": self.active, "q": self.env.data.qpos[:7].tolist(),
                    "fastest": self.fastest, "hardest": self.hardest}  # fmt: skip

    def fault(self, **which: Any) -> None:
        """Switches faults on or off."""
        self.faults = replace(self.faults, **which)
        if which.get("mode") in ("reflex", "user_stopped", "guiding"):
            self._halt()

    def close(self) -> None:
        self.running = False
        self.thread.join()
        self.cameras.close()

    def _live(self) -> None:
        due = dict.fromkeys(GAIN, 0.0)
        while self.running:
            with self.lock:
                self._physics()
                now = time.time()
                for name, every in GAIN.items():
                    if now >= due[name]:
                        due[name] = max(due[name] + every, now - every)
                        self._say(name, now)
            time.sleep(TICK_S)

    def _physics(self) -> None:
        """Steps until the clock is reached; after a pause it goes on from now."""
        data, step = self.env.data, self.env.model.opt.timestep
        now = time.time()
        if now - self.begun - self.steps * step > 0.2:
            self.begun, self.before = now - self.steps * step, None
        while self.begun + self.steps * step < now:
            self.steps += 1
            wanted = self.trajectory.at(self.begun + self.steps * step)
            self._judge(wanted, step)
            far = self.env.arm.gripper["speed"] * step
            if self.faults.gripper != "stuck":
                self.width += float(np.clip(self.opened - self.width, -far, far))
            data.ctrl[:7], data.ctrl[7:9] = wanted.q, self.width / 2
            mujoco.mj_step(self.env.model, data)
        mujoco.mj_forward(self.env.model, data)
        self.reached |= bool(self.env.job.judge(self.env._observe())[1])

    def _judge(self, wanted: Point, step: float) -> None:
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

    def _say(self, name: str, now: float) -> None:
        if self.faults.state == "silent":
            return
        if self.faults.state != "frozen":
            self.stamp = now + self.faults.clock_s
        self.hub.publish(self.topics[name][0], getattr(self, f"_{name}")())

    def _joint_states(self) -> dict[str, Any]:
        names = list(self.settings["joints"])
        q, dq = self.env.data.qpos[:7].tolist(), self.env.data.qvel[:7].tolist()
        wrong = self.faults.state
        if wrong in ("nan", "inf"):
            q[3] = math.nan if wrong == "nan" else math.inf
        elif wrong == "short":
            q = q[:6]
        elif wrong == "unnamed":
            names = [f"joint{i}" for i in range(7)]
        elif wrong == "shuffled":
            names, q, dq = names[::-1], q[::-1], dq[::-1]
        return {"header": self._header(), "name": names, "position": q, "velocity": dq, "effort": []}

    def _arm(self) -> dict[str, Any]:
        force, rate = "O_F_ext_hat_K", "control_command_success_rate"
        mode = self.faults.mode or ("move" if self.active else "idle")
        return {
            "header": self._header(), force if self.ros1 else force.lower(): [self.faults.force, 0, 0, 0, 0, 0],
            rate: self.faults.success_rate if self.active else 0.0, "robot_mode": MODES.index(mode),
        }  # fmt: skip

    def _gripper(self) -> dict[str, Any]:
        names = [f"{self.settings['robot']}_finger_joint{i}" for i in (1, 2)]
        fingers = self.env.data.qpos[7:9].tolist()
        return {"header": self._header(), "name": names, "position": fingers, "velocity": [0, 0], "effort": [0, 0]}

    def _objects(self) -> dict[str, Any]:
        data, poses = self.env.data, []
        for body in self.env.objects:
            position, turn = data.xpos[body].tolist(), data.xquat[body].tolist()
            poses.append({"position": dict(zip("xyz", position, strict=True)),
                          "orientation": dict(zip("wxyz", turn, strict=True))})  # fmt: skip
        return {"header": self._header(), "poses": poses}

    def _goal(self) -> dict[str, Any]:
        goal = self.env.model.site_pos[self.env.goal].tolist()
        return {"header": self._header(), "point": dict(zip("xyz", goal, strict=True))}

    def _header(self) -> dict[str, Any]:
        whole = math.floor(self.stamp)
        second, nano = ("secs", "nsecs") if self.ros1 else ("sec", "nanosec")
        return {"stamp": {second: whole, nano: int((self.stamp - whole) * 1e9)}}

    def _command(self, message: dict[str, Any]) -> None:
        now = time.time()
        begin, points = heard(message, self.settings["joints"], now)
        limits = self.env.arm.limits
        with self.lock:
            if not all(point.finite for point in points):
                self.count["non_finite"] += 1
            elif any((p.q < limits.position_min).any() or (p.q > limits.position_max).any() for p in points):
                self.count["out_of_limits"] += 1
            elif not self.active:
                self.count["ignored"] += 1
            else:
                updated = self.begun + self.steps * self.env.model.opt.timestep
                trajectory = self.trajectory.replaced(points, updated, now, jumps=not self.ros1)
                if trajectory is None:
                    self.count["expired"] += 1
                    return
                self.trajectory = trajectory
                self.count["executed" if points[0].t > now else "late"] += 1
                self.ages.append(now - begin)
                self.oldest = max(self.oldest, now - begin)

    def _switch(self, request: dict[str, Any]) -> dict[str, Any]:
        first = "start_controllers" if self.ros1 else "activate_controllers"
        if self.faults.refuses:
            return {"ok": False}
        with self.lock:
            if request[first]:
                self.active = self.faults.mode in ("", "idle", "move")
                return {"ok": self.active}
            self.count["stops"] += 1
            self.stopped = time.time()
            self._halt()
            return {"ok": True}

    def _halt(self) -> None:
        """Takes no more commands, and stays."""
        with self.lock:
            self.active = False
            self.trajectory = Trajectory([Point.at_rest(self.trajectory.at(time.time()).q)])

    def _grip(self, goal: dict[str, Any]) -> dict[str, Any]:
        with self.lock:
            self.opened = float(np.clip(goal["width"], 0, self.env.arm.gripper["width"]))
        while self.faults.gripper == "blocks" and not self.ros1 and self.running:
            time.sleep(0.05)
        return {"success": True, "error": ""}

    def _description(self, request: dict[str, Any]) -> dict[str, Any]:
        limits = self.env.arm.limits
        joints = "".join(
            f'<joint name="{name}" type="revolute"><limit lower="{low}" upper="{high}" velocity="{speed}" '
            f'effort="{effort}"/></joint>'
            for name, low, high, speed, effort in zip(
                self.settings["joints"], limits.position_min, limits.position_max, limits.velocity, limits.torque,
                strict=True,
            )
        )  # fmt: skip
        return {"value": json.dumps(f'<robot name="{self.settings["robot"]}">{joints}</robot>')}

"""The arm behind the stand-in's bridge: MuJoCo in real time, a trajectory controller, and faults at a switch.

The controller does what ros_control's joint trajectory controller does with a trajectory of one point: it goes there by
a cubic spline until the point's time, ignores a point whose time has passed, and holds. What no policy may send is
counted as it arrives. The arm has no reflexes of its own: those are switched on, like every fault.
"""

import json
import math
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import mujoco
import numpy as np

from real.driver import MODES
from real.standin.cameras import Cameras
from real.standin.hub import Hub
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


class Point(NamedTuple):
    """Where a spline goes, from where, and when: rad, rad/s, s."""

    q0: np.ndarray
    dq0: np.ndarray
    t0: float
    q1: np.ndarray
    dq1: np.ndarray
    t1: float

    def at(self, t: float) -> tuple[np.ndarray, np.ndarray]:
        """Position and speed."""
        if t >= self.t1:
            return self.q1, np.zeros(7)
        span = self.t1 - self.t0
        s = (t - self.t0) / span
        a, b = self.dq0 * span, self.dq1 * span
        d = self.q1 - self.q0
        q = self.q0 + a * s + (3 * d - 2 * a - b) * s**2 + (a + b - 2 * d) * s**3
        return q, (a + 2 * (3 * d - 2 * a - b) * s + 3 * (a + b - 2 * d) * s**2) / span


class Robot:
    """Plays `env` in real time behind `hub`. `settings` as in configs/robot."""

    def __init__(self, hub: Hub, env: Franka, settings: dict[str, Any]):
        self.hub, self.env, self.settings = hub, env, settings
        self.ros1, self.faults = settings["dialect"] == "ros1", Faults()
        self.topics = {name: (topic, type_) for name, (topic, type_) in settings["topics"].items()}
        self.lock, self.running, self.active = threading.RLock(), True, False
        self.count: Counter[str] = Counter()
        self.ages: deque[float] = deque(maxlen=100_000)  # s, of the commands that moved the arm, when they came
        self.oldest = self.stopped = 0.0
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
            self.point = Point(q, np.zeros(7), 0.0, q, np.zeros(7), 0.0)
            self.width = self.opened = float(2 * self.env.data.ctrl[7])
            self.begun, self.steps = time.time(), 0

    def report(self) -> dict[str, Any]:
        """What happened so far: success now and ever, commands by what became of them, how old those were that moved
        the arm (s: the oldest; median and p99 of the last), when it was stopped (its clock)."""
        with self.lock:
            _, success = self.env.job.judge(self.env._observe())
            return {"success": bool(success), "reached": self.reached, "count": dict(self.count),
                    "oldest": self.oldest, "ages": np.percentile(self.ages or [0.0], [50, 99]).tolist(),
                    "stopped": self.stopped, "active": self.active, "q": self.env.data.qpos[:7].tolist()}  # fmt: skip

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
            self.begun = now - self.steps * step
        while self.begun + self.steps * step < now:
            self.steps += 1
            q, dq = self.point.at(self.begun + self.steps * step)
            if self.active and (np.abs(dq) > 1.001 * self.env.arm.limits.velocity).any():
                self.count["too_fast"] += 1
            fastest = self.env.arm.gripper["speed"] * step
            if self.faults.gripper != "stuck":
                self.width += float(np.clip(self.opened - self.width, -fastest, fastest))
            data.ctrl[:7], data.ctrl[7:9] = q, self.width / 2
            mujoco.mj_step(self.env.model, data)
        mujoco.mj_forward(self.env.model, data)
        self.reached |= bool(self.env.job.judge(self.env._observe())[1])

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
        """A trajectory of one point."""
        now = time.time()
        second, nano = ("secs", "nsecs") if self.ros1 else ("sec", "nanosec")
        stamp, point = message["header"]["stamp"], message["points"][0]
        after = point["time_from_start"]
        until = stamp[second] + after[second] + 1e-9 * (stamp[nano] + after[nano])
        with self.lock:
            order = [message["joint_names"].index(name) for name in self.settings["joints"]]
            q, dq = (np.array([point[key][i] for i in order], float) for key in ("positions", "velocities"))
            limits = self.env.arm.limits
            if not (np.isfinite(q).all() and np.isfinite(dq).all()):
                self.count["non_finite"] += 1
            elif (q < limits.position_min).any() or (q > limits.position_max).any():
                self.count["out_of_limits"] += 1
            elif not self.active:
                self.count["ignored"] += 1
            elif until <= now:
                self.count["expired"] += 1
            else:
                self.count["executed"] += 1
                self.ages.append(now - (stamp[second] + 1e-9 * stamp[nano]))
                self.oldest = max(self.oldest, self.ages[-1])
                start, speed = self.point.at(now)
                self.point = Point(start, speed, now, q, dq, until)

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
            q, _ = self.point.at(time.time())
            self.point = Point(q, np.zeros(7), 0.0, q, np.zeros(7), 0.0)

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

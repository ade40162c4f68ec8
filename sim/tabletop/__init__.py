"""Tabletop tasks of a robot arm: `env=tabletop/lift env.robot=ur5` and others; the arm is data, the scene is MuJoCo.

Twenty actions a second over servos at 500 Hz (200 Hz beside a rope or a cloth). An action moves the tool
(`control=cartesian`: along x, y, z, then the gripper) or the joints; it starts from the last targets, not from where
the arm sags to, is held to the arm's workspace and to a share of its limits, and reaches the servos as a ramp.

`env.images=[front,wrist]` adds camera images to the observation; with `env.state=robot` its state holds the arm's own
numbers only, as on a real arm that has cameras and no measured object poses.
"""

from collections.abc import Sequence
from typing import Any

import mujoco
import numpy as np
from gymnasium.spaces import Box, Dict

from pbrl.types import UserError
from robots import arm
from robots.actions import ActionMapping
from robots.model import add_arm
from robots.observations import ROBOT_DIM, layout, observation
from sim.attributes import HAND, measure_hand
from sim.simulation import Simulation
from sim.tabletop import tasks
from sim.tabletop.experts import Expert

TASKS = tuple(tasks.TASKS)
STATES = ("full", "robot")
SPEED_THRESHOLD = 0.2  # m/s; experts at full speed reach 0.3
MEASURES = ("height", "speed", "excess_speed", "collisions", "clearance")  # of each step, in `info`


class Tabletop(Simulation):
    """`task` on the arm `robot`, by `control`: cartesian (4 numbers) or joint (one a joint, and the gripper).

    `preference` holds weights of `MEASURES`, whose weighted sum each step adds to the reward: teachers that go by the
    reward then prefer a style. `images` are cameras that a policy observes, `image_size` pixels square; `state` is
    full, or robot, which leaves out objects, keypoints and goal. Raises UserError for a value that there is not.
    """

    has_success = True
    control_hz = 20.0
    cameras = ("front", "side", "wrist")

    def __init__(
        self,
        task: str,
        *,
        robot: str,
        control: str,
        horizon: int,
        style: dict[str, float],
        preference: dict[str, float],
        state: str = "full",
        images: Sequence[str] = (),
        image_size: int = 64,
        name: str = "",
    ):
        check_settings(task, horizon, preference, state, images, image_size)
        self.state, self.images, self.image_size = state, tuple(images), image_size
        self.name, self.task, self.robot, self.control, self.horizon = name, task, robot, control, horizon
        self.style, self.preference = dict(style), dict(preference)
        self.arm = arm.load(robot)
        self.actions = ActionMapping(self.arm, control, self.control_hz)
        self.definition = tasks.TASKS[task]()
        self.instruction = self.definition.instruction
        self.model = self._build_scene()
        self.data = mujoco.MjData(self.model)
        self.goal = self.model.site("goal").id
        self.objects = [self.model.body(name).id for name in self.definition.objects]
        self.points = [self.model.body(name).id for name in self.definition.points]
        self.action_space = Box(-1.0, 1.0, (self.actions.action_dim,), np.float32)
        self.observation_space = self._observation_space()
        self.attributes = (*HAND, "clearance") if self.definition.fragile else HAND
        Expert(task, style)  # checks the style

    @property
    def joint_positions(self) -> np.ndarray:
        """[J] rad."""
        return self.data.qpos[: self.arm.dof]

    @property
    def joint_velocities(self) -> np.ndarray:
        """[J] rad/s."""
        return self.data.qvel[: self.arm.dof]

    @property
    def finger_positions(self) -> np.ndarray:
        """[2] m, of each finger from closed."""
        return self.data.qpos[self.arm.dof : self.arm.dof + 2]

    @property
    def joint_targets(self) -> np.ndarray:
        """[J] rad, of the servos."""
        return self.data.ctrl[: self.arm.dof]

    @property
    def finger_targets(self) -> np.ndarray:
        """[2] m, of the servos."""
        return self.data.ctrl[self.arm.dof : self.arm.dof + 2]

    def _keypoints(self) -> dict[str, np.ndarray]:
        """The tool, the goal, each object, points of a rope or cloth, and what should not be touched."""
        bodies = {name: self.data.body(name).xpos for name in (*self.definition.objects, *self.definition.points)}
        fragile = {name: self.data.geom(name).xpos for name in self.definition.fragile}
        goal = {"goal": self.data.site("goal").xpos} if self.definition.has_goal else {}
        return {k: v.copy() for k, v in {"tool": self.full_obs[:3], **bodies, **fragile, **goal}.items()}

    def _observation_space(self) -> Box | Dict:
        task = self.definition
        parts = layout() if self.state == "robot" else layout(task.objects, task.has_goal, task.points)
        size = max(part.stop for part in parts.values())
        state = Box(-np.inf, np.inf, (size,), np.float32)
        if not self.images:
            return state
        view = Box(0, 255, (self.image_size, self.image_size, 3), np.uint8)
        return Dict({"state": state, "images": Dict(dict.fromkeys(self.images, view), sort_keys=False)})

    def _build_scene(self) -> mujoco.MjModel:
        spec = mujoco.MjSpec()
        spec.option.timestep = self.definition.timestep_s
        spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
        spec.option.cone, spec.option.impratio = mujoco.mjtCone.mjCONE_ELLIPTIC, 10  # what is gripped does not creep
        spec.visual.headlight.ambient = [0.4, 0.4, 0.4]
        world, box = spec.worldbody, mujoco.mjtGeom.mjGEOM_BOX
        world.add_light(pos=[0.5, -0.5, 1.5], dir=[0, 0.3, -1], diffuse=[0.6, 0.6, 0.6])
        world.add_geom(name="table", type=box, pos=[0.4, 0, -0.02], size=[0.6, 0.6, 0.02], rgba=[0.75, 0.66, 0.55, 1])
        world.add_body(name="centre", pos=self.definition.centre)
        look = {"mode": mujoco.mjtCamLight.mjCAMLIGHT_TARGETBODY, "targetbody": "centre", "fovy": 45}
        for name, pos in self.definition.views.items():
            world.add_camera(name=name, pos=pos, **look)
        shown = 0.5 if self.definition.has_goal else 0.0
        world.add_site(name="goal", pos=[0.5, 0, 0.1], size=[0.02, 0.02, 0.02], rgba=[0.1, 0.7, 0.2, shown])
        add_arm(spec, self.arm)
        self.definition.build(spec)
        return spec.compile()

    def _reset(self, seed: int) -> np.ndarray:
        random = np.random.default_rng([seed, 3])
        mujoco.mj_resetData(self.model, self.data)
        pose, spread = self.arm.home.copy(), self.arm.home_spread
        spread_joints = spread > 0
        pose[spread_joints] += random.uniform(-spread[spread_joints], spread[spread_joints])
        self.joint_positions[:] = self.joint_targets[:] = pose
        self.finger_positions[:] = self.finger_targets[:] = self.arm.gripper.width / 2
        goal = self.definition.start(self.data, random)
        if goal is not None:
            self.model.site_pos[self.goal] = goal
        for _ in range(self.definition.settle_steps):  # objects settle on the table
            mujoco.mj_step(self.model, self.data)
        self.data.time = 0.0
        mujoco.mj_forward(self.model, self.data)
        return self._observe()

    def _step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, dict[str, Any]]:
        before = self.data.ctrl.copy()
        after = self._next_targets(before, action)
        self.grasp()
        substeps = round(1 / (self.control_hz * self.model.opt.timestep))
        contacts = 0
        for i in range(substeps):
            self.data.ctrl[:] = before + (after - before) * ((i + 1) / substeps)
            mujoco.mj_step(self.model, self.data)
            contacts = max(contacts, self._fragile_contacts())
        mujoco.mj_forward(self.model, self.data)
        obs = self._observe()
        reward, success = self.definition.evaluate(self.full_obs)
        info = {"success": success, **self._measures(contacts)}
        reward += sum(weight * info[name] for name, weight in self.preference.items())
        return obs, reward, False, info

    def grasp(self) -> None:
        """Binds to the tool, until this is called again, what the gripper holds other than by friction."""
        self.definition.grasp(self.data, float(self.finger_positions.sum()))

    def _measures(self, contacts: int) -> dict[str, float]:
        speed = float(np.linalg.norm(self.full_obs[3:6]))
        excess, clearance = max(speed - SPEED_THRESHOLD, 0.0), self.definition.clearance(self.full_obs)
        return dict(zip(MEASURES, (float(self.full_obs[2]), speed, excess, float(contacts), clearance), strict=True))

    def _next_targets(self, ctrl: np.ndarray, action: np.ndarray) -> np.ndarray:
        """The servos' next targets [J + 2]: joints, then both fingers."""
        dof = self.arm.dof
        finger = self.actions.gripper_width(2 * ctrl[dof], action) / 2
        return np.concatenate([self.actions.joint_targets(ctrl[:dof], action), [finger, finger]])

    def _fragile_contacts(self) -> int:
        """The number of contacts with fragile things, but for what they stand on."""
        if not self.definition.fragile:
            return 0
        fragile = [self.model.geom(name).id for name in self.definition.fragile]
        table = self.model.geom("table").id
        pairs = self.data.contact.geom
        return int(sum((a in fragile or b in fragile) and table not in (a, b) for a, b in pairs))

    def _observe(self) -> np.ndarray:
        objects = np.array([[*self.data.xpos[body], *self.data.xquat[body]] for body in self.objects])
        self.full_obs = observation(
            self.actions.kinematics,
            self.joint_positions,
            self.joint_velocities,
            self.finger_positions.sum(),
            objects,
            self.model.site_pos[self.goal] if self.definition.has_goal else (),
            self.data.xpos[self.points],
        )  # [O]
        return self.full_obs[:ROBOT_DIM] if self.state == "robot" else self.full_obs

    def _measure(self, states: np.ndarray) -> dict[str, np.ndarray]:
        seen = []
        for state in states:
            self._put(state, 0)
            seen.append(self.full_obs)
        obs = np.stack(seen)
        found = measure_hand(obs[:, :3], obs[:, 3:6], self.control_hz)
        if self.definition.fragile:
            found["clearance"] = np.array([self.definition.clearance(one) for one in obs[1:]])
        return found

    def evaluate(self) -> tuple[float, bool]:
        """The task's reward and success of the present state."""
        self._observe()
        return self.definition.evaluate(self.full_obs)

    def expert(self, **style: float) -> Expert:
        """The task's scripted expert, in this environment's style with the given changes. Raises UserError."""
        if self.control != "cartesian":
            raise UserError("the scripted experts move the tool: env.control=cartesian")
        return Expert(self.task, {**self.style, **style})

    def double(self, random: np.random.Generator | None = None) -> "Tabletop":
        """A second simulator of this task."""
        same = {"robot": self.robot, "control": self.control, "horizon": self.horizon}
        return Tabletop(self.task, **same, style=self.style, preference=self.preference)


def check_settings(
    task: str, horizon: int, preference: dict[str, float], state: str, images: Sequence[str], image_size: int
) -> None:
    """Raises UserError for a value that there is not."""
    if task not in tasks.TASKS:
        raise UserError(f"no tabletop task {task!r}; there are {', '.join(TASKS)}")
    if horizon < 1:
        raise UserError(f"env.horizon={horizon} must be at least 1")
    unknown = set(preference) - set(MEASURES)
    if unknown:
        raise UserError(f"env.preference has no {', '.join(sorted(unknown))}; it weighs {', '.join(MEASURES)}")
    if state not in STATES:
        raise UserError(f"env.state={state}: it is one of {', '.join(STATES)}")
    missing = set(images) - set(Tabletop.cameras)
    if missing:
        raise UserError(f"env.images has no {', '.join(sorted(missing))}; it takes {', '.join(Tabletop.cameras)}")
    if not 16 <= image_size <= 512:
        raise UserError(f"env.image_size={image_size} lies between 16 and 512 pixels")

"""Tabletop tasks of a Franka arm: `env=franka/lift` and others; the robot is data, the scene is MuJoCo.

Twenty commands a second over servos at 500 Hz. A command moves the hand (`control=cartesian`: along x, y, z, then the
gripper) or the joints; it starts from what was last commanded, not from where the arm sags to, is held to a workspace
and to a share of the arm's own limits, and reaches the servos as a ramp.

`env.images=[front,wrist]` lets a policy see, and `env.state=robot` is all that it is told besides: where the hand is,
how fast, and how wide it is open. So it is with a real arm that has cameras and nobody who measures poses.
"""

from collections.abc import Sequence
from typing import Any

import mujoco
import numpy as np
from gymnasium.spaces import Box, Dict

from pbrl.types import UserError
from robots import arm
from robots.terms import OWN, Terms, observed
from sim.franka import tasks
from sim.franka.experts import Expert
from sim.simulation import Simulation

TASKS = tuple(tasks.TASKS)
TIMESTEP = 0.002  # s
STATES = ("full", "robot")
UNHURRIED = 0.2  # m/s; experts at full speed reach 0.3
MEASURES = ("height", "speed", "haste", "collisions", "clearance")  # what people would prefer by, of each step


class Franka(Simulation):
    """`task` on the arm `robot`, by `control`: cartesian, 4 numbers, or joint, 8; the last one closes the gripper.

    `prefer` makes a taste part of the reward: weights on `MEASURES`, whose sum each step adds. So whoever judges by
    the reward prefers a style, and whoever is told it learns one. `images` are cameras that a policy sees through,
    `image_size` pixels square; `state` is what it is told: full, or robot, which leaves out objects and goal.
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
        prefer: dict[str, float],
        state: str = "full",
        images: Sequence[str] = (),
        image_size: int = 64,
    ):
        if task not in tasks.TASKS:
            raise UserError(f"no Franka task {task!r}; there are {', '.join(TASKS)}")
        if horizon < 1:
            raise UserError(f"env.horizon={horizon} must be at least 1")
        unknown = set(prefer) - set(MEASURES)
        if unknown:
            raise UserError(f"env.prefer has no {', '.join(sorted(unknown))}; it weighs {', '.join(MEASURES)}")
        if state not in STATES:
            raise UserError(f"env.state={state}: it is one of {', '.join(STATES)}")
        strange = set(images) - set(self.cameras)
        if strange:
            raise UserError(f"env.images has no {', '.join(sorted(strange))}; it takes {', '.join(self.cameras)}")
        if not 16 <= image_size <= 512:
            raise UserError(f"env.image_size={image_size} lies between 16 and 512 pixels")
        self.state, self.images, self.image_size = state, tuple(images), image_size
        self.task, self.robot, self.control, self.horizon = task, robot, control, horizon
        self.style, self.prefer = dict(style), dict(prefer)
        self.arm = arm.load(robot)
        self.terms = Terms(self.arm, control, self.control_hz)
        self.job = tasks.TASKS[task]()
        self.instruction = self.job.instruction
        self.model = self._scene()
        self.data = mujoco.MjData(self.model)
        self.site, self.goal = self.model.site("tcp").id, self.model.site("goal").id
        self.objects = [self.model.body(name).id for name in self.job.objects]
        size = OWN if state == "robot" else OWN + 7 * len(self.objects) + 3
        self.observation_space = Box(-np.inf, np.inf, (size,), np.float32)
        if images:
            image = Box(0, 255, (image_size, image_size, 3), np.uint8)
            views = Dict({camera: image for camera in images})
            self.observation_space = Dict({"state": self.observation_space, "images": views})
        self.action_space = Box(-1.0, 1.0, (self.terms.action_dim,), np.float32)
        Expert(task, style)  # says what is wrong with the style

    def _scene(self) -> mujoco.MjModel:
        spec = mujoco.MjSpec()
        spec.option.timestep = TIMESTEP
        spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
        spec.option.cone, spec.option.impratio = mujoco.mjtCone.mjCONE_ELLIPTIC, 10  # what is gripped does not creep
        spec.visual.headlight.ambient = [0.4, 0.4, 0.4]
        world = spec.worldbody
        world.add_light(pos=[0.5, -0.5, 1.5], dir=[0, 0.3, -1], diffuse=[0.6, 0.6, 0.6])
        world.add_geom(name="table", type=mujoco.mjtGeom.mjGEOM_BOX, pos=[0.4, 0, -0.02], size=[0.6, 0.6, 0.02],
                       rgba=[0.75, 0.66, 0.55, 1])  # fmt: skip
        world.add_body(name="centre", pos=[0.42, 0, 0.2])
        for name, pos in (("front", [1.35, 0.5, 0.65]), ("side", [0.45, -1.2, 0.5])):
            world.add_camera(name=name, pos=pos, mode=mujoco.mjtCamLight.mjCAMLIGHT_TARGETBODY, targetbody="centre",
                             fovy=45)  # fmt: skip
        world.add_site(name="goal", pos=[0.5, 0, 0.1], size=[0.02, 0.02, 0.02], rgba=[0.1, 0.7, 0.2, 0.5])
        self.arm.mount(spec, world)
        self.job.build(world)
        return spec.compile()

    def _reset(self, seed: int) -> np.ndarray:
        random = np.random.default_rng([seed, 3])
        mujoco.mj_resetData(self.model, self.data)
        home = self.arm.home.copy()
        home[[1, 3, 5]] += random.uniform(-0.02, 0.02, 3)
        self.data.qpos[:7] = self.data.ctrl[:7] = home
        self.data.qpos[7:9] = self.data.ctrl[7:9] = self.arm.gripper["width"] / 2
        places, goal = self.job.draw(random)
        for name, (position, yaw) in zip(self.job.objects, places, strict=True):
            joint = self.data.joint(f"{name}_free")
            joint.qpos[:3], joint.qpos[3:] = position, [np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)]
        self.model.site_pos[self.goal] = goal
        for _ in range(10):  # what lies on the table settles
            mujoco.mj_step(self.model, self.data)
        self.data.time = 0.0
        mujoco.mj_forward(self.model, self.data)
        return self._observe()

    def _step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, dict[str, Any]]:
        before = self.data.ctrl.copy()
        after = self._commanded(before, action)
        substeps = round(1 / (self.control_hz * TIMESTEP))
        touched = 0
        for i in range(substeps):
            self.data.ctrl[:] = before + (after - before) * ((i + 1) / substeps)
            mujoco.mj_step(self.model, self.data)
            touched = max(touched, self._touching())
        mujoco.mj_forward(self.model, self.data)
        obs = self._observe()
        reward, success = self.job.judge(self.full_obs)
        speed = float(np.linalg.norm(self.full_obs[3:6]))
        info = {"success": success, "height": float(self.full_obs[2]), "speed": speed,
                "haste": max(speed - UNHURRIED, 0.0), "collisions": float(touched),
                "clearance": self.job.clearance(self.full_obs)}  # fmt: skip
        reward += sum(weight * info[name] for name, weight in self.prefer.items())
        return obs, reward, False, info

    def _commanded(self, ctrl: np.ndarray, action: np.ndarray) -> np.ndarray:
        """The servos' next targets [9]: joints, then both fingers."""
        finger = self.terms.width(2 * ctrl[7], action) / 2
        return np.concatenate([self.terms.joints(ctrl[:7], action), [finger, finger]])

    def _touching(self) -> int:
        """How many contacts there are with what should not be touched."""
        if not self.job.fragile:
            return 0
        fragile = [self.model.geom(name).id for name in self.job.fragile]
        table = self.model.geom("table").id
        pairs = self.data.contact.geom
        return int(sum((a in fragile or b in fragile) and table not in (a, b) for a, b in pairs))

    def _observe(self) -> np.ndarray:
        q, width = self.data.qpos[:7], self.data.qpos[7] + self.data.qpos[8]
        objects = np.array([[*self.data.xpos[body], *self.data.xquat[body]] for body in self.objects])
        goal = self.model.site_pos[self.goal]
        self.full_obs = observed(self.terms.kinematics, q, self.data.qvel[:7], width, objects, goal)
        return self.full_obs[:OWN] if self.state == "robot" else self.full_obs

    def expert(self, **style: float) -> Expert:
        """The task's scripted expert, in this environment's style, or as far as it is given in another."""
        if self.control != "cartesian":
            raise UserError("the scripted experts move the hand: env.control=cartesian")
        return Expert(self.task, {**self.style, **style})

    def double(self, random: np.random.Generator | None = None) -> "Franka":
        """A second simulator of this task."""
        same = {"robot": self.robot, "control": self.control, "horizon": self.horizon}
        return Franka(self.task, **same, style=self.style, prefer=self.prefer)

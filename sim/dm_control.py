"""DeepMind Control Suite: every domain and task, state observations, no terminal but the task's own.

Tassa et al. 2018, arXiv:1801.00690.
"""

from collections.abc import Sequence

import mujoco
import numpy as np
from dm_control import suite
from gymnasium.spaces import Box

from pbrl.types import UserError
from sim.instructions import DM_CONTROL
from sim.render import Viewpoint
from sim.simulation import Walking

TASKS = tuple(f"{domain}-{task}" for domain, task in suite.ALL_TASKS)
WALKING = ("cheetah", "hopper", "humanoid", "walker")  # domains whose gait is measured
VIEWPOINTS = {"cartpole": {"rail": Viewpoint((0, 0, 1.0), 5.2, 90, 0)}}  # the suite's own sees the middle of it


class DmControl(Walking):
    """`task` is domain-task, as in `walker-walk`. Actions are scaled from [-1, 1] to the task's own bounds."""

    keeps_instruction = False  # episodes are known by ids from before there were instructions

    def __init__(
        self,
        task: str,
        *,
        action_repeat: int,
        images: Sequence[str] = (),
        image_size: int = 64,
        camera: str | None = None,
        instruction: str | None = None,
        name: str = "",
    ):
        if task not in TASKS:
            raise UserError(f"the DeepMind Control Suite has no task {task!r}; it has {', '.join(TASKS)}")
        if action_repeat < 1:
            raise UserError(f"action_repeat must be at least 1, not {action_repeat}")
        self.task, self.action_repeat, self.name = task, action_repeat, name
        self.env = suite.load(*task.split("-", 1), task_kwargs={"random": 0})
        self.horizon = int(np.ceil(self.env._step_limit / action_repeat)) if np.isfinite(self.env._step_limit) else 1000
        self.control_hz = 1.0 / (self.env.control_timestep() * action_repeat)
        self.model, self.data = self.env.physics.model.ptr, self.env.physics.data.ptr
        names = (mujoco.mj_id2name(self.model, mujoco.mjtObj.mjOBJ_CAMERA, i) for i in range(self.model.ncam))
        self.viewpoints = VIEWPOINTS.get(task.split("-")[0], {})
        self.cameras = (*(name for name in names if name), *self.viewpoints)
        bounds = self.env.action_spec()
        self.low, self.high = bounds.minimum, bounds.maximum
        size = sum(int(np.prod(spec.shape)) for spec in self.env.observation_spec().values())
        state = Box(-np.inf, np.inf, (size,), np.float32)
        self.instruction = DM_CONTROL[task]
        self.set_view(state, images=images, image_size=image_size, camera=camera, instruction=instruction)
        self.action_space = Box(-1.0, 1.0, bounds.shape, np.float32)
        if task.split("-")[0] in WALKING:
            self.set_legged()

    @property
    def action_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        return self.low, self.high

    def _reset(self, seed: int) -> np.ndarray:
        self.env.task._random = np.random.RandomState(seed)  # the suite draws all its starts from this generator
        return flatten(self.env.reset().observation)

    def _step(self, action: np.ndarray):
        scaled = self.low + (action + 1.0) * 0.5 * (self.high - self.low)
        reward, step = 0.0, None
        for _ in range(self.action_repeat):
            step = self.env.step(scaled)
            reward += step.reward or 0.0
            if step.last():
                break
        assert step is not None
        return flatten(step.observation), reward, step.last() and step.discount == 0.0, {}

    def _put(self, state: np.ndarray, t: int) -> np.ndarray:
        obs = super()._put(state, t)
        self.env._step_count, self.env._reset_next_step = t * self.action_repeat, False
        return obs

    def _observe(self) -> np.ndarray:
        return flatten(self.env.task.get_observation(self.env.physics))


def flatten(observation: dict) -> np.ndarray:
    """The named parts of an observation as one vector [O], in the suite's order."""
    return np.concatenate([np.ravel(part) for part in observation.values()])

"""Gymnasium's MuJoCo locomotion tasks, version 5."""

from collections.abc import Sequence
from typing import Any

import gymnasium
import mujoco
import numpy as np
from gymnasium.envs.mujoco import MujocoEnv
from gymnasium.spaces import Box

from pbrl.types import UserError
from sim.instructions import GYM
from sim.render import Viewpoint
from sim.simulation import Walking

IDS = {
    "ant": "Ant-v5",
    "halfcheetah": "HalfCheetah-v5",
    "hopper": "Hopper-v5",
    "humanoid": "Humanoid-v5",
    "humanoid-standup": "HumanoidStandup-v5",
    "inverted-double-pendulum": "InvertedDoublePendulum-v5",
    "inverted-pendulum": "InvertedPendulum-v5",
    "pusher": "Pusher-v5",
    "reacher": "Reacher-v5",
    "swimmer": "Swimmer-v5",
    "walker2d": "Walker2d-v5",
}
TASKS = tuple(IDS)
WALKING = ("halfcheetah", "hopper", "humanoid", "walker2d")  # tasks whose gait is measured
VIEWPOINTS = {  # of tasks whose model has no camera: the whole range of what moves, from the side or from above
    "inverted-double-pendulum": Viewpoint((0, 0, 0.4), 4.2, 90, -5),
    "inverted-pendulum": Viewpoint((0, 0, 0.1), 3.4, 90, -5),
    "pusher": Viewpoint((0.35, -0.2, -0.2), 2.2, 130, -40),
    "reacher": Viewpoint((0, 0, 0), 0.75, 90, -90),
}


class Gym(Walking):
    """`task` is the plain name, as in `hopper`. Actions are scaled from [-1, 1] to the task's own bounds.

    Ant and Humanoid measure their speed on body positions that are one substep old, so the first reward after `restore`
    can differ in the third decimal; states and observations do not.
    """

    keeps_instruction = False  # episodes are known by ids from before there were instructions

    def __init__(
        self,
        task: str,
        *,
        images: Sequence[str] = (),
        image_size: int = 64,
        camera: str | None = None,
        instruction: str | None = None,
        name: str = "",
    ):
        if task not in IDS:
            raise UserError(f"no Gymnasium MuJoCo task {task!r}; there are {', '.join(TASKS)}")
        self.task, self.name = task, name
        env: Any = gymnasium.make(IDS[task])
        assert env.spec is not None and env.spec.max_episode_steps and isinstance(env.unwrapped, MujocoEnv)
        self.horizon, self.env = env.spec.max_episode_steps, env.unwrapped
        self.control_hz = 1.0 / self.env.dt
        self.model, self.data = self.env.model, self.env.data
        if mujoco.mj_name2id(self.model, mujoco.mjtObj.mjOBJ_CAMERA, "track") < 0:
            self.viewpoints = {"fixed": VIEWPOINTS[task]}
        self.cameras = tuple(self.viewpoints) or ("track",)
        bounds = self.env.action_space
        assert isinstance(bounds, Box) and self.env.observation_space.shape is not None
        self.low, self.high = bounds.low, bounds.high
        state = Box(-np.inf, np.inf, self.env.observation_space.shape, np.float32)
        self.instruction = GYM[task]
        self.set_view(state, images=images, image_size=image_size, camera=camera, instruction=instruction)
        self.action_space = Box(-1.0, 1.0, bounds.shape, np.float32)
        if task in WALKING:
            self.set_legged()

    @property
    def action_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        return self.low, self.high

    def _reset(self, seed: int) -> np.ndarray:
        return self.env.reset(seed=seed)[0]

    def _step(self, action: np.ndarray):
        obs, reward, terminated, _, _ = self.env.step(self.low + (action + 1.0) * 0.5 * (self.high - self.low))  # type: ignore[arg-type]
        return obs, float(reward), terminated, {}

    def _observe(self) -> np.ndarray:
        return self.env._get_obs()  # type: ignore[attr-defined]

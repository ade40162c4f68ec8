"""Hand-written environments, as a reader of docs/environments.md would write them: a puck that goes to a target.

Importing this module registers them. Each takes [force, force, unused] with forces in [0, 5], 2.5 being rest.
"""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, Tuple

from sim.gymnasium_env import Restorable


class Puck(gymnasium.Env):
    """Position and target [2] in [-1, 1]. Reward: minus the distance. Success within 0.2."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    observation_space: gymnasium.Space = Box(-1.0, 1.0, (4,), np.float64)
    action_space: gymnasium.Space = Box(np.array([0, 0, 1], np.float32), np.array([5, 5, 1], np.float32))

    def __init__(self, render_mode: str | None = None, reports_success: bool = True):
        self.render_mode, self.reports_success = render_mode, reports_success

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.position, self.target = self.np_random.uniform(-1, 1, (2, 2))
        return self.observe(), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict]:
        assert self.action_space.contains(action), action
        self.position = np.clip(self.position + 0.04 * (action[:2] - 2.5), -1, 1)
        distance = float(np.linalg.norm(self.position - self.target))
        return self.observe(), -distance, False, False, {"is_success": distance < 0.2} if self.reports_success else {}

    def observe(self) -> Any:
        return np.concatenate([self.position, self.target])

    def picture(self, size: int) -> np.ndarray:
        image = np.full((size, size, 3), 30, np.uint8)
        for place, color in ((self.target, (40, 200, 60)), (self.position, (230, 120, 40))):
            x, y = ((place + 1) / 2 * (size - 6)).astype(int)
            image[y : y + 6, x : x + 6] = color
        return image

    def render(self) -> np.ndarray:
        return self.picture(99)


class GoalPuck(Puck):
    """Its observation is a Dict, as of a goal environment."""

    observation_space = Dict(
        {"observation": Box(-1, 1, (2,)), "desired_goal": Box(-1, 1, (2,)), "mode": Discrete(3)},
    )

    def observe(self) -> Any:
        return {"observation": self.position, "desired_goal": self.target, "mode": 2}


class PixelPuck(Puck):
    """It observes an image of a camera, and nothing else."""

    observation_space = Box(0, 255, (33, 33, 3), np.uint8)

    def observe(self) -> Any:
        return self.picture(33)


class CameraPuck(Puck):
    """It observes two cameras, one gray with its channel first, and the position."""

    observation_space = Dict(
        {"agent": Box(-1, 1, (2,)), "cameras": Dict({"color": Box(0, 255, (32, 32, 3), np.uint8),
                                                     "gray": Box(0, 255, (1, 32, 32), np.uint8)})}
    )  # fmt: skip

    def observe(self) -> Any:
        image = self.picture(32)
        return {"agent": self.position, "cameras": {"color": image, "gray": image[None, ..., 0]}}


class RestorablePuck(Puck, Restorable):
    """It can be put back: the target follows from the seed."""

    def get_state(self) -> np.ndarray:
        return self.position

    def set_state(self, state: np.ndarray) -> Any:
        self.position = state.copy()
        return self.observe()


class ForgetfulPuck(RestorablePuck):
    """It says that it can be put back, and forgets how fast it was."""

    def reset(self, **how: Any) -> Any:
        self.speed = np.zeros(2)
        return super().reset(**how)

    def step(self, action: np.ndarray) -> Any:
        self.speed = 0.9 * self.speed + 0.01 * (action[:2] - 2.5)
        self.position = self.position + self.speed
        return super().step(action)


class SilentPuck(Puck):
    """It draws nothing."""

    metadata: dict = {"render_modes": []}

    def __init__(self):
        super().__init__()


class ButtonPuck(Puck):
    action_space = Discrete(4)


class BoundlessPuck(Puck):
    action_space = Box(-np.inf, np.inf, (2,))


class PairPuck(Puck):
    observation_space = Tuple((Box(-1, 1, (2,)), Box(-1, 1, (2,))))


class FloatPixelPuck(Puck):
    observation_space = Box(0.0, 1.0, (33, 33, 3))


for env_class in (Puck, GoalPuck, PixelPuck, CameraPuck, RestorablePuck, ForgetfulPuck, SilentPuck, ButtonPuck,
             BoundlessPuck, PairPuck, FloatPixelPuck):  # fmt: skip
    gymnasium.register(f"{env_class.__name__}-v0", env_class, max_episode_steps=20)
gymnasium.register("EndlessPuck-v0", Puck)


def homing(obs: np.ndarray) -> np.ndarray:
    """Straight to the target, in the environment's own terms."""
    away = np.clip(obs[2:] - obs[:2], -0.1, 0.1)
    return np.append(2.5 + away / 0.04, 1.0)


class Hesitant:
    """Goes to the target after five steps of rest. One of it serves one episode."""

    def __init__(self):
        self.steps = 0

    def __call__(self, obs: np.ndarray) -> np.ndarray:
        self.steps += 1
        return homing(obs) if self.steps > 5 else np.array([2.5, 2.5, 1.0])

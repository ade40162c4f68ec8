"""`env=multitask/mt10`: several tasks in one environment, told in words, for policies that read instructions.

MT10 is Meta-World's set of ten tasks (Yu et al. 2019, arXiv:1910.10897). An episode's seed alone says which task it is,
in which layout, and in which words: seeds that follow each other take tasks in turn.
"""

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box

from pbrl.types import UserError
from sim.instructions import PHRASINGS, Phrasings
from sim.metaworld import MetaWorld
from sim.simulation import Observed, add_images, check_images

SETS = {
    "mt10": (
        "reach", "push", "pick-place", "door-open", "drawer-open", "drawer-close", "button-press-topdown",
        "peg-insert-side", "window-open", "window-close",
    ),
}  # fmt: skip
TASKS = tuple(SETS)
STATE = 64  # numbers of the longest physics state, 56, and some: states of all tasks have one size
_idle: dict[tuple[Any, ...], list[MetaWorld]] = {}  # this process's simulators that no environment is using
ROBOT = 4  # numbers of an observation that are the robot's own: its hand's position, and its opening


class MultiTask(gym.Env):
    """The tasks of a set, of which each episode is one. `layouts` is how many scenes each task has; 0: any number.

    `phrasings` are training, held_out, new_words or all: each task has several instructions, and some are for tests.
    Raises UserError for a task that the set does not have.
    """

    has_success = True
    control_hz = MetaWorld.control_hz
    cameras = MetaWorld.cameras
    can_restore = True
    style = None
    double = None
    attributes: tuple[str, ...] = ()

    def __init__(
        self,
        task: str,
        *,
        tasks: Sequence[str] | None,
        horizon: int,
        layouts: int,
        phrasings: str,
        state: str,
        images: Sequence[str] = (),
        image_size: int = 48,
        camera: str | None = None,
        name: str = "",
    ):
        if task not in SETS:
            raise UserError(f"there is no set {task!r} of tasks; there are {', '.join(SETS)}")
        unknown = set(tasks or ()) - set(SETS[task])
        if unknown or (tasks is not None and not tasks):
            what = f"has no {', '.join(sorted(unknown))}" if unknown else "needs one task at least"
            raise UserError(f"env.tasks={list(tasks or ())}: {task} {what}; it has {', '.join(SETS[task])}")
        if phrasings not in (*Phrasings._fields, "all"):
            raise UserError(f"env.phrasings={phrasings}: it is {', '.join(Phrasings._fields)} or all")
        if state not in ("full", "robot"):
            raise UserError(f"env.state={state}: it is full or robot")
        if layouts < 0:
            raise UserError(f"env.layouts={layouts}: a number of scenes, or 0 for any")
        check_images(images, image_size, self.cameras)
        self.name, self.horizon = name, horizon
        self.tasks, self.layouts, self.phrasings, self.state = tuple(tasks or SETS[task]), layouts, phrasings, state
        self.images, self.image_size, self.renders = tuple(images), image_size, True
        self._camera = camera
        self.env = self._take(self.tasks[0])
        self.cameras = self.env.cameras
        size = ROBOT if state == "robot" else 39
        self.observation_space = add_images(Box(-np.inf, np.inf, (size,), np.float32), images, image_size)
        self.action_space = self.env.action_space
        self.instruction = f"one of {len(self.tasks)} tasks"

    def _key(self, task: str) -> tuple[Any, ...]:
        return task, self.horizon, self.images, self.image_size, self._camera

    def _take(self, task: str) -> MetaWorld:
        """A simulator of a task that is idle, or a new one: sixteen environments with ten each would take 3 GB."""
        idle = _idle.setdefault(self._key(task), [])
        if idle:
            return idle.pop()
        view: dict[str, Any] = {"images": self.images, "image_size": self.image_size, "camera": self._camera}
        return MetaWorld(task, horizon=self.horizon, goal_visible=True, **view)

    def change_view(self, **change: Any) -> None:
        """Raises UserError: its simulators are shared."""
        raise UserError("no camera of env=multitask can be moved, and no light changed: take env=metaworld/…")

    def _turn_to(self, task: str) -> None:
        """Gives the simulator of the last task back, for others to use, and takes one of this task."""
        if self.env.task != task:
            _idle[self._key(self.env.task)].append(self.env)
            self.env = self._take(task)
        self.env.renders = self.renders

    def describe(self, seed: int) -> tuple[str, int, str]:
        """The task, the seed of its scene and the instruction of the episode with this seed."""
        count = len(self.tasks)
        task, scene = self.tasks[seed % count], seed // count
        words = PHRASINGS[task]
        chosen = words.training + words.held_out if self.phrasings == "all" else getattr(words, self.phrasings)
        return task, scene % self.layouts if self.layouts else scene, chosen[zlib.crc32(b"%d" % seed) % len(chosen)]

    @property
    def task(self) -> str:
        """The task of the episode."""
        return self.env.task

    @property
    def action_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        return self.env.action_bounds

    @property
    def full_obs(self) -> np.ndarray:
        return self.env.full_obs

    @property
    def expert(self) -> Callable[..., Any]:
        """The scripted expert of the episode's task."""
        return self.env.expert

    @property
    def t(self) -> int:
        """Steps since the episode began."""
        return self.env.t

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Observed, dict[str, Any]]:
        """Starts an episode that `seed` alone determines; `info["instruction"]` says the task in words."""
        super().reset(seed=seed)
        self.episode_seed = int(self.np_random.integers(2**31)) if seed is None else int(seed)
        task, scene, self.instruction = self.describe(self.episode_seed)
        self._turn_to(task)
        obs, info = self.env.reset(seed=scene)
        return self._visible(obs), {**info, "instruction": self.instruction, "task": task}

    def step(self, action: np.ndarray) -> tuple[Observed, float, bool, bool, dict[str, Any]]:
        self.env.renders = self.renders
        obs, *rest = self.env.step(action)
        return self._visible(obs), *rest  # type: ignore[return-value]

    def _visible(self, obs: Observed) -> Observed:
        if self.state == "full":
            return obs
        return {**obs, "state": obs["state"][:ROBOT]} if isinstance(obs, dict) else obs[:ROBOT]

    def save_state(self) -> np.ndarray:
        """The physics state [S] float64, zero beyond what the task has."""
        state = np.zeros(STATE)
        own = self.env.save_state()
        state[: len(own)] = own
        return state

    def _enter(self, episode_seed: int) -> int:
        """Turns to an episode's task; returns the seed of its scene."""
        task, scene, self.instruction = self.describe(episode_seed)
        self.episode_seed = int(episode_seed)
        self._turn_to(task)
        return scene

    def restore(self, episode_seed: int, state: np.ndarray, t: int = 0) -> Observed:
        scene = self._enter(episode_seed)
        return self._visible(self.env.restore(scene, self._own(state), t))

    def _own(self, state: np.ndarray) -> np.ndarray:
        return state[: len(self.env.save_state())]

    def measure(self, episode_seed: int, states: np.ndarray) -> dict[str, np.ndarray]:
        """Nothing: these tasks have no attributes."""
        return {}

    def keypoints(self, episode_seed: int, states: np.ndarray) -> dict[str, np.ndarray]:
        """Where hand, object and goal are in the states [T+1, S] of an episode: [T+1, 3] m each."""
        scene = self._enter(episode_seed)
        return self.env.keypoints(scene, states[:, : len(self.env.save_state())])

    def frames(self) -> tuple[np.ndarray | None, dict[str, np.ndarray]]:
        """Nothing: states give all frames back."""
        return None, {}

    def render(  # type: ignore[override]
        self, width: int = 256, height: int = 256, camera: str | None = None
    ) -> np.ndarray:
        return self.env.render(width, height, camera)

    def render_at(
        self, episode_seed: int, state: np.ndarray, t: int = 0, *, width: int, height: int, camera: str | None = None
    ) -> np.ndarray:
        scene = self._enter(episode_seed)
        return self.env.render_at(scene, self._own(state), t, width=width, height=height, camera=camera)

    def close(self) -> None:
        for env in (self.env, *(env for idle in _idle.values() for env in idle)):
            env.close()

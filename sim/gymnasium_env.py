"""Any registered Gymnasium environment with a Box of actions: `env=gymnasium env.id=MyEnv-v0 env.module=my_package`.

docs/environments.md shows it step by step. Whether an environment can be restored to a stored state is tried, not
assumed; where it cannot, frames are kept while episodes are collected.
"""

import inspect
import json
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
import mujoco
import numpy as np
from gymnasium import wrappers
from gymnasium.envs.mujoco import MujocoEnv
from gymnasium.spaces import Box, Dict
from PIL import Image

from pbrl.data.video import square
from pbrl.types import UserError
from sim import registered
from sim.backend import HINT, RendererMissing
from sim.simulation import PHYSICS, Observed
from sim.spaces import ActionScale, ObservationParts

SUCCESS = ("success", "is_success")  # keys of `info`
FRAME_HEIGHT = 256  # pixels, at most, of frames that are kept
STATELESS = (
    wrappers.OrderEnforcing,
    wrappers.TimeLimit,
    wrappers.FlattenObservation,
    wrappers.FilterObservation,
    wrappers.DtypeObservation,
    wrappers.GrayscaleObservation,
    wrappers.ResizeObservation,
    wrappers.ReshapeObservation,
    wrappers.RescaleObservation,
    wrappers.TransformObservation,
    wrappers.ClipAction,
    wrappers.RescaleAction,
    wrappers.TransformAction,
    wrappers.RecordEpisodeStatistics,
)


class Restorable(ABC):
    """What an environment inherits, besides `gymnasium.Env`, that can be put back to an earlier moment.

    MuJoCo environments of Gymnasium and Gymnasium-Robotics need not: their state is MuJoCo's.
    """

    @abstractmethod
    def get_state(self) -> np.ndarray:
        """The state [S] float64 of all that changes within an episode; `reset` with its seed rebuilds the rest."""

    @abstractmethod
    def set_state(self, state: np.ndarray) -> Any:
        """Goes to a state [S] of the episode that was reset last; returns the observation there."""


class Expert:
    """A user's scripted expert. `act(observation)` → action [A] in [-1, 1]; both sides of it are the environment's own.

    `objects` are the places of objects in the observation, which data=offset displaces.
    """

    def __init__(self, decide: Callable[[Any], Any], scale: ActionScale, objects: Sequence[Sequence[int]]):
        self.decide, self.scale = decide, scale
        self.objects = tuple(slice(*place) for place in objects)

    def act(self, obs: Any) -> np.ndarray:
        return self.scale.from_environment(self.decide(obs))


class Gymnasium(gymnasium.Env):
    """A Gymnasium environment as `pbrl.types.Environment`: numbers and images apart, actions scaled to [-1, 1].

    `expert` is "package:name" of a function that takes the environment's own observation and returns its own action,
    or of a class of which one is made for each episode and called in the same way. Without `images` (None) the state is
    all that is observed. Raises UserError where the spaces are not supported, or a name does not exist.
    """

    style = None
    double = None
    attributes: tuple[str, ...] = ()
    renders = True

    def __init__(
        self,
        id: str,
        *,
        module: str | None = None,
        kwargs: Mapping[str, Any] | None = None,
        horizon: int | None = None,
        control_hz: float | None = None,
        instruction: str = "",
        expert: str | None = None,
        objects: Sequence[Sequence[int]] = (),
        success: str | None = None,
        images: Sequence[str] | None = None,
        image_size: int = 64,
        restore: str = "auto",
        frames: bool = True,
        name: str = "",
    ):
        if restore not in ("auto", "always", "never"):
            raise UserError(f"env.restore={restore}: it is one of auto, always, never")
        self.id, self.name, self.instruction, self.task = id, name, instruction, id
        self.env = registered.make(id, module, dict(kwargs or {}))
        self.base: Any = self.env.unwrapped
        assert self.env.spec is not None  # it was registered
        self.horizon = registered.choose_horizon(id, horizon, gymnasium.spec(self.env.spec.id).max_episode_steps)
        self.control_hz = float(control_hz or self.base.metadata.get("render_fps") or 20)
        self.scale = ActionScale(self.env.action_space, id)
        self.parts = ObservationParts(self.env.observation_space, id)
        self.images, self.image_size, self.keeps_frames = tuple(images or ()), image_size, frames
        draws = self.env.render_mode == "rgb_array" and "rgb_array" in self.base.metadata.get("render_modes", ())
        self.cameras = (("render",) if draws else ()) + tuple(self.parts.images)
        self._check_images(chosen=images is not None)
        self.observation_space = self._observation_space()
        self.action_space = Box(-1.0, 1.0, (self.scale.size,), np.float32)
        self.action_bounds = self.scale.low, self.scale.low + self.scale.range
        self.success_key, self.can_restore = self._try_out(
            json.dumps([id, module, kwargs, success, restore]), success, restore
        )
        self.has_success = self.success_key is not None
        if self.images and not (self.can_restore or frames):
            raise UserError(f"{id} cannot be restored, so env.images needs the frames that env.frames=true keeps")
        self._decide = None if expert is None else registered.load_expert(expert)
        self.objects = objects
        self.expert = None if expert is None else self._expert

    def _check_images(self, chosen: bool) -> None:
        known = ", ".join(self.parts.images) or "none"
        strange = set(self.images) - set(self.parts.images)
        if strange:
            raise UserError(f"{self.id} observes no image {', '.join(sorted(strange))}; it observes {known}")
        if not self.parts.size and not self.images and chosen:
            raise UserError(f"{self.id} observes images alone: add env.images=[{known}], and maybe env.image_size")

    def _observation_space(self) -> gymnasium.Space:
        state = Box(-np.inf, np.inf, (self.parts.size,), np.float32)
        if not self.images:
            return state
        image = Box(0, 255, (self.image_size, self.image_size, 3), np.uint8)
        return Dict({"state": state, "images": Dict(dict.fromkeys(self.images, image), sort_keys=False)})

    # Playing

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Observed, dict[str, Any]]:
        """Starts an episode. Returns the observation and info, in which "success" is false where there is one."""
        super().reset(seed=seed)
        self.episode_seed = int(self.np_random.integers(2**31)) if seed is None else int(seed)
        self.t = 0
        self.full_obs, _ = self.env.reset(seed=self.episode_seed)
        info: dict[str, Any] = {"success": False} if self.has_success else {}
        if self.instruction:
            info["instruction"] = self.instruction
        return self._observe(), info

    def step(self, action: np.ndarray) -> tuple[Observed, float, bool, bool, dict[str, Any]]:
        """action [A] in [-1, 1] (clipped) → observation, reward, terminated, truncated, info."""
        scaled = self.scale.to_environment(np.clip(action, -1.0, 1.0))
        self.full_obs, reward, terminated, truncated, info = self.env.step(scaled)
        self.t += 1
        if self.success_key is not None:
            info = {**info, "success": bool(np.any(info.get(self.success_key, False)))}
        ended = bool(truncated) or self.t >= self.horizon
        return self._observe(), float(reward), bool(terminated), ended and not terminated, info

    def _observe(self) -> Observed:
        state = self.parts.state(self.full_obs)
        if not self.images:
            return state
        shown = {name: square(self.parts.image(self.full_obs, name), self.image_size) for name in self.images}
        return {"state": state, "images": shown}

    def _expert(self) -> Expert:
        """The scripted expert, anew for each episode."""
        assert self._decide is not None
        decide: Any = self._decide() if inspect.isclass(self._decide) else self._decide
        return Expert(decide, self.scale, self.objects)

    def measure(self, episode_seed: int, states: np.ndarray) -> dict[str, np.ndarray]:
        """Nothing: what its states mean is not known."""
        return {}

    def change_view(self, **change: Any) -> None:
        """Raises UserError: its pictures are its own."""
        raise UserError(f"{self.id} draws its own pictures: no camera of it can be moved, and no light changed")

    # Restoring

    def keypoints(self, episode_seed: int, states: np.ndarray) -> dict[str, np.ndarray]:
        """None: nothing is known of what is where."""
        return {}

    def save_state(self) -> np.ndarray | None:
        """The state [S] float64 that `restore` takes, or None where it cannot."""
        if not self.can_restore:
            return None
        if isinstance(self.base, Restorable):
            return np.array(self.base.get_state(), np.float64).ravel()
        state = np.empty(mujoco.mj_stateSize(self.base.model, PHYSICS))
        mujoco.mj_getState(self.base.model, self.base.data, state, PHYSICS)
        return state

    def restore(self, episode_seed: int, state: np.ndarray, t: int = 0) -> Observed:
        """Goes to `state` [S] in step `t` of the episode `episode_seed`; returns the observation there."""
        if not self.can_restore:
            raise UserError(f"{self.id} cannot be restored to a stored state; {ADVICE}")
        if self.episode_seed != episode_seed:
            self.reset(seed=episode_seed)
        self.t = t
        if isinstance(self.base, Restorable):
            observed = self.base.set_state(state)
        else:
            mujoco.mj_setState(self.base.model, self.base.data, state, PHYSICS)
            mujoco.mj_forward(self.base.model, self.base.data)
            observed = self.base._get_obs()
            mujoco.mj_setState(self.base.model, self.base.data, state, PHYSICS)  # forward moves the warm start
        for layer in reversed(layers(self.env)):
            if isinstance(layer, gymnasium.ObservationWrapper):
                observed = layer.observation(observed)
        self.full_obs = observed
        return self._observe()

    def _try_out(self, key: str, success: str | None, restore: str) -> tuple[str | None, bool]:
        """The key of `info` that reports success, and whether states can be restored; tried once per process."""
        if key not in _tried:
            self.episode_seed, self.success_key = -1, None
            self.has_success, self.can_restore = False, restore != "never" and is_restorable(self.env)
            self.reset(seed=0)
            info = self.step(np.zeros(self.scale.size))[4]
            found = success or next((name for name in SUCCESS if name in info), None)
            _tried[key] = found, self.can_restore and (restore == "always" or self._is_restored_exactly())
        self.episode_seed = -1  # whatever was tried, the first reset or restore begins anew
        return _tried[key]

    def _is_restored_exactly(self) -> bool:
        """Whether episode 0, gone on with from its third step after another episode, is what it was."""
        actions = np.random.default_rng(0).uniform(-1, 1, (6, self.scale.size))
        self.reset(seed=0)
        try:
            for action in actions[:3]:
                self.step(action)
            state, before = self.save_state(), [self.step(action)[:3] for action in actions[3:]]
            self.reset(seed=1)
            self.step(actions[0])
            assert state is not None
            self.restore(0, state, 3)
            after = [self.step(action)[:3] for action in actions[3:]]
        except (AttributeError, TypeError, ValueError):  # not as Gymnasium's own: no `_get_obs()`, or another one
            return False
        numbers = [[state_of(obs) for obs, _, _ in part] for part in (before, after)]
        rewards = [[reward for _, reward, _ in part[1:]] for part in (before, after)]  # the first may look back
        return np.allclose(*numbers, atol=1e-6) and np.allclose(*rewards, atol=1e-6)

    # Frames

    def render(  # type: ignore[override]
        self, width: int = 256, height: int = 256, camera: str | None = None
    ) -> np.ndarray:
        """The present frame [height, width, 3] uint8, with black beside it where the shape differs.

        `camera` is "render", the environment's own picture, or the name of an image that it observes. Raises
        RendererMissing where it draws none, ValueError for an unknown camera.
        """
        return fit(self._frame(camera), width, height)

    def render_at(
        self, episode_seed: int, state: np.ndarray, t: int = 0, *, width: int, height: int, camera: str | None = None
    ) -> np.ndarray:
        """The frame of a state of an episode. Raises RendererMissing, ValueError, UserError."""
        self.restore(episode_seed, state, t)
        return self.render(width, height, camera)

    def frames(self) -> tuple[np.ndarray | None, dict[str, np.ndarray]]:
        """What is kept while playing: the frame [H, W, 3] uint8 that people are shown, and all images observed."""
        if not self.keeps_frames or not self.cameras:
            return None, {}
        frame = self._frame(None)
        height = 2 * (min(FRAME_HEIGHT, frame.shape[0]) // 2)
        width = 2 * max(1, round(frame.shape[1] * height / frame.shape[0] / 2))
        return fit(frame, width, height), {name: self._frame(name) for name in self.parts.images}

    def _frame(self, camera: str | None) -> np.ndarray:
        if not self.cameras:
            raise RendererMissing(f"{self.id} draws no frames: give it render_mode='rgb_array'")
        camera = camera or self.cameras[0]
        if camera not in self.cameras:
            raise ValueError(f"no camera {camera!r} here; there are {', '.join(self.cameras)}")
        if camera != "render":
            return self.parts.image(self.full_obs, camera)
        if isinstance(self.base, mujoco_environments()) and os.environ.get("MUJOCO_GL") == "disabled":
            raise RendererMissing(HINT)
        try:
            return np.asarray(self.env.render(), np.uint8)
        except gymnasium.error.DependencyNotInstalled as error:
            raise RendererMissing(f"{self.id} cannot draw frames: {error}.") from error

    def close(self) -> None:
        self.env.close()


ADVICE = (
    "it is no MuJoCo environment, nor a sim.gymnasium_env.Restorable, or it did not go on as before when that was "
    "tried. Frames that are kept while collecting (env.frames=true) can be shown to people, and feedback=perfect needs "
    "no states"
)
_tried: dict[str, tuple[str | None, bool]] = {}  # of this process, by what makes the environment


def layers(env: gymnasium.Env) -> list[gymnasium.Wrapper]:
    """The wrappers around an environment, the outermost first."""
    found = []
    while isinstance(env, gymnasium.Wrapper):
        found.append(env)
        env = env.env
    return found


def mujoco_environments() -> tuple[type, ...]:
    """The classes whose state is all MuJoCo's: Gymnasium's, and Gymnasium-Robotics' where it is imported."""
    robots = sys.modules.get("gymnasium_robotics.envs.robot_env")
    return (MujocoEnv, robots.MujocoRobotEnv) if robots else (MujocoEnv,)


def is_restorable(env: gymnasium.Env) -> bool:
    """Whether an environment is of a kind that can be restored, and wrapped in nothing that remembers."""
    if not isinstance(env.unwrapped, (*mujoco_environments(), Restorable)):
        return False
    return all(type(layer) in STATELESS for layer in layers(env))


def state_of(obs: Observed) -> np.ndarray:
    """The numbers in an observation [O]."""
    return obs["state"] if isinstance(obs, dict) else obs


def fit(frame: np.ndarray, width: int, height: int) -> np.ndarray:
    """A frame [H, W, 3] scaled into [height, width, 3], black where its shape leaves room."""
    if frame.shape[:2] == (height, width):
        return frame
    scale = min(width / frame.shape[1], height / frame.shape[0])
    size = max(1, round(frame.shape[1] * scale)), max(1, round(frame.shape[0] * scale))
    small = np.asarray(
        Image.fromarray(frame).resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.NEAREST)
    )
    out = np.zeros((height, width, 3), np.uint8)
    top, left = (height - size[1]) // 2, (width - size[0]) // 2
    out[top : top + size[1], left : left + size[0]] = small
    return out

"""One interface over simulated tasks, most of MuJoCo: float32 state, actions in [-1, 1], seeded, restorable to the bit.

With `images`, an observation is {"state": [O] float32, "images": {camera: [H, W, 3] uint8}} for these cameras. What
pictures show beside the state (`camera`, a see-through arm) changes neither states nor rewards, so no data set.

An episode is its seed plus the physics state of each step. Resetting with the seed rebuilds what a task changes in its
model (goals, object positions); the state vector then puts the simulator exactly where it was. Nothing else is stored.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
from gymnasium.spaces import Box, Dict

from pbrl.types import UserError
from sim.attributes import LEGGED, Legged
from sim.backend import RendererMissing
from sim.looks import Looks
from sim.render import Camera, Viewpoint
from sim.view_change import UNCHANGED, ViewChange

Observed = Any  # [O] float32, or with images {"state": [O] float32, "images": {camera: [H, W, 3] uint8}}
State = mujoco.mjtState
PHYSICS = (
    State.mjSTATE_FULLPHYSICS
    | State.mjSTATE_WARMSTART
    | State.mjSTATE_CTRL
    | State.mjSTATE_MOCAP_POS
    | State.mjSTATE_MOCAP_QUAT
)


class Simulation(gym.Env):
    """A task on a MuJoCo model. Subclasses give `model`, `data`, `_reset(seed)` and `_step(action)`.

    Those on another engine give `save_state`, `_put`, `_image`, `render` and `render_at` in place of a model.

    `info["success"]` is present in `reset` and `step` exactly when `has_success`; it speaks of that one moment.
    """

    has_success = False
    name = ""  # as env=… names it
    task: str
    horizon: int  # steps until truncation
    control_hz: float
    instruction = ""  # the task in words
    keeps_instruction = True  # `reset` puts it into info, so that episodes keep it: it is part of their ids
    can_restore = True
    style: Any = None  # settings of the scripted expert by name, where it has any
    expert: Callable[..., Any] | None = None  # makes a scripted expert, where the task has one
    double: Callable[..., Any] | None = None  # makes a second simulator, where the task can be played twice
    full_obs: Any = None  # what the scripted expert observes, also where a policy observes less
    cameras: tuple[str, ...] = ()  # the first is the default
    viewpoints: Mapping[str, Viewpoint] = {}  # those of the cameras that are ours, and not the model's
    upside_down: tuple[str, ...] = ()  # cameras that the model has mounted on their head
    images: tuple[str, ...] = ()  # cameras that are observed, besides the state
    image_size = 64  # pixels, height and width
    renders = True  # whether observations hold their images; without, an observation has none
    view_change = UNCHANGED  # what pictures show otherwise than the task has it
    attributes: tuple[str, ...] = ()  # of behaviour, which `measure` measures

    model: mujoco.MjModel
    data: mujoco.MjData

    @property
    def action_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """What -1 and 1 are in the task's own units: [A] each. Without units of its own, -1 and 1."""
        space = self.action_space
        assert isinstance(space, gym.spaces.Box)
        return space.low, space.high

    def set_view(
        self, state: Box, *, images: Sequence[str], image_size: int, camera: str | None, instruction: str | None
    ) -> None:
        """Sets what is observed of the space `state`, with `images` of `cameras`; `camera` becomes the first of these.

        `instruction` replaces the task's own. Raises UserError for what there is not.
        """
        check_images(images, image_size, self.cameras)
        if camera is not None:
            if camera not in self.cameras:
                raise UserError(f"env.camera={camera}: {self.task} has {', '.join(self.cameras) or 'none'}")
            self.cameras = (camera, *(name for name in self.cameras if name != camera))
        if instruction is not None:
            if not instruction.strip():
                raise UserError("env.instruction is empty: say the task in words, or leave it out for the task's own")
            self.instruction = instruction
        self.images, self.image_size = tuple(images), image_size
        self.observation_space = add_images(state, self.images, image_size)

    def change_view(self, *, turn_deg: float = 0.0, light: Sequence[float] = (1.0, 1.0, 1.0)) -> None:
        """Pictures from now on are of a camera that was moved round what it looks at, and in another light."""
        red, green, blue = light
        self.view_change = ViewChange(turn_deg, (red, green, blue))

    def _reset(self, seed: int) -> np.ndarray:
        raise NotImplementedError

    def _step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, dict[str, Any]]:
        """Returns obs [O], reward, terminated, info."""
        raise NotImplementedError

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Observed, dict[str, Any]]:
        """Starts an episode that `seed` alone determines, whatever came before. Returns obs [O] float32 and info.

        Raises UserError where there shall be images and nothing renders them.
        """
        super().reset(seed=seed)
        self.episode_seed = int(self.np_random.integers(2**31)) if seed is None else int(seed)
        self.t = 0
        info: dict[str, Any] = {"success": False} if self.has_success else {}
        if self.instruction and self.keeps_instruction:
            info["instruction"] = self.instruction
        return self._with_images(self._reset(self.episode_seed)), info

    def step(self, action: np.ndarray) -> tuple[Observed, float, bool, bool, dict[str, Any]]:
        """action [A] in [-1, 1] (clipped) → obs [O] float32, reward, terminated, truncated, info."""
        obs, reward, terminated, info = self._step(np.clip(action, -1, 1))
        self.t += 1
        return self._with_images(obs), float(reward), terminated, self.t >= self.horizon and not terminated, info

    def save_state(self) -> np.ndarray:
        """The physics state [S] float64; with `episode_seed`, all that `restore` needs."""
        state = np.empty(mujoco.mj_stateSize(self.model, PHYSICS))
        mujoco.mj_getState(self.model, self.data, state, PHYSICS)
        return state

    def restore(self, episode_seed: int, state: np.ndarray, t: int = 0) -> Observed:
        """Puts the simulator at `state` [S] in step `t` of the episode `episode_seed`; stepping goes on bit for bit.

        Returns the observation [O] float32 measured anew; where it holds an earlier frame too, that is the present one.
        """
        if getattr(self, "episode_seed", None) != episode_seed:
            self.reset(seed=episode_seed)
        return self._with_images(self._put(state, t))

    def _put(self, state: np.ndarray, t: int) -> np.ndarray:
        self.t = t
        mujoco.mj_setState(self.model, self.data, state, PHYSICS)
        self._refresh()
        obs = self._observe()
        mujoco.mj_setState(self.model, self.data, state, PHYSICS)  # refreshing moves the solver's warm start
        return obs

    def measure(self, episode_seed: int, states: np.ndarray) -> dict[str, np.ndarray]:
        """The `attributes` of the steps between states [T+1, S] of an episode: [T] float64 each, NaN where undefined.

        It leaves the simulator somewhere in that episode.
        """
        self.episode_seed = int(episode_seed)
        self._reset(self.episode_seed)
        return self._measure(states)

    def _measure(self, states: np.ndarray) -> dict[str, np.ndarray]:
        return {}

    def keypoints(self, episode_seed: int, states: np.ndarray) -> dict[str, np.ndarray]:
        """Where things are in the states [T+1, S] of an episode, by name: [T+1, 3] m each.

        It leaves the simulator somewhere in that episode.
        """
        if getattr(self, "episode_seed", None) != episode_seed:
            self.reset(seed=episode_seed)
        found = []
        for t, state in enumerate(states):
            self._put(state, t)
            found.append(self._keypoints())
        return {name: np.stack([one[name] for one in found]) for name in found[0]}

    def _keypoints(self) -> dict[str, np.ndarray]:
        """Where things are now, [3] m each; none where a task names none."""
        return {}

    def _refresh(self) -> None:
        mujoco.mj_forward(self.model, self.data)

    def _observe(self) -> np.ndarray:
        raise NotImplementedError

    def _with_images(self, obs: np.ndarray) -> Observed:
        if not self.images:
            return obs.astype(np.float32)
        try:
            images = {camera: self._image(camera) for camera in self.images if self.renders}
        except RendererMissing as error:
            raise UserError(str(error)) from error
        return {"state": obs.astype(np.float32), "images": images}

    def _image(self, camera: str) -> np.ndarray:
        """An image [H, W, 3] uint8 whose pixels are means of four rendered ones, as a camera's pixels cover an area."""
        size = self.image_size
        frame = self._frame(self._image_camera, self.save_state(), 2 * size, 2 * size, camera)
        fine = frame.reshape(size, 2, size, 2, 3)
        return ((fine.sum((1, 3), dtype=np.uint16) + 2) // 4).astype(np.uint8)

    @cached_property
    def _looks(self) -> Looks:
        return Looks(self.model)

    @cached_property
    def _camera(self) -> Camera:
        return Camera()

    @cached_property
    def _image_camera(self) -> Camera:
        return Camera()

    def frames(self) -> tuple[np.ndarray | None, dict[str, np.ndarray]]:
        """Nothing: states give all frames back."""
        return None, {}

    def render(  # type: ignore[override]
        self, width: int = 256, height: int = 256, camera: str | None = None, fast: bool = True
    ) -> np.ndarray:
        """A frame [H, W, 3] uint8 of the present state, which is left as it is. Raises RendererMissing, ValueError."""
        return self._frame(self._camera, self.save_state(), width, height, camera or self._first_camera, fast)

    def render_at(
        self, episode_seed: int, state: np.ndarray, t: int = 0, *, width: int, height: int, camera: str | None = None
    ) -> np.ndarray:
        """The frame that `render` shows after `restore`, to the pixel; an episode is reset only the first time.

        Before it steps again the environment must be reset or restored. Raises RendererMissing, ValueError.
        """
        if self._looks.put(episode_seed):
            self.episode_seed = -1  # the model is that of another episode than the rest: `restore` begins anew
        else:
            self.reset(seed=episode_seed)
            self._looks.keep(episode_seed)
        return self._frame(self._camera, state, width, height, camera or self._first_camera)

    @property
    def _first_camera(self) -> str | None:
        return self.cameras[0] if self.cameras else None

    def _frame(
        self, by: Camera, state: np.ndarray, width: int, height: int, camera: str | None, fast: bool = True
    ) -> np.ndarray:
        if camera is not None and camera not in self.cameras:
            raise ValueError(f"no camera {camera!r} here; there are {', '.join(self.cameras)}")
        view = self.viewpoints.get(camera, camera) if camera else None
        frame = by.frame(self.model, state, PHYSICS, width, height, view, fast, self.view_change)
        return frame[::-1, ::-1].copy() if camera in self.upside_down else frame

    def close(self) -> None:
        for name in ("_camera", "_image_camera"):
            if name in self.__dict__:
                getattr(self, name).close()
                del self.__dict__[name]


class Walking(Simulation):
    """A simulation whose task may be one of moving on legs: `legged` says so, and its gait is then measured."""

    legged: Legged | None = None

    def set_legged(self) -> None:
        """Measures the gait from now on."""
        self.legged, self.attributes = Legged(self.model), LEGGED

    def _measure(self, states: np.ndarray) -> dict[str, np.ndarray]:
        if self.legged is None:
            return {}
        seen = []
        for state in states:
            mujoco.mj_setState(self.model, self.data, state, PHYSICS)
            seen.append(self.legged.look(self.model, self.data))
        return self.legged.measure({name: np.stack([one[name] for one in seen]) for name in seen[0]}, self.control_hz)


def check_images(images: Sequence[str], image_size: int, cameras: Sequence[str]) -> None:
    """Raises UserError for a camera or a size that there is not."""
    missing = set(images) - set(cameras)
    if missing:
        takes = f"it takes {', '.join(cameras)}" if cameras else "there is no camera"
        raise UserError(f"env.images has no {', '.join(sorted(missing))}; {takes}")
    if not 16 <= image_size <= 512:
        raise UserError(f"env.image_size={image_size} lies between 16 and 512 pixels")


def add_images(state: Box, images: Sequence[str], image_size: int) -> Box | Dict:
    """The space of observations: `state`, and beside it the images of these cameras, if there are any."""
    if not images:
        return state
    view = Box(0, 255, (image_size, image_size, 3), np.uint8)
    return Dict({"state": state, "images": Dict(dict.fromkeys(images, view), sort_keys=False)})

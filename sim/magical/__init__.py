"""Two-dimensional tasks in the manner of X-Magical, on pymunk: `env=magical/sweep-to-top env.embodiment=gripper`.

A robot of one of four embodiments sweeps three pieces of debris to the top of an arena: see sim/magical/world.py for
what is physical, with credits, and sim/magical/tasks.py for the tasks. Nothing is rendered unless it is asked for.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Box

from pbrl.types import UserError
from sim.magical import tasks
from sim.magical.experts import Expert, check_style
from sim.magical.picture import CAMERAS, draw
from sim.magical.tasks import Poses
from sim.magical.world import CONTROL_HZ, COUNT, HINGE, OPEN, POSE, SPEED, TURN, Command, World
from sim.simulation import Simulation

TASKS = tuple(tasks.TASKS)
DIAGONAL = 8**0.5  # distances are observed in shares of it
START, START_SPREAD = (0.0, -0.6, np.pi / 2), (0.1, 0.05, 0.1)  # pose of the robot, and what the seed adds at most


class Magical(Simulation):
    """`task` with a robot of this `embodiment`. Raises UserError for a value that there is not.

    A state is the bodies' positions and velocities, and in how many steps something was in the off-limits zone. An
    observation has 16 numbers: the robot's and the debris' x and y, cosine and sine of the heading, the distance of
    each piece from the robot and from the goal; of a gripper also how far it is open, from 0 to 1.
    """

    has_success = True
    control_hz = float(CONTROL_HZ)
    cameras = CAMERAS

    def __init__(
        self,
        task: str,
        *,
        embodiment: str,
        horizon: int | None,
        style: dict[str, float],
        images: Sequence[str] = (),
        image_size: int = 64,
        camera: str | None = None,
        name: str = "",
    ):
        if task not in tasks.TASKS:
            raise UserError(f"no magical task {task!r}; there are {', '.join(TASKS)}")
        if horizon is not None and horizon < 1:
            raise UserError(f"env.horizon={horizon} must be at least 1")
        check_style(style)
        self.name, self.task, self.embodiment, self.style = name, task, embodiment, dict(style)
        self.definition, self.world = tasks.TASKS[task], World(embodiment)
        self.horizon = horizon or (50 if embodiment == "long-stick" else 100)
        self.attributes = ("speed", "spread", *(("clearance",) if self.definition.has_zone else ()))
        grips = int(self.world.has_fingers)
        self.set_view(
            Box(-np.inf, np.inf, (16 + grips,), np.float32),
            images=images,
            image_size=image_size,
            camera=camera,
            instruction=self.definition.instruction,
        )
        self.action_space = Box(-1.0, 1.0, (2 + grips,), np.float32)

    @property
    def action_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lengths a second, rad a second, and the fingers' opening in rad: what -1 and 1 are."""
        low, high = np.array([-SPEED, -TURN, 0.0]), np.array([SPEED, TURN, OPEN])
        return low[: self.action_space.shape[0]], high[: self.action_space.shape[0]]  # type: ignore[index]

    def _reset(self, seed: int) -> np.ndarray:
        random = np.random.default_rng([seed, 5])
        self.state, self.entered = np.zeros(self.world.size), 0
        bodies = self.state.reshape(-1, POSE)
        bodies[0, :3] = START + random.uniform(-1, 1, 3) * START_SPREAD
        bodies[1 : 1 + COUNT, :3] = self.definition.start(random)
        angle = bodies[0, 2]
        turned = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        for side, finger in zip((1, -1), bodies[1 + COUNT :], strict=False):
            finger[:3] = *(bodies[0, :2] + turned @ (HINGE[0], side * HINGE[1])), angle
        return self._observe()

    def _step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, dict[str, Any]]:
        low, high = self.action_bounds
        command = Command(*(low + (action + 1.0) * 0.5 * (high - low)).tolist())
        self.state = self.world.advance(self.state, command)
        poses = Poses.of(self.state)
        if self.definition.has_zone:
            self.entered += tasks.count_in_zone(poses) > 0
        score = float(tasks.is_inside(poses.debris).mean())
        info = {"success": self.definition.has_succeeded(poses, self.entered), "score": score}
        return self._observe(), self.definition.reward(poses), False, info

    def _observe(self) -> np.ndarray:
        poses = Poses.of(self.state)
        robot, places, angle = poses.robot[:2], poses.debris[:, :2], poses.robot[2]
        opening = np.abs(self.state.reshape(-1, POSE)[1 + COUNT :, 2] - angle) / OPEN
        self.full_obs = np.concatenate(
            [
                robot,
                places.ravel(),
                [np.cos(angle), np.sin(angle)],
                np.linalg.norm(places - robot, axis=1) / DIAGONAL,
                np.abs(tasks.TOP - places[:, 1]) / DIAGONAL,
                [opening.mean()] if self.world.has_fingers else [],
            ]
        )  # [O]
        return self.full_obs

    # Restoring

    def save_state(self) -> np.ndarray:
        """Positions and velocities of the bodies, and the steps in which something was in the zone: [S] float64."""
        return np.append(self.state, self.entered)

    def _put(self, state: np.ndarray, t: int) -> np.ndarray:
        self.t, self.state, self.entered = t, np.array(state[:-1]), int(state[-1])
        return self._observe()

    def _measure(self, states: np.ndarray) -> dict[str, np.ndarray]:
        poses = Poses.of(states)
        moved = np.linalg.norm(np.diff(poses.robot[:, :2], axis=0), axis=1)
        found = {"speed": self.control_hz * moved, "spread": tasks.spread(poses.debris)[1:]}
        return {**found, "clearance": tasks.clearance(poses)[1:]} if self.definition.has_zone else found

    def _keypoints(self) -> dict[str, np.ndarray]:
        """The robot and each piece, at z = 0."""
        poses = Poses.of(self.state)
        places = {"robot": poses.robot, **{f"debris{i}": piece for i, piece in enumerate(poses.debris)}}
        return {name: np.append(pose[:2], 0.0) for name, pose in places.items()}

    # Pictures

    def _image(self, camera: str) -> np.ndarray:
        return self.render(self.image_size, self.image_size, camera)

    def render(  # type: ignore[override]
        self, width: int = 256, height: int = 256, camera: str | None = None
    ) -> np.ndarray:
        """A frame [height, width, 3] uint8 of the present state. Raises ValueError for an unknown camera."""
        return self._draw(self.state, width, height, camera)

    def render_at(
        self, episode_seed: int, state: np.ndarray, t: int = 0, *, width: int, height: int, camera: str | None = None
    ) -> np.ndarray:
        """The frame that `render` shows after `restore`; the present episode goes on as it was."""
        return self._draw(state[:-1], width, height, camera)

    def _draw(self, state: np.ndarray, width: int, height: int, camera: str | None) -> np.ndarray:
        view = {"width": width, "height": height, "camera": camera or self.cameras[0], "change": self.view_change}
        return draw(state, self.embodiment, self.definition.has_zone, **view)

    # Experts

    def expert(self, **style: float) -> Expert:
        """The task's scripted expert, in this environment's style with the given changes. Raises UserError."""
        return Expert(self.task, self.embodiment, {**self.style, **style})

    def double(self, random: np.random.Generator | None = None) -> "Magical":
        """A second simulator of this task, or of another one that the generator draws."""
        others = [task for task in TASKS if task != self.task]
        task = self.task if random is None else others[random.integers(len(others))]
        return Magical(task, embodiment=self.embodiment, horizon=self.horizon, style=self.style)

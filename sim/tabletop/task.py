"""What a tabletop task is: what lies on the table, where it starts, and the reward in [0, 1]; success is of one step.

An observation [O] is laid out as robots/observations.py has it: position (0 to 2) and velocity (3 to 5) of the tool,
the gripper's width (6), each object's position and quaternion, each keypoint's position, and last the goal; m, m/s.
"""

from abc import ABC, abstractmethod
from typing import Any

import mujoco
import numpy as np

CUBE = 0.02  # m, half a side
BOX = mujoco.mjtGeom.mjGEOM_BOX
Pose = tuple[np.ndarray, float]  # position and yaw


class Task(ABC):
    """A task; subclasses give objects, start and goal, and the reward."""

    instruction: str
    objects: tuple[str, ...] = ()
    points: tuple[str, ...] = ()  # bodies at the keypoints of what has a shape rather than a pose
    has_goal = True
    fragile: tuple[str, ...] = ()  # geoms that should not be touched
    centre = (0.42, 0.0, 0.2)  # m, that the cameras look at
    views = {"front": (1.35, 0.5, 0.65), "side": (0.45, -1.2, 0.5)}  # m, where they are
    timestep_s = 0.002
    settle_steps = 10

    def build(self, spec: Any) -> None:
        """Adds the task's objects to a model that is being made."""
        for name in self.objects:
            body = spec.worldbody.add_body(name=name, pos=[0.5, 0, CUBE])
            body.add_freejoint(name=f"{name}_free")
            body.add_geom(
                name=name,
                type=BOX,
                size=[CUBE] * 3,
                mass=0.06,
                rgba=[0.85, 0.25, 0.2, 1],
                friction=[1.0, 0.01, 0.0001],
                condim=4,
            )

    def sample(self, random: np.random.Generator) -> tuple[list[Pose], np.ndarray]:
        """The start pose of each object and the goal [3] m of an episode."""
        raise NotImplementedError

    def start(self, data: mujoco.MjData, random: np.random.Generator) -> np.ndarray | None:
        """Puts everything where an episode starts. Returns the goal [3] m, None for a task that has none."""
        poses, goal = self.sample(random)
        for name, (position, yaw) in zip(self.objects, poses, strict=True):
            joint = data.joint(f"{name}_free")
            joint.qpos[:3], joint.qpos[3:] = position, [np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)]
        return goal

    def grasp(self, data: mujoco.MjData, width: float) -> None:  # noqa: B027  (most tasks hold by friction alone)
        """Before each action: binds to the tool what a gripper, `width` m open, holds other than by friction.

        What it decides follows from the physics state alone, so that a restored state goes on as it did.
        """

    @abstractmethod
    def evaluate(self, obs: np.ndarray) -> tuple[float, bool]:
        """Reward and success at an observation [O]."""

    def clearance(self, obs: np.ndarray) -> float:
        """The distance of the tool from fragile things, or its height over the table: m."""
        return float(obs[2])


def proximity(distance: Any) -> float:
    """1 at distance 0, falling with it."""
    return float(1 - np.tanh(5 * distance))

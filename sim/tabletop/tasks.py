"""Tabletop tasks with rigid objects, and the names of all tasks."""

from typing import Any

import mujoco
import numpy as np

from sim.tabletop.deformables import Cloth, Rope
from sim.tabletop.task import CUBE, Pose, Task, proximity


def on_table(random: np.random.Generator, low: tuple[float, float], high: tuple[float, float]) -> np.ndarray:
    """A position [3] m of a cube that lies on the table, between two corners."""
    return np.append(random.uniform(low, high), CUBE)


class Reach(Task):
    """The tool moves to a point in the air."""

    instruction = "move the hand to the green point"

    def sample(self, random: np.random.Generator) -> tuple[list[Pose], np.ndarray]:
        return [], random.uniform([0.35, -0.25, 0.08], [0.62, 0.25, 0.4])

    def evaluate(self, obs: np.ndarray) -> tuple[float, bool]:
        distance = float(np.linalg.norm(obs[:3] - obs[-3:]))
        return proximity(distance), distance < 0.02


class Lift(Task):
    """A cube is picked up and held above the goal's height, which is 15 cm over where it lay."""

    instruction = "lift the cube to the green point"
    objects = ("cube",)

    def sample(self, random: np.random.Generator) -> tuple[list[Pose], np.ndarray]:
        cube = on_table(random, (0.4, -0.18), (0.6, 0.18))
        return [(cube, random.uniform(-0.3, 0.3))], cube + [0, 0, 0.15]

    def evaluate(self, obs: np.ndarray) -> tuple[float, bool]:
        cube = obs[7:10]
        held = np.clip((cube[2] - CUBE) / 0.13, 0, 1)
        return float(0.3 * proximity(np.linalg.norm(obs[:3] - cube)) + 0.7 * held), bool(held == 1)


class Push(Task):
    """A cube is slid over the table to a goal ahead of it."""

    instruction = "push the cube to the green point"
    objects = ("cube",)

    def sample(self, random: np.random.Generator) -> tuple[list[Pose], np.ndarray]:
        cube = on_table(random, (0.4, -0.15), (0.5, 0.15))
        return [(cube, random.uniform(-0.2, 0.2))], cube + [random.uniform(0.1, 0.15), random.uniform(-0.06, 0.06), 0]

    def evaluate(self, obs: np.ndarray) -> tuple[float, bool]:
        cube, goal = obs[7:10], obs[-3:]
        distance = float(np.linalg.norm(cube[:2] - goal[:2]))
        reward = 0.2 * proximity(np.linalg.norm(obs[:3] - cube)) + 0.8 * proximity(distance)
        return reward, bool(distance < 0.03 and cube[2] < 0.03)


class Group(Task):
    """Two cubes are pushed over a line, and should stay beside each other on the way.

    RAPL asks for such a task (Tian et al. 2023, arXiv:2310.07932); sizes and places here are ours.
    """

    instruction = "push both cubes together to the green point"
    objects = ("left_cube", "right_cube")

    def sample(self, random: np.random.Generator) -> tuple[list[Pose], np.ndarray]:
        middle = on_table(random, (0.4, -0.08), (0.45, 0.08))
        beside = np.array([0, 0.045, 0])
        places = [(middle + beside, random.uniform(-0.1, 0.1)), (middle - beside, random.uniform(-0.1, 0.1))]
        return places, middle + [random.uniform(0.12, 0.16), 0, 0]

    def evaluate(self, obs: np.ndarray) -> tuple[float, bool]:
        left, right, goal = obs[7:10], obs[14:17], obs[-3:]
        behind = np.maximum(goal[0] - np.array([left[0], right[0]]), 0)
        apart = abs(left[0] - right[0])
        reward = (
            0.2 * proximity(np.linalg.norm(obs[:3] - (left + right) / 2))
            + 0.6 * proximity(behind.max())
            + 0.2 * proximity(apart)
        )
        return reward, bool(behind.max() < 0.01 and np.linalg.norm(left - right) < 0.14)


class Place(Task):
    """A cube is carried past a glass in the way and put down behind it: over it or around it."""

    instruction = "put the cube down behind the glass, without touching the glass"
    objects = ("cube",)
    fragile = ("glass",)
    glass = np.array([0.5, 0.0])  # where it stands
    height = 0.12

    def build(self, spec: Any) -> None:
        super().build(spec)
        spec.worldbody.add_geom(
            name="glass",
            type=mujoco.mjtGeom.mjGEOM_CYLINDER,
            pos=[*self.glass, self.height / 2],
            size=[0.03, self.height / 2, 0],
            rgba=[0.4, 0.7, 0.9, 0.5],
        )

    def sample(self, random: np.random.Generator) -> tuple[list[Pose], np.ndarray]:
        cube = on_table(random, (0.46, -0.22), (0.54, -0.16))
        goal = on_table(random, (0.46, 0.16), (0.54, 0.22))
        return [(cube, random.uniform(-0.3, 0.3))], goal

    def evaluate(self, obs: np.ndarray) -> tuple[float, bool]:
        cube, goal = obs[7:10], obs[-3:]
        distance = float(np.linalg.norm(cube - goal))
        return 0.2 * proximity(np.linalg.norm(obs[:3] - cube)) + 0.8 * proximity(distance), bool(distance < 0.03)

    def clearance(self, obs: np.ndarray) -> float:
        beside = np.linalg.norm(obs[:2] - self.glass) - 0.03
        return float(max(beside, obs[2] - self.height))


class Clutter(Place):
    """A cube is put down between two glasses, without touching them.

    RAPL's other task, with our sizes. The space between the glasses is 9 cm, the cube's side 4 cm.
    """

    instruction = "put the cube down between the glasses, without touching them"
    fragile = ("left_glass", "right_glass")
    middle = np.array([0.5, 0.15])
    glasses = middle + [[0.075, 0], [-0.075, 0]]

    def build(self, spec: Any) -> None:
        Task.build(self, spec)
        for name, place in zip(self.fragile, self.glasses, strict=True):
            spec.worldbody.add_geom(
                name=name,
                type=mujoco.mjtGeom.mjGEOM_CYLINDER,
                pos=[*place, self.height / 2],
                size=[0.03, self.height / 2, 0],
                rgba=[0.4, 0.7, 0.9, 0.5],
            )

    def sample(self, random: np.random.Generator) -> tuple[list[Pose], np.ndarray]:
        cube = on_table(random, (0.42, -0.2), (0.56, -0.08))
        return [(cube, random.uniform(-0.3, 0.3))], np.append(self.middle + random.uniform(-0.008, 0.008, 2), CUBE)

    def clearance(self, obs: np.ndarray) -> float:
        beside = np.linalg.norm(obs[:2] - self.glasses, axis=1).min() - 0.03
        return float(max(beside, obs[2] - self.height))


TASKS: dict[str, type[Task]] = {
    "reach": Reach,
    "lift": Lift,
    "push": Push,
    "group": Group,
    "place": Place,
    "clutter": Clutter,
    "rope": Rope,
    "cloth": Cloth,
}

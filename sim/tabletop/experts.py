"""Scripted experts that act on observations alone, in a style: how fast, how high, over or around.

`act(obs)` → action [4] in [-1, 1], as Meta-World's do, so that their observations and actions can be perturbed.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from pbrl.types import UserError
from robots.observations import ROBOT, layout
from sim.tabletop.deformable_experts import fold_over, straighten
from sim.tabletop.tasks import CUBE, TASKS, Place

STYLE = {
    "speed": 1.0,  # share of full commands
    "height": 0.1,  # m above things
    "around": 0.0,  # 1: around what is in the way
    "together": 1.0,  # 1: both cubes at once
    "lift": 0.02,  # m above the goal, of a cube that is lifted
    "circle": 0.0,  # m, radius of the circle on which it is then carried round the goal
}
OPEN, CLOSED = -1.0, 1.0
GAIN = 20.0  # commands per metre of error: the last five centimetres are taken ever more slowly
HELD = 0.05  # m, of the gripper's width: a cube is 4 cm wide
AHEAD_RAD = 0.5  # on a circle, of the hand


class Expert:
    """Acts on observations of a task. Raises UserError for a style that there is not."""

    def __init__(self, task: str, style: dict[str, float]):
        unknown = set(style) - set(STYLE)
        if unknown:
            raise UserError(
                f"a style (env.style, data.behaviour.styles) has no {', '.join(sorted(unknown))}; "
                f"it takes {', '.join(STYLE)}"
            )
        self.style = {**STYLE, **style}
        if not 0 < self.style["speed"] <= 1 or not 0.05 <= self.style["height"] <= 0.3:
            raise UserError("env.style.speed lies in (0, 1], and env.style.height in [0.05, 0.3] m")
        if not 0 <= self.style["lift"] <= 0.2 or not 0 <= self.style["circle"] <= 0.1:
            raise UserError("env.style.lift lies in [0, 0.2] m, and env.style.circle in [0, 0.1] m")
        choices: dict[str, Callable[[np.ndarray], tuple[np.ndarray, float]]] = {
            "reach": self._reach,
            "lift": self._lift,
            "push": self._push,
            "group": self._group,
            "place": self._place,
            "clutter": self._clutter,
            "rope": partial(straighten, height=self.style["height"]),
            "cloth": partial(fold_over, height=self.style["height"]),
        }
        self.choose = choices[task]
        parts = layout(TASKS[task].objects, TASKS[task].has_goal, TASKS[task].points)
        self.objects = tuple(slice(p.start, p.start + 3) for name, p in parts.items() if name not in ROBOT)  # positions

    def act(self, obs: np.ndarray) -> np.ndarray:
        """obs [O] → action [4] in [-1, 1]."""
        target, gripper = self.choose(obs)
        step = GAIN * (target - obs[:3])
        step /= max(1.0, float(np.abs(step).max()))
        return np.append(self.style["speed"] * step, gripper)

    def _reach(self, obs: np.ndarray) -> tuple[np.ndarray, float]:
        return obs[-3:], CLOSED

    def _lift(self, obs: np.ndarray) -> tuple[np.ndarray, float]:
        goal, circle = obs[-3:], self.style["circle"]
        to = goal + [0, 0, self.style["lift"]]
        if circle and obs[9] > CUBE + 0.08:
            out = obs[:2] - goal[:2]
            angle = np.arctan2(out[1], out[0]) + AHEAD_RAD
            to[:2] += [circle * np.cos(angle), circle * np.sin(angle)]
        return self._carry(obs, to)

    def _carry(self, obs: np.ndarray, to: np.ndarray) -> tuple[np.ndarray, float]:
        """Takes the cube, and moves it towards `to` once it is held."""
        hand, width, cube = obs[:3], obs[6], obs[7:10]
        beside = float(np.linalg.norm(hand[:2] - cube[:2]))
        if beside > 0.05 or (beside > 0.012 and hand[2] > cube[2] + 0.02):
            return cube + [0, 0, self.style["height"] if beside > 0.05 else max(0.05, hand[2] - cube[2] - 0.02)], OPEN
        if hand[2] > cube[2] + 0.008:
            return cube, OPEN if hand[2] > cube[2] + 0.02 or width > HELD else CLOSED
        if width > HELD - 0.005:
            return cube, CLOSED
        return to, CLOSED

    def _push(self, obs: np.ndarray) -> tuple[np.ndarray, float]:
        return self._slide(obs[:3], obs[7:10], obs[-3:])

    def _group(self, obs: np.ndarray) -> tuple[np.ndarray, float]:
        """With a finger for each, or one after the other."""
        hand, left, right, line = obs[:3], obs[7:10], obs[14:17], obs[-3:]
        if self.style["together"] < 0.5:
            late = left if left[0] < line[0] + 0.005 else right
            return self._slide(hand, late, np.array([line[0] + 0.02, late[1], CUBE]))
        middle = (left + right) / 2
        if min(left[0], right[0]) > line[0] + 0.005:
            return self._up(hand), OPEN
        behind = min(left[0], right[0]) - CUBE - 0.03
        if hand[2] > CUBE + 0.02 and abs(hand[0] - behind) + abs(hand[1] - middle[1]) > 0.02:
            return np.array([behind, middle[1], CUBE + self.style["height"]]), OPEN
        if hand[2] > CUBE + 0.01 or hand[0] > behind + 0.04:
            return np.array([behind, middle[1], CUBE]), OPEN
        return np.array([hand[0] + 0.03, middle[1], CUBE]), OPEN

    def _up(self, hand: np.ndarray) -> np.ndarray:
        return np.append(hand[:2], min(hand[2] + 0.05, 0.1 + self.style["height"]))

    def _slide(self, hand: np.ndarray, cube: np.ndarray, goal: np.ndarray) -> tuple[np.ndarray, float]:
        """From behind, with the gripper closed."""
        ahead = (goal - cube)[:2]
        distance = float(np.linalg.norm(ahead))
        if distance < 0.012:
            return self._up(hand), CLOSED
        way = np.append(ahead / distance, 0)
        behind = cube - (CUBE + 0.045) * way
        off = (hand - cube)[:2]
        along, across = float(off @ way[:2]), float(abs(off @ [-way[1], way[0]]))
        if along > -(CUBE + 0.005) or across > 0.015:  # not behind it: over it, and down there
            above = self.style["height"] + CUBE
            if float(np.linalg.norm((hand - behind)[:2])) > 0.015:
                return np.append(behind[:2], above), CLOSED
            return np.append(behind[:2], CUBE), CLOSED
        if hand[2] > CUBE + 0.01:
            return np.append(hand[:2] if along < -(CUBE + 0.03) else behind[:2], CUBE), CLOSED
        return np.append((cube + min(distance, 0.05) * way - 0.5 * CUBE * way)[:2], CUBE), CLOSED

    def _clutter(self, obs: np.ndarray) -> tuple[np.ndarray, float]:
        return self._over_or_around(obs, around=False)

    def _place(self, obs: np.ndarray) -> tuple[np.ndarray, float]:
        return self._over_or_around(obs, around=self.style["around"] >= 0.5)

    def _over_or_around(self, obs: np.ndarray, *, around: bool) -> tuple[np.ndarray, float]:
        hand, width, cube, goal = obs[:3], obs[6], obs[7:10], obs[-3:]
        left = float(np.linalg.norm((cube - goal)[:2]))
        if left < 0.02 and cube[2] < CUBE + 0.012:  # it is there: let go, and up
            return (self._up(hand) if width > HELD else hand), OPEN
        safe = Place.height + 0.05 + self.style["height"]
        if left < 0.02:
            return self._carry(obs, goal)
        past = bool(cube[1] > Place.glass[1] + 0.08)
        if around:
            low, aside = 0.08, Place.glass[0] - 0.17
            if past:
                to = np.append(goal[:2], low)
            elif cube[0] > aside + 0.02 and cube[1] < Place.glass[1] - 0.08:
                to = np.array([aside, cube[1], low])
            else:
                to = np.array([aside, goal[1], low])
            return self._carry(obs, to)
        high = cube[2] > safe - 0.03
        return self._carry(obs, np.append(goal[:2], safe) if high or past else np.array([cube[0], cube[1], safe]))

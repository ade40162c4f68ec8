"""Scripted experts that act on observations: they get behind some of the debris, and push it to the top.

`act(obs)` → action [A] in [-1, 1], so that observations and actions can be perturbed.
"""

import math

import numpy as np

from pbrl.types import UserError
from sim.magical.tasks import ZONE
from sim.magical.world import ARENA, COUNT, DEBRIS, RADIUS, STICK_HEIGHT, STICKS

STYLE = {"speed": 1.0, "together": 1.0, "wide": 0.15}
PUSHED = 0.92  # y of debris that need not be pushed on
AHEAD = 1.2  # y that it pushes towards
LONG_WIDE = 0.09  # most of a long stick: it cannot tilt further between the walls
TURN = 0.75  # rad a step that an action of 1 turns
ROBOT, PIECES, HEADING = slice(0, 2), slice(2, 8), slice(8, 10)  # places in an observation


class Expert:
    """Acts in one episode, in a `style`; see configs/env/magical/base.yaml. Raises UserError for one that is none.

    It pushes one batch of pieces after the other, from the right: gets behind them, turns, and drives on.
    """

    objects = tuple(slice(2 + 2 * i, 4 + 2 * i) for i in range(COUNT))

    def __init__(self, task: str, embodiment: str, style: dict[str, float]):
        check_style(style)
        self.style = {**STYLE, **style}
        self.avoids = task == "avoiding"
        self.grips, self.is_long = embodiment == "gripper", embodiment == "long-stick"
        self.half = RADIUS if self.grips else STICKS[embodiment] * RADIUS / 2  # of its width
        self.front = RADIUS if self.grips else STICK_HEIGHT / 2
        self.margin = 0.02 + (RADIUS if self.grips else 0.08)  # that it keeps from walls
        self.turning = 0.4 if self.grips else 0.15 if self.is_long else self.half  # room that it takes to turn
        self.width = 0.54 if self.grips else 2 * self.half - 0.07  # of a batch, from middle to middle
        self.gap = self.width if self.is_long else 0.3  # in a batch, at most
        self.edge = ZONE[2] + min(self.style["wide"], LONG_WIDE if self.is_long else 1.0)  # x where pieces pass
        self.batch: list[int] = []
        self.target: np.ndarray | None = None  # of the batch's first piece
        self.is_pushing = False

    def act(self, obs: np.ndarray) -> np.ndarray:
        """obs [O] → action [2], or [3] of a gripper."""
        place, pieces = obs[ROBOT].astype(float), obs[PIECES].reshape(COUNT, 2).astype(float)
        heading = math.atan2(obs[HEADING][1], obs[HEADING][0])
        left = [int(i) for i in np.argsort(-pieces[:, 0]) if pieces[i, 1] < PUSHED]
        if not set(self.batch) & set(left):
            self.batch, self.target, self.is_pushing = self._choose(pieces, left), None, False
        if not self.batch:
            return self._action(0.0, 0.0)
        others = [i for i in left if i not in self.batch]
        way = self._way(pieces[self.batch])
        across = np.array([-way[1], way[0]])
        off = self._middle(pieces, way, across, others) - float(place @ across)
        room = float(((pieces[self.batch] - place) @ way).min()) - DEBRIS / 2  # ahead, to the pieces
        slack = max(0.05, self.half - float(np.ptp(pieces[self.batch] @ across)) / 2 - 0.06)
        aside = math.copysign(max(abs(off) - slack + 0.05, 0.0), off)
        turn = wrap(math.atan2(way[1], way[0]) - heading)
        if self._is_behind(slack, room, off, turn):
            return self._push(room, aside, turn)
        back = room - self.turning - 0.08
        stage = np.clip(place + back * way + aside * across, self.margin - ARENA, ARENA - self.margin)
        if np.linalg.norm(stage - place) < 0.04 or (not aside and back > -0.05):
            return self._action(0.0, turn)
        if back < -0.05 and not self._is_clear(place, stage, pieces[left]):
            stage[0] = place[0]
        return self._drive(stage - place, heading)

    def _choose(self, pieces: np.ndarray, left: list[int]) -> list[int]:
        """The next batch, of the pieces that are left: as many as it is wide enough for, or one."""
        batch = left[:1]
        for i in left[1:] if self.style["together"] >= 0.5 or self.is_long else ():
            if pieces[left[0], 0] - pieces[i, 0] > self.width or pieces[batch[-1], 0] - pieces[i, 0] > self.gap:
                break
            batch.append(i)
        return batch

    def _way(self, pieces: np.ndarray) -> np.ndarray:
        """The direction [2] in which to push a batch: up, or slanted, so that its first piece passes the zone."""
        first = pieces[np.argmin(pieces[:, 0])]
        if self.target is None:
            aside = max(self.edge - first[0], 0.0) if self.avoids else 0.0
            share = (AHEAD - first[1]) / max(ZONE[1] - first[1], 0.1)
            self.target = np.array([first[0] + aside * share, AHEAD])
        has_passed = not self.avoids or first[0] > self.edge or first[1] > ZONE[1]
        if has_passed and (len(pieces) > 1 or self.grips):
            return np.array([0.0, 1.0])
        away = self.target - first
        return away / np.linalg.norm(away)

    def _middle(self, pieces: np.ndarray, way: np.ndarray, across: np.ndarray, others: list[int]) -> float:
        """Where to push, across the way: in the middle of the batch, but beside others, as far as walls let it."""
        batch = pieces[self.batch] @ across
        middle = float(batch.max() + batch.min()) / 2
        if way[0] > 0.2:
            return middle
        if others and not self.grips:  # to the right of them, and `across` points to the left
            middle = min(middle, float((pieces[others] @ across).min()) - DEBRIS / 2 - 0.06 - self.half)
        room = ARENA - self.half - 0.05
        return float(np.clip(middle, -room, room))

    def _is_behind(self, slack: float, room: float, off: float, turn: float) -> bool:
        """Whether it can push: with the batch ahead of its front, and its heading along the way."""
        if self.is_pushing:
            self.is_pushing = abs(off) < slack + 0.07 and abs(turn) < 0.9 and room > self.front - 0.08
        else:
            self.is_pushing = abs(off) < slack and abs(turn) < 0.15 and room > self.front
        return self.is_pushing

    def _push(self, room: float, aside: float, turn: float) -> np.ndarray:
        holds = room < self.front + 0.03 and len(self.batch) == 1
        drift = math.atan2(aside, 0.3) if abs(aside) > 0.015 else 0.0
        return self._action(self.style["speed"], turn + drift, opening=-0.2 if holds else 1.0)

    def _is_clear(self, place: np.ndarray, to: np.ndarray, pieces: np.ndarray) -> bool:
        """Whether it passes no piece on a straight way, however it is turned, nearer than it is to it already."""
        line = to - place
        share = np.clip((pieces - place) @ line / max(line @ line, 1e-9), 0, 1)
        passed = np.linalg.norm(place + share[:, None] * line - pieces, axis=1)
        return bool((passed >= np.minimum(self.half + 0.13, np.linalg.norm(pieces - place, axis=1) - 1e-6)).all())

    def _drive(self, away: np.ndarray, heading: float) -> np.ndarray:
        """Ahead or backwards, whatever needs less turning."""
        turn = wrap(math.atan2(away[1], away[0]) - heading)
        sign = 1.0 if abs(turn) <= math.pi / 2 else -1.0
        turn = wrap(turn + (math.pi if sign < 0 else 0.0))
        speed = sign * min(1.0, float(np.linalg.norm(away)) / 0.1) * max(0.0, math.cos(2 * turn))
        return self._action(self.style["speed"] * speed, turn)

    def _action(self, speed: float, turn: float, opening: float = 1.0) -> np.ndarray:
        action = np.clip([speed, turn / TURN, opening], -1, 1)
        return action if self.grips else action[:2]


def wrap(angle: float) -> float:
    """An angle in rad → between -pi and pi."""
    return (angle + math.pi) % (2 * math.pi) - math.pi


def check_style(style: dict[str, float]) -> None:
    """Raises UserError for a style that there is not."""
    unknown = set(style) - set(STYLE)
    if unknown:
        raise UserError(
            f"a style (env.style, data.behaviour.styles) has no {', '.join(sorted(unknown))}; "
            f"it takes {', '.join(STYLE)}"
        )
    own = {**STYLE, **style}
    if not 0 < own["speed"] <= 1 or not 0.05 <= own["wide"] <= 0.25:
        raise UserError("env.style.speed lies in (0, 1], and env.style.wide in [0.05, 0.25]")

"""Scripted experts for rope and cloth: a target of the tool and the gripper's command, from the observation alone."""

import numpy as np

from sim.tabletop.deformables import CLOSED_M, PICK_M, Cloth, Rope, straightness

OPEN, AJAR, CLOSED = -1.0, -0.3, 1.0  # ajar: soon open, and soon closed
Move = tuple[np.ndarray, float]  # target [3] m of the tool, and -1 to open or 1 to close
FROM, TO = np.array([0.36, -0.32]), np.array([0.66, 0.32])  # m: where on the table the arm pulls to
LOW = 0.017  # m, of the tool over the table where it picks and pulls
PULL = 1.15  # of the rope's length, from the other end: it is pulled taut, and then along until no bend is left
HELD = 0.012  # m, from the tool to a point that it holds; another vertex is at least 2 cm away
ARC_M = 0.085, 0.11  # how high an edge goes on its way: lower it drags, higher it lifts the half that stays
LATE = 0.008  # m, of the gripper's width: so far it closes before what it holds has come to the tool


def straighten(obs: np.ndarray, *, height: float) -> Move:
    """Takes an end and pulls it away from the other, to where the rope is straight on the table."""
    hand, width, points = obs[:3], float(obs[6]), obs[7 : 7 + 3 * len(Rope.points)].reshape(-1, 3)
    apart, bent = straightness(points)
    if apart > 0.965 * Rope.length and bent < 0.016:
        return release(hand, width, height)
    ends = [(points[0], points[-1]), (points[-1], points[0])]
    near = [float(np.linalg.norm(hand - end)) for end, _ in ends]
    room = [_room(*pair) for pair in ends]
    choice = int(np.argmin(near)) if min(near) < PICK_M else int(np.argmax(room))
    if room[choice] < 0 <= room[1 - choice]:  # no farther on this side of the table
        choice = 1 - choice
    end, other = ends[choice]
    if not holds(hand, width, end):
        return pick(hand, width, end, height)
    return np.append(_pull_to(end, other), LOW), CLOSED


def fold_over(obs: np.ndarray, *, height: float) -> Move:
    """Takes the first edge by its middle and lays it onto the opposite one; then a corner that did not come along."""
    hand, width, points = obs[:3], float(obs[6]), obs[7:34].reshape(3, 3, 3)
    gaps = np.linalg.norm((points[0] - points[2])[:, :2], axis=1)  # of corner, middle, corner
    if gaps.max() < 0.02 and points[..., 2].max() < 0.03:
        return release(hand, width, height)
    choice = 1 if gaps[1] > 0.02 else 2 * int(np.argmax(gaps[[0, 2]]))
    held = [i for i in range(3) if holds(hand, width, points[0, i])]
    choice = held[0] if held else choice  # what is held goes first
    point, to = points[0, choice], points[2, choice]
    if not held:
        return pick(hand, width, point, height)
    left = float(gaps[choice])
    if left < 0.02:
        return (np.append(to[:2], LOW), CLOSED) if hand[2] > LOW + 0.015 else release(hand, width, height)
    done = np.clip(1 - left / Cloth.side, 0, 1)
    arc = float(np.clip(height, *ARC_M))
    ahead = min(0.05, left + 0.01) * (to - point)[:2] / left
    return np.append(hand[:2] + ahead, LOW + arc * np.sin(np.pi * min(done + 0.1, 1.0))), CLOSED


def pick(hand: np.ndarray, width: float, point: np.ndarray, height: float) -> Move:
    """Over a point of rope or cloth, down with a gripper that is ajar, and closes it."""
    beside, low = float(np.linalg.norm((hand - point)[:2])), max(LOW, float(point[2]))
    if width < CLOSED_M - LATE:  # it holds something else, or nothing
        return release(hand, width, height)
    if beside > 0.05:
        return np.append(point[:2], low + height), AJAR
    closing = width < CLOSED_M + 0.01  # then it goes on, though the hand trembles
    if np.linalg.norm(hand - point) < (0.03 if closing else PICK_M - 0.002):
        return np.append(point[:2], low), CLOSED
    return np.append(point[:2], low + 2 * max(beside - 0.01, 0.0)), AJAR


def holds(hand: np.ndarray, width: float, point: np.ndarray) -> bool:
    """Whether the gripper holds this point of rope or cloth."""
    far = PICK_M if width > CLOSED_M - LATE else HELD
    return bool(width < CLOSED_M and np.linalg.norm(hand - point) < far)


def release(hand: np.ndarray, width: float, height: float) -> Move:
    """Opens where it is, and then goes up."""
    if width < CLOSED_M + 0.005:
        return hand, OPEN
    return np.append(hand[:2], min(hand[2] + 0.05, LOW + height)), AJAR


def _pull_to(end: np.ndarray, other: np.ndarray) -> np.ndarray:
    """A place [2] m farther from the other end than the rope is long, as straight ahead as the table allows."""
    ahead = np.arctan2(*(end - other)[1::-1])
    turns = np.radians(np.arange(0, 181, 5))
    for turn in np.stack([turns, -turns], axis=1).ravel():
        to = other[:2] + PULL * Rope.length * np.array([np.cos(ahead + turn), np.sin(ahead + turn)])
        if (to > FROM).all() and (to < TO).all():
            return to
    return (FROM + TO) / 2


def _room(end: np.ndarray, other: np.ndarray) -> float:
    """The cosine between the direction from the other end and the direction in which the rope can be pulled."""
    pull, ahead = _pull_to(end, other) - other[:2], (end - other)[:2]
    return float(pull @ ahead / max(np.linalg.norm(pull) * np.linalg.norm(ahead), 1e-9))

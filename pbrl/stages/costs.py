"""What an episode costs by a stage description, from where its keypoints are at each step."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from pbrl.stages.description import Cost, Stage, keypoints_of
from pbrl.types import UserError

NEVER_BEGUN = 1.0  # what a stage costs that an episode did not come to
Keypoints = Mapping[str, np.ndarray]  # [T+1, 3] m each, by name


class Part(NamedTuple):
    """An episode's part in a stage: the steps from `begin` to `end`, none where it never came to it, and its cost."""

    begin: int
    end: int
    cost: float
    is_done: bool


def score_stages(stages: Sequence[Stage], keypoints: Keypoints, hz: float) -> float:
    """exp(-cost) of an episode, in (0, 1]: the product of what its stages score, as in GRAPE (arXiv:2411.19309).

    Keypoints are those of the present, at `hz` steps a second; a stage that is never begun costs 1. Raises UserError
    where the description speaks of a keypoint that the environment does not have.
    """
    return math.exp(-sum(part.cost for part in parts_of(stages, keypoints, hz)))


def check_keypoints(stages: Sequence[Stage], keypoints: Keypoints) -> None:
    """Raises UserError where the stages speak of keypoints that are not there."""
    unknown = keypoints_of(stages) - set(keypoints)
    if unknown:
        there = f"it has {', '.join(keypoints)}" if keypoints else "it has none"
        raise UserError(
            f"the stages speak of {', '.join(sorted(unknown))}, and the environment has no such keypoint: {there}"
        )


def parts_of(stages: Sequence[Stage], keypoints: Keypoints, hz: float) -> list[Part]:
    """An episode's part in each stage; they follow each other, each from the step at which the one before was done."""
    check_keypoints(stages, keypoints)
    last = len(next(iter(keypoints.values()))) - 1
    found, begin, is_done = list[Part](), 0, True
    for stage in stages:
        if not is_done:
            found.append(Part(last, last, NEVER_BEGUN, False))
            continue
        end, is_done = stage_end(stage, keypoints, begin, last)
        own = {name: path[begin : end + 1] for name, path in keypoints.items()}
        cost = sum(c.weight * max(0.0, measure_cost(c, own, hz) - c.tolerance) for c in stage.costs)
        found.append(Part(begin, end, cost, is_done))
        begin = end
    return found


def stage_end(stage: Stage, keypoints: Keypoints, begin: int, last: int) -> tuple[int, bool]:
    """The step at which a stage that began at `begin` was done, else the last one; and whether it was."""
    if not stage.done:
        return last, False
    is_done = distance(keypoints, stage.done)[begin:] <= stage.within
    return (begin + int(is_done.argmax()), True) if is_done.any() else (last, False)


def measure_cost(cost: Cost, keypoints: Keypoints, hz: float) -> float:
    """What a cost is in a stage of at least one row, before its weight and tolerance; see description.py."""
    if cost.kind == "distance":
        apart = distance(keypoints, cost.keypoints)
        return float(apart.min() / max(apart[0], 1e-6))
    if cost.kind == "collision":
        return float((distance(keypoints, cost.keypoints, cost.flat) < cost.limit).mean())
    if cost.kind == "contact":
        return float((distance(keypoints, cost.keypoints) > cost.limit).mean())
    place = keypoints[cost.keypoints[0]]
    if cost.kind == "height":
        return float((place[:, 2] > cost.limit if cost.is_above else place[:, 2] < cost.limit).mean())
    moved = np.linalg.norm(np.diff(place, axis=0), axis=1)
    if cost.kind == "speed":
        return float((moved * hz > cost.limit).mean()) if len(moved) else 0.0
    straight = float(np.linalg.norm(place[-1] - place[0]))
    return float(moved.sum()) / max(straight, 0.01) - 1.0 if moved.sum() > 0.01 else 0.0  # less than 1 cm is none


def distance(keypoints: Keypoints, pair: Sequence[str], flat: bool = False) -> np.ndarray:
    """How far apart two keypoints are at each step, m: [T+1]. `flat`: seen from above."""
    one, other = (keypoints[name][:, : 2 if flat else 3] for name in pair)
    return np.linalg.norm(one - other, axis=1)

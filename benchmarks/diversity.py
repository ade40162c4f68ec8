"""QDHF beside other diversity measures: QD score and coverage in the grid of the true measures.

    python -m benchmarks.diversity --tasks arm
    python -m benchmarks.diversity --tasks cheetah --seeds 0

Two tasks. The planar arm of QDHF (Ding et al. 2023, arXiv:2310.12103, sec. 4) with ten links: features are cosine and
sine of each link's direction, the true measures are the end point, and better is less variance of the joint angles.
`dm_control/cheetah-run` moved by sine waves: features are the mean and standard deviation of what is observed, the true
measures torso speed and height, each over its spread in random behaviours, and better is the return.

All methods spend the same evaluations in the same MAP-Elites from the same first population; what they evaluated is
then put into one grid over the true measures. Triplets are about the first population's behaviours.
"""

import argparse
import itertools
import json
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.report import RESULTS
from pbrl.configs import compose_config
from pbrl.data.rollout import RolloutWorkers, make_environment
from pbrl.diversity.projection import MEASURES, Learning, Projection, describe, fit
from pbrl.diversity.search import Rated, Search, bounds_of
from pbrl.diversity.settings import SearchSettings
from pbrl.diversity.solutions import Scene, play_all
from pbrl.objectives import Objective, bradley_terry
from pbrl.processor import processor_name

FILE = RESULTS / "diversity.jsonl"
LINKS = 10
ATTRIBUTES = ("speed", "height")
SIZES = {  # of a task: first population, iterations, batch, cells of a side
    "arm": {"population": 1000, "iterations": 200, "batch_size": 50, "cells": 50},
    "cheetah": {"population": 60, "iterations": 12, "batch_size": 20, "cells": 10},
}
METHODS = ("true", "qdhf 50", "qdhf 200", "qdhf 1000", "pca", "random", "qdhf 1000, answers by chance")


class Played(NamedTuple):
    """What N solutions came to: quality [N], features [N, F] and true measures [N, 2]."""

    quality: np.ndarray
    features: np.ndarray
    true: np.ndarray


Play = Callable[[np.ndarray], Played]  # solutions [N, P] in [0, 1]


class World(NamedTuple):
    """A task: how a solution of so many numbers is played, the grid over the true measures [2, 2], the quality that
    counts as nothing, and the spread [2] of the true measures of random solutions."""

    name: str
    play: Play
    size: int
    grid: np.ndarray
    floor: float
    spread: np.ndarray


def play_arm(solutions: np.ndarray) -> Played:
    """Joint angles from -pi to pi, links of a metre; the quality is 1 less the variance of the angles in rad²."""
    angles = np.pi * (2 * solutions - 1)
    direction = np.cumsum(angles, 1)
    cosine, sine = np.cos(direction), np.sin(direction)
    features = np.concatenate([cosine, sine], 1).astype(np.float32)
    return Played(1 - angles.var(1), features, np.stack([cosine.sum(1), sine.sum(1)], 1))


class Cheetah:
    """Sine waves in dm_control/cheetah-run for so many steps."""

    def __init__(self, steps: int):
        self.env = compose_config("env=dm_control/cheetah-run")["env"]
        self.workers, self.scene = RolloutWorkers(self.env, 0), Scene(0, steps)
        self.simulator = make_environment(self.env)

    def __call__(self, solutions: np.ndarray) -> Played:
        waves = {"low_hz": 0.5, "high_hz": 3.0, "size": 1.0}
        episodes = play_all(self.workers, waves, solutions, self.scene, states=True)
        features = np.stack([describe(torch.from_numpy(e.obs[:-1]), 0).numpy() for e in episodes])
        measured = [self.simulator.measure(e.seed, e.state) for e in episodes]  # type: ignore[arg-type]
        true = np.array([[own[name].mean() for name in ATTRIBUTES] for own in measured])
        return Played(np.array([e.reward.sum(dtype=np.float64) for e in episodes]), features, true)


def learn_measures(method: str, first: Played, spread: np.ndarray, seed: int) -> tuple[Projection, float]:
    """The projection of a method that is not told the true measures, and its accuracy on triplets drawn anew."""
    features, place = torch.from_numpy(first.features), first.true / spread
    generator, random = torch.Generator().manual_seed(seed), np.random.default_rng([seed, 1])
    projection = Projection(features, generator=generator)
    if method == "pca":
        _, _, axes = torch.linalg.svd((features - projection.mean) / projection.std, full_matrices=False)
        projection.weight.data.copy_(axes[:MEASURES].T)
    elif method.startswith("qdhf"):
        asked, label = ask(place, int(method.split()[1].strip(",")), random)
        if method.endswith("chance"):
            label = torch.from_numpy(random.integers(0, 2, len(label))).float()
        learning = Learning(**compose_config(name="diversity")["projection"])
        fit(projection, features[asked], label, torch.ones(len(label)), Objective(bradley_terry), learning, generator)
    projection.turn(features)
    asked, label = ask(place, 2000, random)
    with torch.no_grad():
        scores = projection.scores(features[asked])
    return projection, float(((scores[:, 1] > scores[:, 0]) == (label > 0.5)).float().mean())


def ask(place: np.ndarray, n: int, random: np.random.Generator) -> tuple[np.ndarray, torch.Tensor]:
    """n triplets [n, 3] of places [N, 2], and 1 where the third is closer to the first than the second is, else 0."""
    asked = np.stack([random.choice(len(place), 3, replace=False) for _ in range(n)])
    second, third = (np.linalg.norm(place[asked[:, i]] - place[asked[:, 0]], axis=1) for i in (1, 2))
    return asked, torch.from_numpy(third < second).float()


def measure(world: World, solutions: np.ndarray, first: Played, method: str, seed: int) -> dict[str, Any]:
    """A line: a search of a method from a first population, judged in the grid over the true measures."""
    name, play, _, grid, floor, spread = world
    settings = SearchSettings(**{**compose_config(name="diversity")["search"], **SIZES[name], "emitters": 1})
    found: dict[str, Any] = {}
    measures_of: Callable[[Played], np.ndarray] = lambda played: played.true  # noqa: E731
    if method != "true":
        projection, found["accuracy"] = learn_measures(method, first, spread, seed)
        found["explained"] = explained(project(projection, first.features), first.true / spread)
        measures_of = lambda played: project(projection, played.features)  # noqa: E731
    bounds = grid if method == "true" else bounds_of(measures_of(first), settings.margin)
    search = Search(settings, rate(solutions, first, measures_of), bounds, seed)
    every = Search(settings, rate(solutions, first, lambda played: played.true), grid, seed).archive
    for _ in range(settings.iterations):
        asked = search.ask()
        played = play(asked)
        search.tell(played.quality, played.features, measures_of(played))
        every.add(asked, played.quality, played.true, features=played.features)
    filled = every.data("objective") - floor
    return {
        "task": name, "method": method, "seed": seed, "evaluations": len(solutions) + settings.iterations * len(asked),
        "qd_score": round(float(filled.clip(min=0).sum()), 2), "coverage": round(float(every.stats.coverage), 4),
        "best": round(float(every.data("objective").max()), 3), "cells": settings.cells,
        **{key: round(value, 4) for key, value in found.items()},
    }  # fmt: skip


def rate(solutions: np.ndarray, played: Played, measures_of: Callable[[Played], np.ndarray]) -> Rated:
    return Rated(solutions, played.quality, played.features, measures_of(played))


@torch.no_grad()
def project(projection: Projection, features: np.ndarray) -> np.ndarray:
    return projection(torch.from_numpy(features)).double().numpy()


def explained(measures: np.ndarray, place: np.ndarray) -> float:
    """R² of the true measures by linear regression on others."""
    known = np.c_[measures, np.ones(len(place))]
    error = place - known @ np.linalg.lstsq(known, place, rcond=None)[0]
    return float(1 - error.var(0).sum() / place.var(0).sum())


def make_world(task: str, steps: int) -> World:
    """The grid is all that the arm can reach, else what 100 random behaviours show, half as wide again."""
    play: Play = play_arm if task == "arm" else Cheetah(steps)
    size = LINKS if task == "arm" else 14
    drawn = play(np.random.default_rng(99).random((100, size)))
    grid = np.array([[-LINKS, LINKS]] * 2, float) if task == "arm" else bounds_of(drawn.true, 0.25)
    return World(task, play, size, grid, float(1 - np.pi**2) if task == "arm" else 0.0, drawn.true.std(0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=60, help="of an episode of the cheetah")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for task, seed in itertools.product(args.tasks, args.seeds):
        done = [line["method"] for line in known() if line["task"] == task and line["seed"] == seed]
        left = [method for method in args.methods if method not in done]  # what was stopped goes on
        if left:
            world = make_world(task, args.steps)
            solutions = np.random.default_rng(seed).random((SIZES[task]["population"], world.size))
            first = world.play(solutions)
            for method in left:
                add(measure(world, solutions, first, method, seed))


def known() -> list[dict[str, Any]]:
    return [json.loads(line) for line in FILE.read_text().splitlines()] if FILE.exists() else []


def add(line: dict[str, Any]) -> None:
    about = {"processor": processor_name(), "torch": torch.__version__, "load": round(os.getloadavg()[0], 1)}
    print(json.dumps(line), flush=True)
    with FILE.open("a") as file:
        file.write(json.dumps({**line, **about}) + "\n")


if __name__ == "__main__":
    main()

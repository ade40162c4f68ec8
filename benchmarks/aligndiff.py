"""Whether a planner does what it is told: requested against measured physical strength of attributes.

    python -m benchmarks.aligndiff                              # all tasks, three seeds, all methods
    python -m benchmarks.aligndiff --tasks lift --seeds 0 --methods planner

A scripted teacher compares segments by what the environment measures, an attribute model learns from that and labels
the data, and `algo=aligndiff` learns to plan. What is asked for are the strengths, all attributes at once, of episodes
that were kept apart from all of it (benchmarks/requests.py): `seen` combinations, `held_out` ones, and `changing`, from
the midst of an episode that does something else. What is measured in the end is compared with what was measured of the
episode that was asked for. Beside the planner:

- the planner without guidance, with the same choice among candidates, and with guidance and no choice;
- cloning and a decision transformer that are told the strengths, without and with the same choice (benchmarks/told.py);
- the error of always the data's mean.

Each line of `benchmarks/results/aligndiff.jsonl` has, of each set, Spearman's correlation between requested strength
and measured mean, the mean absolute error in the attribute's unit, and the area of AlignDiff's released evaluation.
That is of strengths which the attribute model reads, so the model that chose also scores; `measured_area` is the same
of what is measured, where 0 and 1 are the least and the greatest episode that was learnt from. Prints a table in
Markdown; lines that are there are kept. The planners lie in `runs/benchmark/aligndiff`, for `python -m pbrl.steer`.
"""

import argparse
import json
import math
import os
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from tqdm import trange

import sim.configs
from benchmarks.report import RESULTS
from benchmarks.requests import SETS, TASKS, World
from benchmarks.styles import spread
from benchmarks.told import Clone, Told, Transformer
from pbrl import api, steer
from pbrl.files import to_json
from pbrl.models.planner import Planner
from pbrl.models.policy import save_policy
from pbrl.training.held_out import rank_correlation
from pbrl.types import Observation

FILE, RUNS = RESULTS / "aligndiff.jsonl", Path("runs/benchmark/aligndiff")
COUNTED = 40  # steps, the last of a test; before, it changes to what is asked for
METHODS = {
    "planner": {"candidates": 64},
    "without guidance": {"candidates": 64, "guidance": 0.0},
    "without choice": {"candidates": 1},
    "told cloning": {"candidates": 1},
    "told cloning, chosen": {"candidates": 64},
    "told transformer": {"candidates": 1},
    "told transformer, chosen": {"candidates": 64},
}
# the released evaluation's, from 1 down to 0; both parts end in a threshold of the same value, or begin with it
THRESHOLDS = np.concatenate([np.exp(np.linspace(0, -4.6, 90)), np.linspace(np.exp(-4.6), 0, 10)])


def area(errors: np.ndarray) -> float:
    """The mean over `THRESHOLDS` of the share of tests whose error [N] lies below: 0.99 where all are right."""
    return float((errors[:, None] < THRESHOLDS).mean())


def play_targets(world: World, policy: Any, name: str, kind: str) -> dict[str, Any]:
    """Plays the targets of a set, and compares what is measured with what was asked for."""
    asked, task, columns = world.asked[kind], world.task, range(len(world.names))
    measured, read, succeeded = [], [], []
    for i in trange(min(SETS[kind], len(asked.strength)), desc=f"{name}, {kind}", leave=False):
        targets = dict(zip(world.names, asked.strength[i].tolist(), strict=True))
        other = world.begins[i - 1]
        assert other.state is not None
        begin = other.state[task.settled if kind == "changing" else task.begin]
        episode = steer.play(world.env, policy, targets, seed=other.seed, steps=task.played, state=begin)
        assert episode.state is not None
        each = world.env.measure(episode.seed, episode.state)
        read.append([*steer.read_strengths(world.model, world.names, episode.obs[-COUNTED - 1 :]).values()])
        measured.append([np.nanmean(each[attribute][-COUNTED:]) for attribute in world.names])
        succeeded.append(episode.success is not None and bool(episode.success[-1]))
    found, seen = torch.tensor(np.array(measured)), torch.tensor(read).double()
    strength, wanted = asked.strength[: len(found)], asked.measured[: len(found)]
    extent = world.learnt.amax(0) - world.learnt.amin(0)
    error, guess = (found - wanted).abs(), (world.learnt.mean(0) - wanted).abs()

    def named(values: Any) -> dict[str, float]:
        return dict(zip(world.names, map(float, values), strict=True))

    return {
        "tests": len(found),
        "rank_correlation": named(rank_correlation(strength[:, i], found[:, i]) for i in columns),
        "read_correlation": named(rank_correlation(strength[:, i], seen[:, i]) for i in columns),
        "error": named(error.mean(0)), "error_of_mean": named(guess.mean(0)),
        "area": area((seen - strength).abs().mean(1).numpy()),
        "measured_area": area((error / extent).mean(1).numpy()),
        "area_of_mean": area((guess / extent).mean(1).numpy()),
        "success": float(np.mean(succeeded)),
    }  # fmt: skip


def plans_per_cpu_second(planner: Planner, count: int = 10) -> float:
    """Decisions for one robot, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    planner.reset()
    obs = Observation(planner.normalize.mean[None])
    planner.plan(obs)
    began = time.process_time()
    for _ in range(count):
        planner.plan(obs)
    torch.set_num_threads(threads)
    return count / (time.process_time() - began)


def run(world: World, planner: Planner, told: dict[str, Told], method: str) -> dict[str, Any]:
    """What is found of a method: of each set, and how fast it is."""
    policy: Any = next((own for name, own in told.items() if method.startswith(name)), planner)
    kept = {name: getattr(policy, name) for name in METHODS[method]}
    for name, value in METHODS[method].items():
        setattr(policy, name, value)
    began = time.process_time()
    line: dict[str, Any] = {kind: play_targets(world, policy, method, kind) for kind in SETS}
    line["cpu_seconds"] = time.process_time() - began
    if policy is planner:
        line["plans_per_cpu_second"] = plans_per_cpu_second(planner)
    for name, value in kept.items():
        setattr(policy, name, value)
    return {**METHODS[method], **line}


def train(world: World, seed: int, steps: int) -> tuple[Planner, dict[str, Told]]:
    """The planner, and what it is compared with, after as many updates."""
    planner: Any = api.train_policy(world.table, "aligndiff", reward=world.model, steps=steps, seed=seed)
    told = {}
    for name, network in (("told cloning", Clone), ("told transformer", Transformer)):
        torch.manual_seed(seed)
        told[name] = Told(planner, network(planner), candidates=1)
        told[name].train_on(world.data(seed), steps, name)
    return planner, told


def keep(world: World, planner: Planner, folder: Path) -> None:
    """Writes what `python -m pbrl.steer` needs of a run."""
    folder.mkdir(parents=True, exist_ok=True)
    save_policy(planner, folder / "policy.pt")
    (folder / "config.yaml").write_text(yaml.safe_dump({"env": world.settings.env}))


def show(lines: list[dict[str, Any]]) -> None:
    """Prints a table for each task and set: mean ± standard deviation over seeds."""
    for (name, task), kind in product(TASKS.items(), SETS):
        own = [line for line in lines if line["task"] == name]
        if not own:
            continue
        head = [f"{attribute}: correlation | … error, {unit}" for attribute, unit in task.units.items()]
        print(f"\n{name}, {kind}\n\n| method | {' | '.join(head)} | area, measured | area, read | success |")
        print("|" + "---|" * (4 + 2 * len(task.units)))
        for method in METHODS:
            each = [line for line in own if line["method"] == method]
            if each:
                found = [
                    over_seeds(each, kind, measure, attribute, digits=digits)
                    for attribute in task.units
                    for measure, digits in (("rank_correlation", 2), ("error", 3))
                ]
                found += [over_seeds(each, kind, column, digits=2) for column in ("measured_area", "area", "success")]
                print(f"| {method} | {' | '.join(found)} |")
        mean = [line for line in own if line["method"] == "planner"]
        guesses = [f"– | {over_seeds(mean, kind, 'error_of_mean', attribute, digits=3)}" for attribute in task.units]
        area_of_mean = over_seeds(mean, kind, "area_of_mean", digits=2)
        print(f"| the data's mean | {' | '.join(guesses)} | {area_of_mean} | – | – |")


def over_seeds(lines: list[dict[str, Any]], *keys: str, digits: int) -> str:
    """Mean ± standard deviation of what lies under these keys."""
    values = []
    for line in lines:
        found: Any = line
        for key in keys:
            found = found[key]
        values.append(math.nan if found is None else found)
    return spread(values, digits)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=3000, help="updates")
    args = parser.parse_args()
    sim.configs.register()
    lines = [json.loads(line) for line in FILE.read_text().splitlines()] if FILE.exists() else []
    known = {(line["task"], line["method"], line["seed"]) for line in lines}
    for seed, task in product(args.seeds, args.tasks):
        missing = [method for method in args.methods if (task, method, seed) not in known]
        if not missing:
            continue
        world, began = World(task, seed), time.process_time()
        planner, told = train(world, seed, args.steps)
        keep(world, planner, RUNS / f"{task}-{seed}")
        about = {"train_cpu_seconds": time.process_time() - began, "load": os.getloadavg()[0], "flags": world.flags}
        for method in missing:
            own = {"task": task, "method": method, "seed": seed, "updates": args.steps}
            lines.append({**own, **run(world, planner, told, method), **about})
            with open(FILE, "a") as out:
                out.write(to_json(lines[-1]) + "\n")
            print(task, method, seed, lines[-1]["seen"], lines[-1]["held_out"], flush=True)
    show(lines)


if __name__ == "__main__":
    main()

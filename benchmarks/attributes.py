"""How well attributes are learnt from comparisons, beside what is measured of them: accuracy and rank correlation.

    python -m benchmarks.attributes                             # both tasks, three seeds, and wrong answers as control
    python -m benchmarks.attributes --tasks walker --seeds 0

A scripted teacher compares pairs of segments by what their environment measures: always right, or wrong half of the
time, as a control. The attribute model of `reward=attributes` learns from the answers. A fifth of the episodes is kept
apart: no question is about them. On their windows each line of `benchmarks/results/attributes.jsonl` has, for each
attribute, how often the model ranks a pair as what is measured does, and Spearman's correlation between the learnt
strength and the measured mean. Prints a table in Markdown; lines that are there are kept.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import trange

import sim.configs
from benchmarks.report import RESULTS
from benchmarks.styles import spread
from pbrl.configs import compose_config
from pbrl.data import collect
from pbrl.data.measured import mean_over, measure_table
from pbrl.data.rollout import RolloutWorkers
from pbrl.data.table import Table
from pbrl.feedback.asking import Asking
from pbrl.feedback.sources.context import Context
from pbrl.feedback.store.store import Store
from pbrl.files import to_json
from pbrl.run.build import build, build_reward
from pbrl.settings import RunSettings
from pbrl.training.batches import Data
from pbrl.training.held_out import accuracy, rank_correlation
from pbrl.types import RewardModel

FILE = RESULTS / "attributes.jsonl"
TEST_SHARE = 0.2  # of the episodes, which no question is about
PAIRS, EVERY = 2000, 4  # pairs to test on; steps between windows


class Task(NamedTuple):
    """Where, by what data, and which attributes."""

    flags: tuple[str, ...]
    attributes: tuple[str, ...]


TASKS = {
    "walker": Task(
        ("env=dm_control/walker-walk", "data=waves", "data.episodes=60", "query.length=32"),
        ("speed", "height", "stride", "contact", "gentleness"),
    ),
    "franka lift": Task(
        ("env=franka/lift", "data=styles", "data.episodes=60", "query.length=32",
         "data.behaviour.styles=[{speed:0.3,height:0.05},{speed:0.3,height:0.2},{speed:0.6},{speed:1.0,height:0.05},{speed:1.0,height:0.2}]"),
        ("speed", "height", "gentleness"),
    ),
}  # fmt: skip
TEACHERS = {"always right": ("feedback=perfect",), "wrong half the time": ("feedback=mistake", "feedback.mistake=0.5")}
FLAGS = ("query.kind=attributes", "query.count=1000", "query.held_out=0", "reward=attributes", "algo=bc")


def run(task: str, teacher: str, seed: int) -> dict[str, Any]:
    """A line of the results."""
    names = TASKS[task].attributes
    own = [f"query.attributes=[{','.join(names)}]", f"seed={seed}", f"query.seed={seed}"]
    flags = [*TASKS[task].flags, *FLAGS, *TEACHERS[teacher], *own]
    settings = RunSettings.parse(compose_config(*flags))
    source = {"folder": settings.data_dir, "seed": settings.data_seed, "workers": 0}
    episodes, dataset = collect.load_dataset(settings.env, settings.data, **source)
    cut = round(len(episodes) * (1 - TEST_SHARE))
    train, test = Table(episodes[:cut]), Table(episodes[cut:])
    workers = RolloutWorkers(settings.env, 0)
    with tempfile.TemporaryDirectory() as folder:
        store, teaching = Store(f"sqlite:///{folder}/answers.sqlite"), build(settings.feedback)
        shown = {"data_dir": settings.data_dir, "dataset": dataset, "workers": workers}
        teaching.start(Context(store, train, settings.query, **shown))
        asking = Asking(table=train, query=settings.query, source=teaching, store=store)
        asking.ask(0, None)
    began = time.process_time()
    model = learn(settings, train, Data(train, torch.Generator().manual_seed(seed)), asking, seed)
    seconds = time.process_time() - began
    measured = measure_table(test, workers, settings.data_dir)
    return {
        "task": task, "teacher": teacher, "seed": seed, "answers": asking.counts,
        "test_episodes": len(test.steps), "test_steps": len(test),
        **compare(model, test, measured, names, settings.query.length), "cpu_seconds": seconds,
        "threads": torch.get_num_threads(), "load": os.getloadavg()[0], "flags": flags,
    }  # fmt: skip


def learn(settings: RunSettings, table: Table, data: Data, asking: Asking, seed: int) -> RewardModel:
    """The attribute model after all of its updates, eager and in float32."""
    data.set_labels(asking.labels)
    torch.manual_seed(seed)
    model = build_reward(settings, table.spec())
    (phase,) = model.phases()
    for _ in trange(phase.steps, desc="learning", leave=False):
        phase.update(phase.draw(data))
    return model


def compare(
    model: RewardModel, table: Table, measured: dict[str, np.ndarray], names: Sequence[str], length: int
) -> dict[str, dict[str, float]]:
    """Accuracy on pairs of windows, and rank correlation, of each attribute; windows that have none do not count."""
    starts = table.segment_starts(length)[::EVERY]
    learnt = model.score_at(table, starts, length).mean(0).double()  # [N, M]
    rows = table.segment_rows(starts, length).numpy()
    pairs = torch.from_numpy(np.random.default_rng(0).integers(len(starts), size=(PAIRS, 2)))
    found: dict[str, dict[str, float]] = {"accuracy": {}, "rank_correlation": {}, "defined": {}}
    for i, name in enumerate(names):
        true = torch.from_numpy(mean_over(measured[name], rows))
        label = 0.5 * (1 + torch.sign(true[pairs[:, 1]] - true[pairs[:, 0]])).nan_to_num(1.0)
        known = ~true.isnan()
        found["accuracy"][name] = accuracy(learnt[pairs, i], label)
        found["rank_correlation"][name] = rank_correlation(learnt[known, i], true[known])
        found["defined"][name] = known.double().mean().item()
    return found


def show(lines: Sequence[dict[str, Any]]) -> None:
    """Prints a table: mean ± standard deviation over seeds."""
    print(
        "| task | attribute | windows that have it | accuracy | … control | rank correlation | … control |\n|"
        + "---|" * 7
    )
    for task in TASKS:
        own = {t: [x for x in lines if (x["task"], x["teacher"]) == (task, t)] for t in TEACHERS}
        for name in TASKS[task].attributes if all(own.values()) else ():
            cells = [
                spread([line[measure][name] for line in own[teacher]], 2)
                for measure in ("accuracy", "rank_correlation")
                for teacher in TEACHERS
            ]
            defined = np.mean([line["defined"][name] for line in own["always right"]])
            print(f"| {task} | {name} | {defined:.0%} | " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    args = parser.parse_args()
    sim.configs.register()
    lines = [json.loads(line) for line in FILE.read_text().splitlines()] if FILE.exists() else []
    known = {(line["task"], line["teacher"], line["seed"]) for line in lines}
    for seed, task, teacher in product(args.seeds, args.tasks, TEACHERS):
        if (task, teacher, seed) in known:
            continue
        lines.append(run(task, teacher, seed))
        with open(FILE, "a") as out:
            out.write(to_json(lines[-1]) + "\n")
        print(task, teacher, seed, lines[-1]["rank_correlation"], flush=True)
    show(lines)


if __name__ == "__main__":
    main()

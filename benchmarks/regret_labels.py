"""How reliable regret labels are, task by task: why some of the table's tasks are hard to learn from them.

    python -m benchmarks.regret_labels      # after `python -m benchmarks.offline metaworld`

Regret compares segments by the expert's value at their ends, estimated by a rollout from there. Two things make it
unreliable. Where the expert itself cannot succeed any more (the puck has rolled away), there is nothing to lose, so a
hopeless segment is rated above a useful one. And where grasping is a matter of luck, one rollout is a poor estimate.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from benchmarks.offline import RESULTS, SUITES, run_folder
from pbrl.data import collect
from pbrl.data.rollout import RolloutWorkers, worker_count
from pbrl.data.table import Table
from pbrl.feedback.labels import Selection
from pbrl.feedback.read import read
from pbrl.feedback.sources.reference import rollout_from
from pbrl.feedback.store.store import Store
from pbrl.files import to_json
from pbrl.settings import RunSettings

SEGMENTS, SAMPLES, NOISE = 60, 4, 0.3  # rated segments, rollouts from each start, their action noise


def measure(envs: Sequence[Any], starts: Sequence[tuple[int, np.ndarray]], settings: dict[str, Any]) -> list[Any]:
    """For each (episode seed, state): whether the expert succeeds from there, and the returns of noisy rollouts."""
    found = []
    for seed, state in starts:
        random = np.random.default_rng(seed)
        noisy = [
            rollout_from(envs[0], seed, state, None, {**settings, "noise": NOISE}, random)[0] for _ in range(SAMPLES)
        ]
        found.append((rollout_from(envs[0], seed, state, None, {**settings, "noise": 0.0}, random)[1], noisy))
    return found


def task(env: str) -> dict[str, Any]:
    """A line of the results."""
    folder = run_folder(env, "answers", SUITES["metaworld"]["flags"])
    config = yaml.safe_load((folder / "config.yaml").read_text())
    episodes, _ = collect.load_dataset(
        config["env"], config["data"], folder=Path(config["data_dir"]), seed=config["data_seed"], workers=0
    )
    table = Table(episodes)
    store = Store(f"sqlite:///{folder / 'answers.sqlite'}")
    query = RunSettings.parse(config).query
    labels, _ = read(store, table, query, Selection())
    rows, rating = labels.starts[:, 0], labels.value
    rank = rating.argsort().argsort() / len(rating)
    pick = np.random.default_rng(0).choice(len(rows), SEGMENTS, replace=False)
    assert table.state is not None
    starts = [(int(table.seed[int(table.episode[row])]), table.state[row]) for row in rows[pick]]
    settings = {"steps": config["reference"]["steps"], "discount": config["feedback"]["discount"]}
    workers = RolloutWorkers(config["env"], worker_count(-1))
    try:
        found = dict(workers.map(measure, [starts[i : i + 8] for i in range(0, SEGMENTS, 8)], settings))
    finally:
        workers.close()
    pairs = [pair for i in sorted(found) for pair in found[i]]
    hopeless = np.array([not success for success, _ in pairs])
    values = np.array([noisy for _, noisy in pairs])  # [segments, samples]
    within, between = values.var(1, ddof=1).mean(), values.mean(1).var(ddof=1)
    return {
        "env": env,
        "hopeless": float(hopeless.mean()),
        "rank_of_hopeless": float(rank[pick][hopeless].mean()) if hopeless.any() else None,
        "rank_of_others": float(rank[pick][~hopeless].mean()),
        "luck": float(within / (within + max(between - within / SAMPLES, 0.0))),
    }


def main() -> None:
    torch.set_num_threads(1)
    lines = [task(env) for env in SUITES["metaworld"]["envs"]]
    (RESULTS / "regret_labels.jsonl").write_text("".join(to_json(line) + "\n" for line in lines))
    print("| | hopeless segments | their mean rank | rank of the others | luck in a value |\n|---|---|---|---|---|")
    for line in lines:
        rank = "–" if line["rank_of_hopeless"] is None else f"{line['rank_of_hopeless']:.2f}"
        name, others = line["env"].split("/")[1], line["rank_of_others"]
        print(f"| {name} | {line['hopeless']:.0%} | {rank} | {others:.2f} | {line['luck']:.0%} |")


if __name__ == "__main__":
    main()

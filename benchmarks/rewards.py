"""How accurate reward models are on random pairs of segments, by model, objective, and number of answers.

    python -m benchmarks.rewards                       # all rows of CONDITIONS, three seeds on three tasks
    python -m benchmarks.rewards --tasks gym/hopper --seeds 1 "lists"

Each row is an ordinary run of `train.py` whose policy trains for one update. Its learned reward then compares 5,000
random pairs of segments, and the true return says which of the two is better. Writes
`benchmarks/results/rewards.jsonl`, prints a table in Markdown and draws a picture.
"""

import argparse
import json
import multiprocessing
import tempfile
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from scipy.stats import spearmanr
from tqdm import tqdm

import sim.configs
from benchmarks.report import RESULTS
from pbrl.data import collect
from pbrl.data.table import Table
from pbrl.files import to_json
from pbrl.processes import end_with_parent
from pbrl.run import train as run

CONFIGS = Path(__file__).parent.parent / "configs"
TASKS = ("gym/halfcheetah", "gym/hopper", "gym/walker2d")
FLAGS = [
    "data=medium_replay", "data.sac.steps=60000", "feedback=perfect", "query.kind=pair", "query.count=500", "algo=bc",
    "steps=1", "log_every=1", "eval_every=1", "checkpoint_every=1", "final_episodes=1", "compare=false", "video=false",
    "workers=0", "threads=1", "query.held_out=0", "reward.normalize=none",
]  # fmt: skip
LISTS = "query.kind=ranking"


def wrong(percent: int) -> list[str]:
    return ["feedback=mistake", f"feedback.mistake={percent / 100}"]


def objective(name: str, mistake: float | None = None) -> list[str]:
    share = [] if mistake is None else [f"reward_objective.mistake={mistake}"]
    return [f"objective@reward_objective={name}", *share]


CONDITIONS = {
    "25 pairs": ["reward=ensemble", "query.count=25"],
    "25 pairs, SURF": ["reward=surf", "query.count=25"],
    "100 pairs": ["reward=ensemble", "query.count=100"],
    "500 pairs": ["reward=ensemble"],
    "2000 pairs": ["reward=ensemble", "query.count=2000"],
    "500 pairs, SURF": ["reward=surf"],
    "100 pairs, SURF": ["reward=surf", "query.count=100"],
    "500 pairs, linear": ["reward=linear"],
    "500 pairs, linear, 2000 updates": ["reward=linear", "reward.steps=2000"],
    "500 pairs, linear, smoothed": ["reward=linear", *objective("smoothed", 0.1)],
    "500 in lists": ["reward=ensemble", LISTS],
    "500 in lists, linear": ["reward=linear", LISTS],
    "500 in lists, Plackett-Luce": ["reward=ensemble", LISTS, *objective("plackett_luce")],
    "500 in lists, LiPO": ["reward=ensemble", LISTS, *objective("lipo_lambda")],
    "500 pairs, LSTM": ["reward=lstm"],
    "500 pairs, Preference Transformer": ["reward=transformer"],
    "500 pairs, 10 % wrong": ["reward=ensemble", *wrong(10)],
    "500 pairs, 10 % wrong, robust": ["reward=ensemble", *wrong(10), *objective("robust", 0.1)],
    "500 pairs, 30 % wrong": ["reward=ensemble", *wrong(30)],
    "500 pairs, 30 % wrong, robust": ["reward=ensemble", *wrong(30), *objective("robust", 0.3)],
    "500 pairs, 30 % wrong, smoothed": [
        "reward=ensemble", *wrong(30), *objective("smoothed", 0.3)
    ],
    "500 in lists, 30 % wrong": ["reward=ensemble", LISTS, *wrong(30)],
}  # fmt: skip


def measure(task: str, name: str, seed: int) -> dict[str, Any]:
    """A line of the results."""
    sim.configs.register()
    with tempfile.TemporaryDirectory() as folder, initialize_config_dir(str(CONFIGS), version_base="1.3"):
        flags = [*FLAGS, *CONDITIONS[name]]
        config: Any = OmegaConf.to_container(
            compose("train", [f"env={task}", f"seed={seed}", f"run={folder}", *flags]), resolve=True
        )
        with open(Path(folder) / "output.txt", "w") as output, redirect_stdout(output), redirect_stderr(output):
            result = run.train(config)
            table = Table(collect.load_dataset(
                config["env"], config["data"], folder=Path(config["data_dir"]), seed=config["data_seed"], workers=0
            )[0])  # fmt: skip
        learned = torch.load(Path(folder) / "checkpoint.pt", weights_only=True)["replicas"][0]["labels"]["reward"]
        git = json.loads((Path(folder) / "versions.json").read_text())["git"]
    length = config["query"]["length"]
    starts = table.segment_starts(length)
    pick = torch.randint(len(starts), (5000, 2), generator=torch.Generator().manual_seed(1))
    rows = table.segment_rows(starts[pick], length)
    score, true = (values[rows].double().sum(-1).numpy() for values in (learned, table.reward))
    agrees = (np.diff(score)[:, 0] > 0) == (np.diff(true)[:, 0] > 0)
    rank = spearmanr(score.ravel(), true.ravel())[0]  # type: ignore[index]
    above_least = np.sort(learned[rows].double().numpy() - float(learned[table.rows].min()))
    spikes = above_least[..., -length // 10 :].sum(-1) / above_least.sum(-1).clip(min=1e-9)
    return {"task": task, "name": name, "seed": seed, "flags": flags, "git": git, "answers": result["answers"],
            "accuracy": float(agrees.mean()), "rank_correlation": float(rank),  # type: ignore[arg-type]
            "paid_in_best_tenth_of_steps": float(spikes.mean())}  # fmt: skip


def show(lines: list[dict[str, Any]]) -> None:
    """Prints the accuracy of each row by task, mean ± standard deviation over seeds, and draws all of them."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = [name for name in CONDITIONS if any(line["name"] == name for line in lines)]
    print("|  | " + " | ".join(task.split("/")[1] for task in TASKS) + " | mean |\n" + "|---" * (len(TASKS) + 2) + "|")
    figure, axis = plt.subplots(figsize=(7, 0.28 * len(names) + 0.8), layout="constrained")
    for y, name in enumerate(names):
        found = [
            [100 * k["accuracy"] for k in lines if k["name"] == name and k["task"] == task] or [np.nan]
            for task in TASKS
        ]
        cells = [f"{np.mean(f):.1f} ± {np.std(f, ddof=1) if len(f) > 1 else np.nan:.1f}" for f in found]
        mean = np.mean([float(np.mean(f)) for f in found])
        print(f"| {name} | " + " | ".join(cells) + f" | {mean:.1f} |")
        for i, f in enumerate(found):
            axis.plot(f, [y] * len(f), ".", color=f"C{i}", label=None if y else TASKS[i].split("/")[1])
        axis.plot(mean, y, "|", color="k", markersize=12)
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel("accuracy on random pairs of segments, per cent; line: mean over tasks")
    axis.legend(fontsize=8)
    figure.savefig(RESULTS / "rewards.png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[[], *CONDITIONS], help="rows; all by default")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    file = RESULTS / "rewards.jsonl"
    known = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    jobs = [
        (task, name, seed) for name in args.names or CONDITIONS for task in args.tasks for seed in range(args.seeds)
    ]
    with ProcessPoolExecutor(args.jobs, multiprocessing.get_context("spawn"), end_with_parent, (True,)) as pool:
        futures = [pool.submit(partial(measure, *job)) for job in jobs]
        for future in tqdm(futures, unit="run"):
            line = future.result()
            same = (line["task"], line["name"], line["seed"])
            known = [k for k in known if (k["task"], k["name"], k["seed"]) != same] + [line]
            known.sort(key=lambda k: (list(CONDITIONS).index(k["name"]), TASKS.index(k["task"]), k["seed"]))
            file.write_text("".join(to_json(k) + "\n" for k in known))
    show(known)


if __name__ == "__main__":
    main()

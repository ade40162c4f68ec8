"""What a policy gains by cameras: the expert cloned with cameras, without, and with all poses in the observation.

    python -m benchmarks.images                         # reach, three seeds
    python -m benchmarks.images --tasks lift --seeds 0

All clone the same episodes with the same number of updates. With cameras and without, the state is that of the robot
alone (`env.state=robot`): goal and cube are only in the images. With `noise` the expert's actions are perturbed in the
data, which then hold recoveries; a deployed policy needs them. Runs are ordinary `train.py` runs on one thread each.
Each run adds a line to `benchmarks/results/images.jsonl`; runs that have one are not repeated.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from itertools import product
from typing import Any

from benchmarks.offline import run_folder
from benchmarks.report import RESULTS
from benchmarks.styles import run_missing, spread

FILE = RESULTS / "images.jsonl"
EPISODES = 50
TASKS = {"reach": 60, "lift": 160}  # and how many steps an episode has
METHODS = {
    "two cameras": ["env.images=[front,wrist]", "env.state=robot"],
    "front camera": ["env.images=[front]", "env.state=robot"],
    "wrist camera": ["env.images=[wrist]", "env.state=robot"],
    "no camera": ["env.state=robot"],
    "two cameras, noise": ["env.images=[front,wrist]", "env.state=robot", "data.behaviour.noise=0.6"],
    "poses": ["env.state=full"],
}
DEFAULT = ["two cameras", "no camera", "poses"]
SIZE = ["data=expert", "algo=bc", "algo.batch_size=128", "algo.lr=1e-3", "steps=3000", "eval_every=${steps}",
        "checkpoint_every=500", f"final_episodes={EPISODES}"]  # fmt: skip


def run(task: str, method: str, seed: int) -> dict[str, Any]:
    """Trains; returns a line of the results."""
    flags = [f"env.horizon={TASKS[task]}", *METHODS[method], *SIZE]
    folder = run_folder(f"franka/{task}", f"images-{method.replace(', ', '-').replace(' ', '-')}-{seed}", flags)
    folder.mkdir(parents=True, exist_ok=True)
    fixed = ["threads=1", "workers=0", "compare=false", "video=false", f"seed={seed}", f"run={folder}"]
    command = [sys.executable, "train.py", f"env=franka/{task}", *fixed, *flags]
    with open(folder / "output.txt", "w") as output:
        if subprocess.run(command, stdout=output, stderr=output).returncode:
            raise SystemExit(f"{' '.join(command)} failed; see {folder / 'output.txt'}")
    result = json.loads((folder / "result.json").read_text())
    last = result["policy"]["last"]
    return {
        "task": task, "method": method, "seed": seed, "episodes": EPISODES, "success": last["success"],
        "success_at_end": last["success_at_end"], "return": last["return_mean"],
        "data_success": result["data"]["success"], "flags": flags, "seconds": result["policy"]["seconds"],
        "load": os.getloadavg()[0], "git": json.loads((folder / "versions.json").read_text())["git"],
    }  # fmt: skip


def show(lines: Sequence[dict[str, Any]]) -> None:
    """Prints a table: mean ± standard deviation over seeds, in per cent."""
    print("\n| task | policy | success | at the end | seeds |\n|---|---|---|---|---|")
    for task, method in dict.fromkeys((line["task"], line["method"]) for line in lines):
        of = [line for line in lines if (line["task"], line["method"]) == (task, method)]
        cells = [spread([100 * line[key] for line in of], 0) for key in ("success", "success_at_end")]
        print(f"| {task} | {method} | {' | '.join(cells)} | {len(of)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=["reach"])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=DEFAULT)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    args = parser.parse_args()
    jobs = product(args.seeds, args.tasks, args.methods)
    lines = run_missing(FILE, run, [(task, method, seed) for seed, task, method in jobs])
    order = {name: i for i, name in enumerate([*TASKS, *METHODS])}
    show(sorted(lines, key=lambda line: (order[line["task"]], order[line["method"]], line["seed"])))


if __name__ == "__main__":
    main()

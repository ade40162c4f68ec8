"""A cloned diffusion policy that learns from its own episodes: on the true reward, and on one learnt from comparisons.

    python -m benchmarks.online     # a two-link arm (Reacher-v5), from data of sine waves

Each seed's policy is cloned once, and all methods go on from it. Runs are ordinary `train.py` runs, one after another
on one thread; finished runs are not repeated. Writes `benchmarks/results/online.jsonl` (a line a run) and prints a
table in Markdown.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import RESULTS
from pbrl.files import to_json

TASK = ["env=gymnasium", "env.id=Reacher-v5", "env.horizon=50", "data=waves"]
POLICY = ["policy=diffusion", "policy.horizon=4", "policy.execute=4", "policy.width=32", "policy.layers=1",
          "policy.sampler=ancestral", "policy.sample_steps=5"]  # fmt: skip
FIXED = ["threads=1", "workers=0", "compare=false", "video=false", "log_every=25", "final_episodes=100"]
CLONE = ["algo=bc", "steps=400", "eval_every=400", "checkpoint_every=400"]
TUNED = ["algo=fdpp", "steps=250", "algo.iterations=10", "algo.scenes=96", "algo.lr_after=5e-4", "eval_every=250",
         "checkpoint_every=250"]  # fmt: skip
LEARNT = ["reward=ensemble", "reward.steps=1000", "feedback=perfect", "query.kind=pair", "query.count=500",
          "query.length=10"]  # fmt: skip
METHODS = {
    "DPPO, true reward": [*TUNED, "algo.alpha=0", "feedback=none"],
    "FDPP": [*TUNED, *LEARNT],
    "FDPP, all answers wrong": [*TUNED, *LEARNT, "feedback.mistake=1"],
}


def run(name: str, seed: int, flags: list[str]) -> Path:
    """Trains, or finds the finished run; its folder. Raises RuntimeError where it fails."""
    folder = Path("runs/benchmark/online") / f"{name.replace(' ', '-').replace(',', '')}-{seed}"
    if not (folder / "result.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "train.py", *TASK, *POLICY, *FIXED, *flags, f"seed={seed}", f"run={folder}"]
        with open(folder / "output.txt", "w") as output:
            if subprocess.run(command, stdout=output, stderr=output).returncode:
                raise RuntimeError(f"{' '.join(command)} failed; see {folder / 'output.txt'}")
    return folder


def line_of(name: str, seed: int, folder: Path, flags: list[str]) -> dict[str, Any]:
    """What a run came to, and the returns of its own episodes, iteration by iteration."""
    result = json.loads((folder / "result.json").read_text())
    events = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {
        "method": name, "seed": seed, "flags": [*TASK, *POLICY, *flags],
        "git": json.loads((folder / "versions.json").read_text())["git"],
        "data_return": result["data"]["return_mean"],
        **{key: result["policy"]["last"][key] for key in ("return_mean", "return_interval", "episodes")},
        "rollouts": [event["return_mean"] for event in events if event["phase"] == "rollouts"],
        "kl": [event["kl"] for event in events if "kl" in event][-1:], "answers": result["answers"],
        "reward_model": result["reward_model"], "seconds": result["policy"]["seconds"],
    }  # fmt: skip


def show(lines: list[dict[str, Any]]) -> None:
    """Prints the mean return and its standard deviation over seeds, of each method."""
    print("| | return | seeds |\n|---|---|---|")
    print(f"| the data | {lines[0]['data_return']:.0f} | |")
    for name in dict.fromkeys(line["method"] for line in lines):
        own = [line["return_mean"] for line in lines if line["method"] == name]
        print(f"| {name} | {np.mean(own):.0f} ± {np.std(own):.0f} | {len(own)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=[*METHODS], help="only these methods")
    args = parser.parse_args()
    file = RESULTS / "online.jsonl"
    held = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    found = {(line["method"], line["seed"]): line for line in held}
    for seed in range(args.seeds):
        clone = run("cloning", seed, CLONE)
        found["cloning", seed] = line_of("cloning", seed, clone, CLONE)
        for name in args.methods:
            flags = METHODS[name]
            folder = run(name, seed, [*flags, f"algo.start_from={clone}"])
            found[name, seed] = line_of(name, seed, folder, flags)
        order = ["cloning", *METHODS]
        lines = sorted(found.values(), key=lambda line: (order.index(line["method"]), line["seed"]))
        file.write_text("".join(to_json(line) + "\n" for line in lines))
    show(lines)


if __name__ == "__main__":
    main()

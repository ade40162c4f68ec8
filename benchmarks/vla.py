"""The small vision-language-action policy: how fast it decides, and what it learns from its own episodes.

    python -m benchmarks.vla --parts speed
    python -m benchmarks.vla --parts learning              # three seeds of each method; `--jobs` at a time

`speed`: CPU-seconds to decide a chunk, of one process in turns: number by number anew each time, with a key-value
cache, and in parallel. `learning`: MT10 from clumsy demonstrations. A clone (SFT) is made once for each seed; methods
then play the same scenes as often, and are evaluated in scenes of training, in others, and told in words that no
training had. Finished runs are not repeated. Writes `benchmarks/results/vla.jsonl`, prints tables in Markdown and draws
docs/vla.png.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from benchmarks.report import RESULTS
from pbrl.configs import compose_config
from pbrl.data.rollout import RolloutWorkers
from pbrl.models.policy import load_policy
from pbrl.models.vla import VLAPolicy
from pbrl.processor import processor_name
from pbrl.training.evaluate import rollout_policy, summarize
from pbrl.types import Observation, Spec

FILE = RESULTS / "vla.jsonl"
PICTURE = Path(__file__).parent.parent / "docs" / "vla.png"
FOLDER = Path("runs/benchmark/vla")
DATA = ["env=multitask/mt10", "env.layouts=10", "data=offset", "data.success=0.5", "data.episodes=300", "policy=vla"]
SFT = ["algo=bc", "algo.lr=1e-3", "algo.batch_size=128", "steps=2000", "eval_every=2000"]
PLAYED = ["algo=tpo", "algo.iterations=3", "algo.scenes=100", "algo.samples=4", "steps=180", "eval_every=60",
          "eval_episodes=20", "final_episodes=20"]  # fmt: skip
DPO = ["objective=bradley_terry", "algo.beta=0.02", "algo.lr_after=5e-5"]
STAGES = ["algo.stages=5", "algo.description=mt10", "algo.margin=0.3"]
METHODS = {
    "TPO, success": [*PLAYED, *DPO],
    "TPO, success and stages": [*PLAYED, *DPO, *STAGES],
    "TPO, any two scenes": [*PLAYED, *DPO, "algo.same_scene=false"],
    "KTO, success": [*PLAYED, "objective=kto", "algo.beta=0.02", "algo.lr_after=1e-4"],
    "filtered cloning": [*PLAYED, "algo.clone_winners=true", "algo.lr_after=3e-4"],
}
TESTS = {  # where policies are evaluated: episodes and flags
    "scenes of training": (100, []),
    "other scenes": (100, ["env.layouts=0"]),
    "other words": (100, ["env.phrasings=held_out"]),
}
DECIDED = {"horizon": 8, "execute": 8, "bins": 256, "width": 128, "layers": 3, "heads": 4, "channels": 16,
           "temperature": 1.0}  # fmt: skip


def measure_speed(rounds: int = 15) -> dict[str, Any]:
    """CPU-seconds of one decision, medians over rounds in which all take turns, on one thread."""
    torch.set_num_threads(1)
    spec = Spec(4, 4, (0.0,) * 4, (1.0,) * 4, 120, {"corner2": (48, 48, 3), "gripperPOV": (48, 48, 3)}, False, ("a",))
    parallel = VLAPolicy(spec, decode="parallel", **DECIDED)
    in_turn = VLAPolicy(spec, decode="autoregressive", **DECIDED)
    images = {name: torch.randint(0, 256, (1, 48, 48, 3), dtype=torch.uint8) for name in spec.images}
    obs = Observation(torch.randn(1, 4), images, {"tokens": torch.ones(1, 16, dtype=torch.long)})
    ways = {
        "anew": lambda: in_turn.draw_bins(obs, 0.0, None, cached=False),
        "cache": lambda: in_turn.draw_bins(obs, 0.0, None),
        "parallel": lambda: parallel.draw_bins(obs, 0.0, None),
    }
    with torch.no_grad():
        assert torch.equal(ways["anew"](), ways["cache"]()), "the same actions"
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, decide in ways.items():
                decide()
                began = time.process_time()
                decide()
                taken[name].append(time.process_time() - began)
    seconds = {name: float(np.median(own)) for name, own in taken.items()}
    ratios = {f"{name}_ratio": float(np.median(np.divide(taken["anew"], own))) for name, own in taken.items()}
    return {"part": "speed", "processor": processor_name(), "cpu_seconds": seconds, **ratios, "git": revision()}


def revision() -> str:
    """The commit."""
    return subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()


def run(name: str, seed: int, flags: Sequence[str], data_dir: str) -> Path:
    """Trains, or finds a finished run; its folder."""
    folder = FOLDER / f"{name.replace(', ', '-').replace(' ', '_')}-{seed}"
    if not (folder / "result.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        fixed = ["threads=1", "workers=1", "compare=false", "video=false", "compile=never", "feedback=none",
                 f"seed={seed}", f"run={folder}", f"data_dir={data_dir}"]  # fmt: skip
        command = [sys.executable, "train.py", *DATA, *fixed, *flags]
        with open(folder / "output.txt", "w") as output:
            if subprocess.run(command, stdout=output, stderr=output).returncode:
                raise RuntimeError(f"{' '.join(command)} failed; see {folder / 'output.txt'}")
    return folder


def evaluate_run(name: str, seed: int, folder: Path) -> dict[str, Any]:
    """How often a run's policy succeeds in each of the tests, and how its own episodes went."""
    file = folder / "tests.json"
    if not file.exists():
        policy, tests = load_policy(folder), {}
        for test, (episodes, flags) in TESTS.items():
            workers = RolloutWorkers(compose_config("train", *DATA, *flags)["env"], 1)
            played = rollout_policy(workers, policy, episodes, 1)
            found = summarize(played)
            steps = [int(np.argmax(e.success)) if e.success.any() else len(e.action) for e in played]  # type: ignore
            tests[test] = {"success": found.success, "interval": found.success_interval, "steps": float(np.mean(steps))}
        file.write_text(json.dumps(tests))
    events = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rollouts = [{k: e[k] for k in ("success", "stages", "telling_scenes")} for e in events if e["phase"] == "rollouts"]
    config = yaml.safe_load((folder / "config.yaml").read_text())
    seconds = json.loads((folder / "result.json").read_text())["policy"]["seconds"]
    return {
        "part": "learning", "method": name, "seed": seed, "tests": json.loads(file.read_text()), "rollouts": rollouts,
        "seconds": seconds, "algo": config["algo"], "objective": config["objective"],
        "git": json.loads((folder / "versions.json").read_text())["git"], "processor": processor_name(),
    }  # fmt: skip


def learn(seed: int, methods: Sequence[str], data_dir: str) -> list[dict[str, Any]]:
    """The clone of a seed, and what methods make of it."""
    clone = run("SFT", seed, SFT, data_dir)
    lines = [evaluate_run("SFT", seed, clone)]
    for method in methods:
        folder = run(method, seed, [*METHODS[method], f"algo.start_from={clone}"], data_dir)
        lines.append(evaluate_run(method, seed, folder))
    return lines


def table(lines: Sequence[dict[str, Any]]) -> str:
    """Mean success over the seeds, in per cent, and the smallest and largest; Markdown."""
    methods = {line["method"]: None for line in lines}
    rows = ["| method | seeds | " + " | ".join(TESTS) + " | steps |", "|---" * (len(TESTS) + 3) + "|"]
    for method in methods:
        own = [line["tests"] for line in lines if line["method"] == method]
        cells = []
        for test in TESTS:
            found = [100 * tests[test]["success"] for tests in own]
            cells.append(f"{np.mean(found):.0f} ({min(found):.0f} to {max(found):.0f})")
        steps = np.mean([tests["scenes of training"]["steps"] for tests in own])
        rows.append(f"| {method} | {len(own)} | {' | '.join(cells)} | {steps:.0f} |")
    return "\n".join(rows)


def draw(lines: Sequence[dict[str, Any]]) -> None:
    """A bar for each method and test, and a dot for each seed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    methods = list({line["method"]: None for line in lines})
    figure, axes = pyplot.subplots(figsize=(9, 3.6), layout="constrained")
    for i, test in enumerate(TESTS):
        for j, method in enumerate(methods):
            found = [100 * line["tests"][test]["success"] for line in lines if line["method"] == method]
            place = j + 0.27 * (i - 1)
            axes.bar(place, np.mean(found), 0.25, color=f"C{i}", label=test if j == 0 else None)
            axes.plot([place] * len(found), found, ".k", markersize=3)
    axes.set_xticks(range(len(methods)), [m.replace(", ", ",\n") for m in methods], fontsize=8)
    axes.set_ylabel("success, %")
    axes.set_ylim(0, 100)
    axes.legend(frameon=False)
    figure.savefig(PICTURE, dpi=110)


def write(lines: Sequence[dict[str, Any]], part: str) -> None:
    """Replaces the lines of a part that were measured again."""

    def key(line: dict[str, Any]) -> tuple[Any, ...]:
        return line["part"], line.get("method"), line.get("seed"), line["processor"] if part == "speed" else None

    old = [json.loads(line) for line in FILE.read_text().splitlines()] if FILE.exists() else []
    new = {key(line) for line in lines}
    kept = [line for line in old if key(line) not in new]
    FILE.write_text("".join(json.dumps(line) + "\n" for line in [*kept, *lines]))


def main() -> None:
    """Measures what is asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=("speed", "learning"), default=["speed", "learning"])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--data-dir", default=os.environ.get("PBRL_DATA", "datasets"))
    given = parser.parse_args()
    if "speed" in given.parts:
        line = measure_speed()
        print(json.dumps(line, indent=2))
        write([line], "speed")
    if "learning" in given.parts:
        command = [sys.executable, "train.py", *DATA, "only=data", f"data_dir={given.data_dir}"]
        subprocess.run(command, check=True)
        with ThreadPoolExecutor(given.jobs) as pool:
            jobs = [pool.submit(learn, seed, given.methods, given.data_dir) for seed in given.seeds]
            lines = [line for job in jobs for line in job.result()]
        write(lines, "learning")
        measured = [json.loads(line) for line in FILE.read_text().splitlines()]
        learned = [line for line in measured if line["part"] == "learning"]
        order = ["SFT", *METHODS]
        learned.sort(key=lambda line: (order.index(line["method"]), line["seed"]))
        print(table(learned))
        draw(learned)


if __name__ == "__main__":
    main()

"""The same task in two styles, and answers that prefer one: do policies still solve the task, and adopt the style?

    python -m benchmarks.styles                            # all tasks and methods, three seeds
    python -m benchmarks.styles --tasks lift --seeds 1 --methods BC CPL

Half of the data are of the preferred style, half of the other; only the answers show which is which, by a scripted
teacher whose preference is `env.preference`. Runs are ordinary `train.py` runs on one thread each. Their policies are
then rolled out in evaluation episodes, and the style of the successful ones is measured, as it is of the data. Each run
adds a line to `benchmarks/results/styles.jsonl`; runs that have one are not repeated.
"""

import argparse
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from benchmarks.offline import run_folder
from benchmarks.report import RESULTS
from pbrl.data import collect
from pbrl.data.rollout import RolloutWorkers
from pbrl.files import to_json
from pbrl.models.policy import load_policy
from pbrl.training import evaluate
from pbrl.types import Episode
from sim.tabletop.tasks import Place

Measures = dict[str, float]
Style = dict[str, float]
EPISODES = 50
MOVING = 0.05  # m/s
LOW = 0.1  # m: a hand below works on the cubes
FILE = RESULTS / "styles.jsonl"


class Task(NamedTuple):
    """Two styles, a preference for one, and what is measured; the first measure separates the styles."""

    env: str
    horizon: int
    preference: Style
    preferred: Style
    other: Style
    measures: tuple[str, ...]

    @property
    def flags(self) -> list[str]:
        both, preference = f"[{format_style(self.preferred)},{format_style(self.other)}]", format_style(self.preference)
        return [
            f"env={self.env}",
            f"env.horizon={self.horizon}",
            f"env.preference={preference}",
            "data=styles",
            f"data.behaviour.styles={both}",
        ]


def format_style(weights: Style) -> str:
    return "{" + ",".join(f"{name}:{value:g}" for name, value in weights.items()) + "}"


# a preference must not outweigh success: at three times -1, a hand that stays low returns more than one that succeeds
TASKS = {
    "lift": Task("franka/lift", 160, {"excess_speed": -20.0}, {"speed": 0.4}, {"speed": 1.0}, ("speed", "peak")),
    "group": Task(
        "franka/group", 120, {"height": -1.0}, {"height": 0.05}, {"height": 0.2}, ("height", "peak", "speed")
    ),
    "place": Task(
        "franka/place", 160, {"height": -2.0}, {"around": 1.0}, {"around": 0.0}, ("around", "over", "peak", "speed")
    ),
}
SIZE = ["eval_every=${steps}", "checkpoint_every=${steps}", "final_episodes=2"]
# whole episodes: the true return of parts depends on progress in the task more than on style
# and two of a style are a tie: their small difference is noise, which CPL would learn to act on
ANSWERS = ["feedback=equal", "feedback.equal=0.05", "query.kind=pair", "query.count=800", "query.length=${env.horizon}"]
METHODS = {
    "BC": ["algo=bc", "steps=6000"],
    "P-IQL": ["algo=iql", "steps=6000", "reward=ensemble", "reward.steps=500", "reward.batch_size=16", *ANSWERS],
    "CPL": ["algo=cpl", "steps=3000", *ANSWERS],
    "IQL, true reward": ["algo=iql", "steps=6000"],
}


def measures(episodes: Sequence[Episode], names: Sequence[str]) -> Measures:
    """Means over successful episodes of the measures with those names (see MEASURED); NaN if there are none."""
    done = [e for e in episodes if e.success is not None and e.success.any()]
    return {name: float(np.mean([MEASURED[name](e) for e in done])) if done else math.nan for name in names}


def speed(episode: Episode) -> float:
    """Of the hand while it moves, m/s, until the first success."""
    speeds = np.linalg.norm(episode.obs[1:, 3:6], axis=1)
    assert episode.success is not None
    speeds = speeds[: int(episode.success.argmax())]
    return float(speeds[speeds > MOVING].mean())


def height(episode: Episode) -> float:
    """Of the hand, m."""
    return float(episode.obs[1:, 2].mean())


def peak(episode: Episode) -> float:
    """The hand's greatest height, m, after it first was low."""
    height = episode.obs[:, 2]
    return float(height[int((height < LOW).argmax()) :].max())


def passing(episode: Episode) -> float | None:
    """The hand's height, m, when the cube passes the glass; None if it does not."""
    cube = episode.obs[:, 8]
    passed = np.flatnonzero((cube[:-1] < Place.glass[1]) & (cube[1:] >= Place.glass[1]))
    return float(episode.obs[passed[0], 2]) if len(passed) else None


def over(episode: Episode) -> float:
    """1 if the cube passes the glass above it."""
    at = passing(episode)
    return float(at is not None and at > Place.height)


def around(episode: Episode) -> float:
    """1 if it passes beside it; 0 also if it never passes."""
    at = passing(episode)
    return float(at is not None and at <= Place.height)


MEASURED = {"speed": speed, "height": height, "peak": peak, "over": over, "around": around}


def relative_shift(found: Measures, preferred: Measures, other: Measures, measure: str) -> float:
    """The share of the way from the other style's measure to the preferred one's."""
    return (found[measure] - other[measure]) / (preferred[measure] - other[measure])


def run(name: str, method: str, seed: int) -> dict[str, Any]:
    """Trains, and rolls the policy out; returns a line of the results."""
    task, flags = TASKS[name], [*TASKS[name].flags, *SIZE, *METHODS[method]]
    folder = run_folder(task.env, f"style-{method.replace(' ', '').replace(',', '-')}-{seed}", flags)
    folder.mkdir(parents=True, exist_ok=True)
    fixed = ["threads=1", "workers=0", "compare=false", "video=false", f"seed={seed}", f"run={folder}"]
    command = [sys.executable, "train.py", *fixed, *flags]
    with open(folder / "output.txt", "w") as output:
        if subprocess.run(command, stdout=output, stderr=output).returncode:
            raise SystemExit(f"{' '.join(command)} failed; see {folder / 'output.txt'}")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    source = {"folder": Path(config["data_dir"]), "seed": config["data_seed"], "workers": 0}
    data, _ = collect.load_dataset(config["env"], config["data"], **source)
    preferred, other = (
        measures(
            [e for e in data if e.source == f"styles: {format_style(style)[1:-1].replace(':', '=')}"], task.measures
        )
        for style in (task.preferred, task.other)
    )
    workers = RolloutWorkers(config["env"], 0)
    rollouts = evaluate.rollout_policy(workers, load_policy(folder), EPISODES, config["eval_seed"])
    found, result = measures(rollouts, task.measures), json.loads((folder / "result.json").read_text())
    summary = evaluate.summarize(rollouts)
    return {
        "task": name, "method": method, "seed": seed, "episodes": EPISODES, "success": summary.success,
        "success_at_end": summary.success_at_end, "return": summary.return_mean,
        "moved": relative_shift(found, preferred, other, task.measures[0]), "measures": found,
        "preferred": preferred, "other": other, "data_success": evaluate.summarize(data).success, "flags": flags,
        "answers": result["answers"], "reward_model": result["reward_model"],
        "seconds": result["policy"]["seconds"], "load": os.getloadavg()[0],
        "git": json.loads((folder / "versions.json").read_text())["git"],
    }  # fmt: skip


def show(lines: Sequence[dict[str, Any]]) -> None:
    """Prints a table for each task: mean ± standard deviation over seeds, between the data's two halves."""
    for name in dict.fromkeys(line["task"] for line in lines):
        own = [line for line in lines if line["task"] == name]
        columns = [
            "success",
            "at end",
            "moved to the preferred style",
            *own[0]["measures"],
        ]
        print(f"\n| {name} | " + " | ".join(columns) + " |\n" + "|---" * (len(columns) + 1) + "|")
        for half in ("preferred", "other"):
            at = own[0]["liked" if half == "preferred" and "liked" in own[0] else half]  # "liked" in older lines
            print(f"| data, {half} | {own[0]['data_success']:.0%} | | {float(half == 'preferred'):.0%} | "
                  + " | ".join(f"{at[column]:.3f}" for column in columns[3:]) + " |")  # fmt: skip
        for method in dict.fromkeys(line["method"] for line in own):
            of = [line for line in own if line["method"] == method]
            cells = [spread([100 * line[key] for line in of], 0) for key in ("success", "success_at_end", "moved")]
            cells += [spread([line["measures"][column] for line in of], 3) for column in columns[3:]]
            print(f"| {method} | " + " | ".join(cells) + " |")


def spread(values: Sequence[float], digits: int) -> str:
    """Mean ± standard deviation of those that are not NaN."""
    values = [value for value in values if not math.isnan(value)]
    if not values:
        return "–"
    deviation = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{deviation}"


def run_missing(
    file: Path, run: Callable[[str, str, int], dict[str, Any]], jobs: Iterable[tuple[str, str, int]]
) -> list[dict[str, Any]]:
    """All lines of the file, after running those jobs (task, method, seed) that it does not hold yet."""
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    known = {(line["task"], line["method"], line["seed"]) for line in lines}
    for job in jobs:
        if job in known:
            continue
        lines.append(run(*job))
        with open(file, "a") as out:
            out.write(to_json(lines[-1]) + "\n")
        print(*job, f"success {lines[-1]['success']:.0%}", flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    args = parser.parse_args()
    jobs = product(args.seeds, args.tasks, args.methods)
    lines = run_missing(FILE, run, [(task, method, seed) for seed, task, method in jobs])
    order = {name: i for i, name in enumerate([*TASKS, *METHODS])}
    show(sorted(lines, key=lambda line: (order[line["task"]], order[line["method"]], line["seed"])))


if __name__ == "__main__":
    main()

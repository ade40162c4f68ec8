"""The tables of the README: data, BC, 10 % BC, P-IQL and CPL from the same answers, three seeds each.
IQL, where it is listed, learns from the true reward.

    python -m benchmarks.offline metaworld      # six tasks, calibrated offset data, 1,600 segments rated by regret
    python -m benchmarks.offline hopeless       # two of them, with a teacher that skips what is hopeless anyway
    python -m benchmarks.offline averaged       # bin-picking, with play-ons averaged over four
    python -m benchmarks.offline locomotion     # SAC replay, 1,600 segments rated by return

Runs are ordinary `train.py` runs, `--jobs` at a time on one thread each; what is finished is not run again. Writes
`benchmarks/results/<suite>.jsonl` (a line a run), prints a table in Markdown and draws a picture.
"""

import argparse
import hashlib
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results"
LAST = ("success", "success_at_end", "return_mean", "return_iqm", "episodes")  # of the last evaluation
METHODS = {
    "BC": ["algo=bc"],
    "10 % BC": ["algo=bc", "algo.fraction=0.1"],
    "IQL": ["algo=iql"],
    "P-IQL": ["algo=iql", "reward=ensemble", "reward.steps=2000"],
    "CPL": ["algo=cpl"],
    "CPL-BC": ["algo=cpl", "algo.bc_weight=1"],
}
FOUR = ["BC", "10 % BC", "P-IQL", "CPL"]
SIZE = ["query.count=1600", "steps=8000", "eval_every=2000", "checkpoint_every=2000"]
SUITES = {
    "metaworld": {
        "envs": [f"metaworld/{task}" for task in
                 ("bin-picking", "button-press", "door-open", "drawer-open", "plate-slide", "sweep-into")],
        "flags": ["data=offset", "feedback=regret", *SIZE],
        "methods": FOUR,
        "measure": "success",
    },
    "hopeless": {
        "envs": ["metaworld/bin-picking", "metaworld/sweep-into"],
        "flags": ["data=offset", "feedback=regret", "feedback.skip=0.3", *SIZE],
        "methods": ["IQL", *FOUR],
        "measure": "success",
    },
    "averaged": {
        "envs": ["metaworld/bin-picking"],
        "flags": ["data=offset", "feedback=regret", "reference.samples=4", "reference.noise=0.3", *SIZE],
        "methods": FOUR,
        "measure": "success",
    },
    "locomotion": {
        "envs": ["dm_control/walker-walk", "gym/hopper"],
        "flags": ["data=medium_replay", "feedback=perfect", "query.count=1600",
                  "steps=5000", "eval_every=2500", "checkpoint_every=2500"],
        "methods": [*FOUR, "CPL-BC"],
        "measure": "return_mean",
    },
}  # fmt: skip


def run_folder(suite: str, env: str, name: str, flags: list[str]) -> Path:
    """Where a run lives; other flags make another run."""
    digest = hashlib.sha256(json.dumps(flags).encode()).hexdigest()[:6]
    return Path("runs/benchmark") / suite / env.split("/")[1] / f"{name}-{digest}"


def run(suite: str, env: str, method: str, seed: int, flags: list[str]) -> dict[str, Any]:
    """Trains once, or reads what a run before left; returns a line of the results."""
    flags = [*SUITES[suite]["flags"], *METHODS[method], *flags]
    folder = run_folder(suite, env, f"{method.replace(' ', '').replace('%', 'percent')}-{seed}", flags)
    if not (folder / "result.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        fixed = [
            "threads=1",
            "workers=0",
            "compare=false",
            "video=false",
            f"seed={seed}",
            f"run={folder}",
            f"env={env}",
        ]
        command = [sys.executable, "train.py", *fixed, *flags]
        with open(folder / "output.txt", "w") as output:
            done = subprocess.run(command, stdout=output, stderr=output)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed; see {folder / 'output.txt'}")
    result = json.loads((folder / "result.json").read_text())
    policy = result["policy"]
    versions = json.loads((folder / "versions.json").read_text())
    return {
        "suite": suite, "env": env, "method": method, "seed": seed, "flags": flags, "git": versions["git"],
        "data_hash": versions["data"], "data_success": result["data"]["success"],
        "data_return": result["data"]["return_mean"], "data_success_at_end": result["data"]["success_at_end"],
        **{f"last_{k}": policy["last"][k] for k in LAST},
        "best": policy["best"][policy["measure"]], "running_max": policy["running_max"], "measure": policy["measure"],
        "answers": result["answers"], "reward_model": result["reward_model"], "seconds": policy["seconds"],
    }  # fmt: skip


def prepare(suite: str, env: str, flags: list[str]) -> None:
    """Makes the data set and the reference values before the runs that share them, on all cores."""
    flags = [*SUITES[suite]["flags"], *flags]
    folder = run_folder(suite, env, "answers", flags)
    command = [sys.executable, "train.py", "only=answers", "algo=cpl", f"run={folder}", f"env={env}", *flags]
    if subprocess.run(command).returncode:
        raise SystemExit(f"{' '.join(command)} failed")


def merge(suite: str, new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Writes the results, new ones in place of those of the same environment, method and seed; returns them all."""
    file = RESULTS / f"{suite}.jsonl"
    old = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    known = {(line["env"], line["method"], line["seed"]): line for line in [*old, *new]}
    envs, methods = SUITES[suite]["envs"], list(METHODS)
    lines = sorted(known.values(), key=lambda k: (envs.index(k["env"]), methods.index(k["method"]), k["seed"]))
    RESULTS.mkdir(exist_ok=True)
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return lines


def table(lines: list[dict[str, Any]], column: str) -> str:
    """Mean ± standard deviation over seeds of a column, methods by environments, in Markdown."""
    envs = list(dict.fromkeys(line["env"] for line in lines))
    percent = lines[0]["measure"] == "success"
    scale, unit = (100, "%") if percent else (1, "")
    data = ("data_success_at_end" if column.endswith("at_end") else "data_success") if percent else "data_return"
    rows = [["", *(env.split("/")[1] for env in envs), "mean"]]
    values = [next(line[data] for line in lines if line["env"] == env) * scale for env in envs]
    rows.append(["data", *(f"{v:.0f}" for v in values), f"{np.mean(values):.0f}"])
    for method in dict.fromkeys(line["method"] for line in lines):
        cells, means = [], []
        for env in envs:
            found = (
                np.array([line[column] for line in lines if line["env"] == env and line["method"] == method]) * scale
            )
            means.append(found.mean())
            cells.append(f"{found.mean():.0f} ± {found.std(ddof=1) if len(found) > 1 else 0:.0f}")
        rows.append([method, *cells, f"{np.mean(means):.0f}"])
    head = "| " + " | ".join(rows[0]) + " |\n|" + "---|" * len(rows[0])
    return (
        head + "\n" + "\n".join("| " + " | ".join(row) + " |" for row in rows[1:]) + (f"\n\n({unit})" if unit else "")
    )


def plot(suite: str, lines: list[dict[str, Any]]) -> None:
    """Bars of the last policy's measure with each seed as a dot, and the data's own level as a line."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    envs = list(dict.fromkeys(line["env"] for line in lines))
    figure, axes = plt.subplots(1, len(envs), figsize=(1.9 * len(envs), 2.6), layout="constrained", squeeze=False)
    percent = lines[0]["measure"] == "success"
    methods = list(dict.fromkeys(line["method"] for line in lines))
    for axis, env in zip(axes[0], envs, strict=True):
        for i, method in enumerate(methods):
            found = [
                line["last_success" if percent else "last_return_mean"]
                for line in lines
                if line["env"] == env and line["method"] == method
            ]
            axis.bar(i, np.mean(found), color=f"C{i}", alpha=0.6)
            axis.plot([i] * len(found), found, ".", color=f"C{i}")
        axis.axhline(
            next(line["data_success" if percent else "data_return"] for line in lines if line["env"] == env),
            color="0.4",
            linestyle=":",
        )
        axis.set_title(env.split("/")[1], fontsize=9)
        axis.set_xticks(range(len(methods)), methods, rotation=60, fontsize=8)
        if percent:
            axis.set_ylim(0, 1.02)
    axes[0][0].set_ylabel("success" if percent else "return")
    figure.savefig(RESULTS / f"{suite}.png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", choices=SUITES, nargs="?", default="metaworld")
    parser.add_argument("flags", nargs="*", help="passed on to train.py, as in steps=20000 experiment=cpl_paper")
    parser.add_argument("--tasks", nargs="*", help="only these of the suite's tasks")
    parser.add_argument("--methods", nargs="*", choices=METHODS, help="only these methods")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    suite = SUITES[args.suite]
    envs = [env for env in suite["envs"] if not args.tasks or env.split("/")[1] in args.tasks]
    for env in envs:
        prepare(args.suite, env, args.flags)
    order = [
        (env, method, seed) for seed in range(args.seeds) for env in envs for method in args.methods or suite["methods"]
    ]
    with ThreadPoolExecutor(args.jobs) as pool:
        jobs = [pool.submit(run, args.suite, *job, args.flags) for job in order]
    failed = [job.exception() for job in jobs if job.exception()]
    lines = merge(args.suite, [job.result() for job in jobs if not job.exception()])
    last = "last_success" if suite["measure"] == "success" else "last_return_mean"
    print(f"\nlast policy\n\n{table(lines, last)}\n\nmaximum of the running mean\n\n{table(lines, 'running_max')}")
    if suite["measure"] == "success":
        print(f"\nlast policy, in the last step\n\n{table(lines, 'last_success_at_end')}")
    plot(args.suite, lines)
    if failed:
        raise SystemExit("\n".join(map(str, failed)))


if __name__ == "__main__":
    main()

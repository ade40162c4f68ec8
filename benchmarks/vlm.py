"""What answers through a model's interface are worth: rewards of images beside rewards of states, told the same.

    python -m benchmarks.vlm                      # three tasks, three seeds; 0, 10, 30 and 100 % wrong answers
    python -m benchmarks.vlm --tasks drawer-open --seeds 1

All answers are those of a **simulated judge** (simulated_judge.py): a server of ours that looks the true reward up and
errs in a stated share of the pairs. No vision-language model was asked. What is measured is all that comes before and
after a judgement: pictures, requests in both orders, the store, rewards and policies.

BC, IQL on the true reward and IQL on a reward from demonstrations (inverse RL: ORIL, told by true returns which tenth
of the episodes is best) stand beside. Runs are ordinary `train.py` runs, `--jobs` at a time on one thread each;
finished runs are not repeated. Writes `benchmarks/results/vlm.jsonl`, prints tables in Markdown and draws docs/vlm.png.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import offline, simulated_judge
from pbrl.configs import compose_config

SUITE = "vlm"
PICTURE = Path(__file__).parent.parent / "docs" / "vlm.png"
FOLDER = Path("runs/benchmark/vlm")  # pictures, requests and replies of all runs, and the answer key
WRONG = (0, 10, 30, 100)  # per cent of the answers
SHOWN = ["env.see_through=true", "env.camera=closeup"]
TASKS = {  # with flags that differ
    "metaworld/drawer-open": [*SHOWN, "env.horizon=150"],
    "metaworld/button-press": [*SHOWN, "env.horizon=250", "data.episodes=200"],  # IQL hardly beats BC on shorter ones
    "franka/cloth": [
        "env.horizon=110",
        "data=holds",
        "data.behaviour.strength=0.3",
        "data.behaviour.noise=0.1",
        "data.episodes=240",
        "eval_episodes=1",
    ],
}
FLAGS = ["data=mixed", "data.episodes=150", "steps=4000", "eval_every=4000",
         "checkpoint_every=4000", "final_episodes=30"]  # fmt: skip
ASKED = ["feedback=vlm", "query.kind=pair", "query.length=1", "query.count=1000", "vlm.judge=pair_logprob",
         "vlm.view=frame", "vlm.size=112", f"vlm.cache={FOLDER}/cache",
         f"vlm.answer_key={FOLDER}/key.jsonl"]  # fmt: skip
SEEN = {
    "states": ["reward=ensemble", "reward.actions=false"],
    "images": ["reward=image", "reward.image_size=64"],
    "states and actions": ["reward=ensemble", "reward.actions=true"],  # no picture shows an action
    "states, unbounded": ["reward=ensemble", "reward.actions=false", "reward.bounded=false"],
    "images, unbounded": ["reward=image", "reward.image_size=64", "reward.bounded=false"],
}
COMPARED = {"bounded": ("images", "states"), "unbounded": ("images, unbounded", "states, unbounded")}
SCALE = ["reward.normalize=std"]  # as the true reward is scaled: of tanh, rewards of pictures would be small ones
BASELINES = {
    "BC": ["algo=bc", "reward=none"],
    "IQL, true reward": ["algo=iql", "reward=none"],
    "IQL, demonstrations": ["algo=iql", "reward=discriminator", *SCALE],
}


def name_of(seen: str, wrong: int) -> str:
    """Of a method: a reward that sees states or images, and the share of wrong answers."""
    return f"P-IQL, {seen}, {wrong} % wrong"


def variable(wrong: int) -> str:
    """Of the environment, with the address of the judge; so that it is not part of what names a run."""
    return f"SIMULATED_JUDGE_{wrong}"


def temperature(env: str) -> float:
    """In which a judge's sureness is measured: a tenth of the largest true reward."""
    return 0.1 if env.startswith("franka/") else 1.0


METHODS = {name: [*flags, "feedback=none"] for name, flags in BASELINES.items()} | {
    name_of(seen, wrong): ["algo=iql", *ASKED, *flags, *SCALE, "vlm.base_url=${oc.env:" + variable(wrong) + "}"]
    for seen, flags in SEEN.items()
    for wrong in WRONG
}
offline.METHODS.update(METHODS)
offline.SUITES[SUITE] = {"envs": list(TASKS), "flags": FLAGS, "methods": list(METHODS), "measure": "return_mean"}


@contextmanager
def started_judges(env: str) -> Iterator[None]:
    """A judge for each share of wrong answers meanwhile, all with the same answer key."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        for wrong in WRONG:
            judge = simulated_judge.start(FOLDER / "key.jsonl", error=wrong / 100, temperature=temperature(env))
            stack.callback(judge.stop)
            os.environ[variable(wrong)] = judge.base_url
        yield


def prepare(env: str) -> None:
    """Makes the data set, and rolls out random actions."""
    folder = offline.run_folder(env, "vlm-data", FLAGS)
    flags = [f"env={env}", *FLAGS, *TASKS[env], "algo=bc", "feedback=none"]
    if subprocess.run([sys.executable, "train.py", "only=data", f"run={folder}", *flags]).returncode:
        raise SystemExit(f"no data set of {env}")
    config = compose_config(*flags)
    parts = {k: config[k] for k in ("env", "data", "data_dir", "data_seed")}
    offline.scale(json.dumps(parts))  # cached here, since the threads that read results cannot share a simulator


def run(env: str, method: str, seed: int) -> dict[str, Any]:
    """A line of the results. Seeds are asked about other clips."""
    line = offline.run(SUITE, env, method, seed, [*TASKS[env], f"query.seed={seed}"])
    return {**line, "answers_by": None if method in BASELINES else "simulated judge"}


def values(lines: list[dict[str, Any]], env: str, method: str, measure: str) -> np.ndarray:
    """Of each seed."""
    return np.array([line[f"last_{measure}"] for line in lines if (line["env"], line["method"]) == (env, method)])


def show(lines: list[dict[str, Any]]) -> None:
    """Prints a table of each measure, and what images reach of what states do; draws the returns."""
    envs = [env for env in TASKS if any(line["env"] == env for line in lines)]
    for measure, unit in (("return_mean", 1), ("success", 100)):
        print(
            f"\nlast policy, {measure}: mean ± standard deviation, seeds\n\n| simulated judge | "
            + " | ".join(env.split("/")[1] for env in envs)
            + " |"
        )
        print("|---" * (len(envs) + 1) + "|")
        for method in METHODS:
            found = [unit * values(lines, env, method, measure) for env in envs]
            cells = [
                f"{f.mean():.0f} ± {f.std(ddof=1):.0f}, {len(f)}" if len(f) > 1 else f"{f.sum():.0f}, {len(f)}"
                for f in found
            ]
            print(f"| {method} | " + " | ".join(cells) + " |")
    print(
        "\nimages / states, mean return of the same answers\n\n| wrong | "
        + " | ".join(env.split("/")[1] for env in envs)
        + " |"
    )
    print("|---" * (len(envs) + 1) + "|")
    for (name, compared), wrong in product(COMPARED.items(), WRONG):
        both = [[values(lines, env, name_of(seen, wrong), "return_mean") for seen in compared] for env in envs]
        cells = [f"{100 * i.mean() / s.mean():.0f} %" if len(s) and len(i) else "–" for i, s in both]
        print(f"| {name}, {wrong} % | " + " | ".join(cells) + " |")
    draw(lines, envs)


def draw(lines: list[dict[str, Any]], envs: list[str]) -> None:
    """Bars of the last policy's return by the share of wrong answers, each seed a dot, baselines as lines."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(envs), figsize=(4.2 * len(envs), 3.2), layout="constrained", squeeze=False)
    for axis, env in zip(axes[0], envs, strict=True):
        for i, seen in enumerate(SEEN):
            for x, wrong in enumerate(WRONG):
                found = values(lines, env, name_of(seen, wrong), "return_mean")
                if len(found):
                    place = x + 0.17 * (i - 2)
                    label = f"P-IQL, {seen}" if x == 0 else None
                    axis.bar(place, found.mean(), 0.16, color=f"C{i}", alpha=0.6, label=label)
                    axis.plot([place] * len(found), found, ".", color="0.2")
        for i, (name, style) in enumerate(zip(BASELINES, (":", "--", "-."), strict=True)):
            found = values(lines, env, name, "return_mean")
            axis.axhline(found.mean() if len(found) else np.nan, color="0.3", linestyle=style, label=name, zorder=i)
        axis.set_title(env.split("/")[1], fontsize=9)
        axis.set_xticks(range(len(WRONG)), [f"{wrong} %" for wrong in WRONG], fontsize=8)
        axis.set_xlabel("wrong answers of a simulated judge", fontsize=8)
    axes[0][0].set_ylabel("return of the last policy")
    named = {label: handle for axis in axes[0] for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(named.values(), named.keys(), fontsize=8, ncols=3, loc="outside upper center")
    figure.savefig(PICTURE, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="*", help="only these")
    parser.add_argument("--methods", nargs="*", choices=METHODS, help="only these")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--missing", action="store_true", help="only what the results have no line of")
    args = parser.parse_args()
    envs = [env for env in TASKS if not args.tasks or env.split("/")[1] in args.tasks]
    lines = offline.read_results(SUITE) if args.missing else []
    known = {(line["env"], line["method"], line["seed"]) for line in lines}
    errors: list[BaseException] = []
    for env in envs:
        order = [(env, method, seed) for seed in range(args.seeds) for method in args.methods or METHODS]
        errors += run_all([job for job in order if job not in known], args.jobs)
    show(offline.read_results(SUITE))
    if errors:
        raise SystemExit("\n".join(map(str, errors)))


def run_all(wanted: list[tuple[str, str, int]], at_once: int) -> list[BaseException]:
    """Makes runs of one task, and writes down the lines of each that ends; returns the errors."""
    if not wanted:
        return []
    prepare(env := wanted[0][0])
    with started_judges(env), ThreadPoolExecutor(at_once) as pool:
        jobs = [pool.submit(run, *job) for job in wanted]
        for job in as_completed(jobs):
            if not job.exception():
                offline.merge(SUITE, [job.result()])
    return [error for job in jobs if (error := job.exception())]


if __name__ == "__main__":
    main()

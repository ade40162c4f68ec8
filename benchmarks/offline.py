"""Suites of whole training runs: BC, 10 % BC, P-IQL, CPL and others from the same answers, three seeds each.

    python -m benchmarks.offline metaworld      # six tasks, calibrated offset data, 1,600 segments rated by regret
    python -m benchmarks.offline hopeless       # two of them, with IQL and a teacher that skips hopeless segments
    python -m benchmarks.offline iswbc          # cloning weighted by what was preferred, and by what was not
    python -m benchmarks.offline diffusion      # a cloned diffusion policy aligned by comparisons, some of them wrong
    python -m benchmarks.offline precision      # and with float32 products instead of bfloat16
    python -m benchmarks.offline locomotion     # SAC replay, 1,600 segments rated by return
    python -m benchmarks.offline gym            # two-stage methods on SAC replay, 500 pairs compared by return
    python -m benchmarks.offline mistakes       # the same with 30 % of the answers wrong, and a robust objective
    python -m benchmarks.offline answers        # from 100, 500 and 2,000 pairs
    python -m benchmarks.offline ablations      # of DTR: critic weight, reward normalization, context length
    python -m benchmarks.offline lists          # the same number of answers spent on ranked lists
    python -m benchmarks.offline true           # each learner on the true reward and on a learned one
    python -m benchmarks.offline medium         # data of one policy half as good as the SAC run's best
    python -m benchmarks.offline medium_expert  # half of it by the best
    python -m benchmarks.offline replay         # Meta-World's SAC replay, whose episodes never terminate
    python -m benchmarks.offline two_stage      # gym, mistakes, medium, medium_expert, and one table of all

Runs are ordinary `train.py` runs, `--jobs` at a time on one thread each; finished runs are not repeated. Writes
`benchmarks/results/<suite>.jsonl` (a line a run), prints a table in Markdown and draws a picture.
"""

import argparse
import hashlib
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from benchmarks import report
from benchmarks.report import RESULTS
from pbrl.data import sac_replay as sac
from pbrl.data.behaviours import Random
from pbrl.data.rollout import RolloutWorkers
from pbrl.files import to_json
from pbrl.training import evaluate

LAST = ("success", "success_at_end", "return_mean", "return_iqm", "episodes")  # of the last evaluation
LEARNED = ["reward=ensemble", "reward.steps=2000"]
PIQL = ["algo=iql", *LEARNED]
LONGER = [
    "steps=10000",
    "eval_every=10000",
    "checkpoint_every=10000",
]  # two to three million rows, as many as transformers read
LINEAR = ["algo=iql", "reward=linear"]
SMOOTHED = ["objective@reward_objective=smoothed", "reward_objective.mistake=0.1"]
STD = ["reward.normalize=std"]  # rewards of one size, however sure the model is
WRONG = ["feedback=mistake", "feedback.mistake=0.3"]
ROBUST = ["objective@reward_objective=robust", "reward_objective.mistake=0.3"]
PAIRS = ["query.kind=pair", "query.count=800"]  # of the 1,600 segments that are rated otherwise
HALF = ["algo.pretrain_steps=1500", "steps=1500"]  # as many updates as cloning alone, half of them cloning
DIFFUSION = ["policy=diffusion"]
TUNED = [*DIFFUSION, "algo.reference=true", "algo.alpha=1", "algo.lr_after=1e-4", *HALF]
ALIGNED = ["algo=cpl", *TUNED]
DIFF_CPL = [*ALIGNED, "objective=bradley_terry"]
FKPD = [*DIFF_CPL, "algo.bc_weight=32"]  # of a step: of either segment 32 / 128, where the comparison begins at 1 / 2
UAPA = ["algo=uapa", *TUNED, "objective=bradley_terry", *LEARNED, "reward.normalize=none"]  # in log-odds
CFGRL = ["algo=cfgrl", *DIFFUSION, "policy.quality=true", "steps=3000"]
METHODS = {
    "BC": ["algo=bc"],
    "10 % BC": ["algo=bc", "algo.fraction=0.1"],
    "IQL": ["algo=iql"],
    "P-IQL": PIQL,
    "P-IQL, float32": [*PIQL, "bf16=false"],
    "CPL, float32": ["algo=cpl", "bf16=false"],
    "P-IQL on returns": [*PIQL, "feedback.criterion=return", "feedback.skip=0"],
    "CPL": ["algo=cpl"],
    "ISW-BC": ["algo=iswbc"],
    "ISW-BC, pairs": ["algo=iswbc", *PAIRS],
    "ISW-BC, pairs, all wrong": ["algo=iswbc", *PAIRS, "feedback.mistake=1"],
    "CPL-BC": ["algo=cpl", "algo.bc_weight=1"],
    "IQL 10k": ["algo=iql", *LONGER],
    "P-IQL 10k": [*PIQL, *LONGER],
    "P-IQL 20k": [*PIQL, "steps=20000", "eval_every=20000", "checkpoint_every=20000"],
    "TD3+BC 10k": ["algo=td3bc", *LONGER],
    "Pb-TD3+BC 10k": ["algo=td3bc", *LEARNED, *LONGER],
    "AWAC 10k": ["algo=awac", *LONGER],
    "Pb-AWAC 10k": ["algo=awac", *LEARNED, *LONGER],
    "IPL": ["algo=ipl", "steps=4000", "eval_every=4000", "checkpoint_every=4000"],  # of 2,272 rows each
    "DPPO": ["algo=dppo", *LEARNED, "algo.pretrain_steps=2000", "objective.bias=0.1"],  # 0.5: far from the data
    "DT": ["algo=dt"],
    "Pb-DT": ["algo=dt", *LEARNED],
    "Pb-QT": ["algo=qt", *LEARNED],
    "DTR": ["algo=dtr", *LEARNED],
    "DTR, true reward": ["algo=dtr"],
    "Pb-DT, 10 steps": ["algo=dt", "algo.context=10", *LEARNED],
    "DTR, raw rewards": ["algo=dtr", *LEARNED, "reward.normalize=none"],
    "DTR, z-scores": ["algo=dtr", *LEARNED, "reward.normalize=zscore"],
    "P-IQL 10k, all wrong": [*PIQL, *LONGER, "feedback=mistake", "feedback.mistake=1"],
    "P-IQL 10k, 10 % wrong": [*PIQL, *LONGER, "feedback=mistake", "feedback.mistake=0.1"],
    "P-IQL 10k, 30 % wrong": [*PIQL, *LONGER, *WRONG],
    "P-IQL 10k, 30 % wrong, robust": [*PIQL, *LONGER, *WRONG, *ROBUST],
    "P-IQL 10k, std": [*PIQL, *LONGER, *STD],
    "P-IQL 10k, 30 % wrong, std": [*PIQL, *LONGER, *STD, *WRONG],
    "P-IQL 10k, 30 % wrong, robust, std": [*PIQL, *LONGER, *STD, *WRONG, *ROBUST],
    "DTR, 10 % wrong": ["algo=dtr", *LEARNED, "feedback=mistake", "feedback.mistake=0.1"],
    "DTR, 30 % wrong": ["algo=dtr", *LEARNED, *WRONG],
    "DTR, 30 % wrong, robust": ["algo=dtr", *LEARNED, *WRONG, *ROBUST],
    "P-IQL 10k, 100 pairs": [*PIQL, *LONGER, "query.count=100"],
    "P-IQL 10k, 2000 pairs": [*PIQL, *LONGER, "query.count=2000"],
    "DTR, 100 pairs": ["algo=dtr", *LEARNED, "query.count=100"],
    "DTR, 2000 pairs": ["algo=dtr", *LEARNED, "query.count=2000"],
    "P-IQL 10k, linear": [*LINEAR, *LONGER],
    "P-IQL 10k, linear, smoothed": [*LINEAR, *LONGER, *SMOOTHED],
    "P-IQL 10k, linear, lists": [*LINEAR, *LONGER, "query.kind=ranking"],
    "P-IQL 10k, lists": [*PIQL, *LONGER, "query.kind=ranking"],
    "P-IQL 10k, lists, Plackett-Luce": [*PIQL, *LONGER, "query.kind=ranking",
                                        "objective@reward_objective=plackett_luce"],
    "BC, diffusion": ["algo=bc", *DIFFUSION, "steps=3000"],
    "Diff-CPL": DIFF_CPL,
    "FKPD": FKPD,
    "UAPA": UAPA,
    "KTO, diffusion": [*ALIGNED, "objective=kto"],
    "SoPo": ["algo=sopo", *TUNED, "objective=bradley_terry"],
    "CFGRL": CFGRL,
    "CFGRL, guidance 3": [*CFGRL, "policy.guidance=3"],
    "P-IDQL": ["algo=idql", "policy=best_of_n", *LEARNED, "steps=3000"],
    "Diff-CPL, 25 % wrong": [*DIFF_CPL, "feedback.mistake=0.25"],
    "FKPD, 25 % wrong": [*FKPD, "feedback.mistake=0.25"],
    "Diff-CPL, 50 % wrong": [*DIFF_CPL, "feedback.mistake=0.5"],
    "FKPD, 50 % wrong": [*FKPD, "feedback.mistake=0.5"],
    "UAPA, 25 % wrong": [*UAPA, "feedback.mistake=0.25"],
    "UAPA, 50 % wrong": [*UAPA, "feedback.mistake=0.5"],
    "CFGRL, guidance 3, 50 % wrong": [*CFGRL, "policy.guidance=3", "feedback.mistake=0.5"],
}  # fmt: skip
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
        "methods": ["IQL", "P-IQL on returns", *FOUR],
        "measure": "success",
    },
    "iswbc": {
        "envs": ["metaworld/button-press", "metaworld/plate-slide"],
        "flags": ["data=offset", "feedback=regret", *SIZE],
        "methods": ["BC", "ISW-BC", "ISW-BC, pairs", "ISW-BC, pairs, all wrong"],
        "measure": "success",
    },
    "diffusion": {
        "envs": ["metaworld/button-press", "metaworld/drawer-open", "metaworld/plate-slide"],
        "flags": ["data=offset", "feedback=regret", "query.kind=pair", "query.count=2000", "eval_every=3000",
                  "checkpoint_every=500"],
        "methods": ["BC, diffusion", "Diff-CPL", "FKPD", "UAPA", "KTO, diffusion", "SoPo", "CFGRL", "CFGRL, guidance 3",
                    "P-IDQL", "Diff-CPL, 25 % wrong", "FKPD, 25 % wrong", "UAPA, 25 % wrong", "Diff-CPL, 50 % wrong",
                    "FKPD, 50 % wrong", "UAPA, 50 % wrong", "CFGRL, guidance 3, 50 % wrong"],
        "measure": "success",
    },
    "precision": {
        "envs": ["metaworld/plate-slide", "metaworld/sweep-into"],
        "flags": ["data=offset", "feedback=regret", *SIZE],
        "methods": ["P-IQL", "P-IQL, float32", "CPL", "CPL, float32"],
        "measure": "success",
    },
    "locomotion": {
        "envs": ["dm_control/walker-walk", "gym/hopper"],
        "flags": ["data=medium_replay", "feedback=perfect", "query.count=1600",
                  "steps=5000", "eval_every=2500", "checkpoint_every=2500"],
        "methods": [*FOUR, "CPL-BC"],
        "measure": "return_mean",
    },
    "gym": {
        "envs": ["gym/halfcheetah", "gym/hopper", "gym/walker2d"],
        "flags": ["data=medium_replay", "data.sac.steps=60000", "feedback=perfect", "query.kind=pair",
                  "query.count=500", "steps=6000", "eval_every=6000", "checkpoint_every=6000", "final_episodes=20"],
        "methods": ["BC", "10 % BC", "IQL 10k", "P-IQL 10k", "P-IQL 20k", "Pb-TD3+BC 10k", "IPL", "DPPO",
                    "Pb-DT", "Pb-QT", "DTR"],
        "measure": "return_mean",
    },
}  # fmt: skip
for name, methods in {  # more comparisons on the same data
    "mistakes": ["P-IQL 10k", "P-IQL 10k, 10 % wrong", "P-IQL 10k, 30 % wrong", "P-IQL 10k, 30 % wrong, robust",
                 "P-IQL 10k, all wrong",
                 "P-IQL 10k, std", "P-IQL 10k, 30 % wrong, std", "P-IQL 10k, 30 % wrong, robust, std",
                 "DTR", "DTR, 10 % wrong", "DTR, 30 % wrong", "DTR, 30 % wrong, robust"],
    "answers": ["P-IQL 10k, 100 pairs", "P-IQL 10k", "P-IQL 10k, 2000 pairs", "DTR, 100 pairs", "DTR",
                "DTR, 2000 pairs"],
    "ablations": ["Pb-DT", "Pb-DT, 10 steps", "Pb-QT", "DTR, raw rewards", "DTR, z-scores", "DTR"],
    "lists": ["P-IQL 10k", "P-IQL 10k, lists", "P-IQL 10k, lists, Plackett-Luce", "P-IQL 10k, linear",
              "P-IQL 10k, linear, smoothed", "P-IQL 10k, linear, lists"],
    "true": ["IQL 10k", "P-IQL 10k", "TD3+BC 10k", "Pb-TD3+BC 10k", "AWAC 10k", "Pb-AWAC 10k", "DT", "Pb-DT",
             "DTR, true reward", "DTR", "IPL", "DPPO"],
}.items():  # fmt: skip
    SUITES[name] = {**SUITES["gym"], "methods": methods}
SUITES["replay"] = {
    "envs": ["metaworld/button-press-topdown"],
    "flags": ["data=medium_replay", "data.sac.steps=100000", "data.sac.keep_every=10000", *SUITES["gym"]["flags"][2:]],
    "methods": ["BC", "10 % BC", "IQL 10k", "P-IQL 10k", "P-IQL 10k, lists", "P-IQL 10k, linear, lists",
                "P-IQL 10k, 30 % wrong", "P-IQL 10k, 30 % wrong, robust", "P-IQL 10k, all wrong", "DTR"],
    "measure": "return_mean",
}  # fmt: skip
for name in ("medium", "medium_expert"):
    SUITES[name] = {
        **SUITES["gym"],
        "flags": [f"data={name}", *SUITES["gym"]["flags"][1:]],
        "methods": ["BC", "10 % BC", "P-IQL 10k", "Pb-QT", "DTR"],
    }


WHOLE = {"two_stage": ["gym", "mistakes", "medium", "medium_expert"]}  # suites of one common table
COLUMNS = {  # of that table: the suite, and the ending of its methods' names
    "replay": ("gym", ""), "10 % wrong": ("mistakes", ", 10 % wrong"), "30 % wrong": ("mistakes", ", 30 % wrong"),
    "30 % wrong, robust": ("mistakes", ", 30 % wrong, robust"), "medium": ("medium", ""),
    "medium-expert": ("medium_expert", ""),
}  # fmt: skip


def run_folder(env: str, name: str, flags: list[str]) -> Path:
    """The folder of a run, shared by all suites that include it; other flags make another run."""
    digest = hashlib.sha256(json.dumps(flags).encode()).hexdigest()[:6]
    return Path("runs/benchmark") / env.split("/")[1] / f"{name}-{digest}"


def run(suite: str, env: str, method: str, seed: int, flags: list[str]) -> dict[str, Any]:
    """Trains, or reads the result of a finished run; returns a line of the results."""
    flags = [*SUITES[suite]["flags"], *METHODS[method], *flags]
    name = method.replace(" ", "").replace("%", "percent").replace(",", "-")  # a comma means more than one to Hydra
    folder = run_folder(env, f"{name}-{seed}", flags)
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
    policy, measure = result["policy"], SUITES[suite]["measure"]
    low, high = scale_of(folder)
    versions = json.loads((folder / "versions.json").read_text())
    return {
        "suite": suite, "env": env, "method": method, "seed": seed, "flags": flags, "git": versions["git"],
        "data_hash": versions["data"], "data_success": result["data"]["success"],
        "data_return": result["data"]["return_mean"],
        "data_success_at_end": result["data"]["success_at_end"],
        "random_return": low, "expert_return": high,
        **{f"last_{k}": policy["last"][k] for k in LAST},
        "best": policy["best"][measure], "measure": measure,
        "running_max": policy["running_max"] if measure == policy["measure"] else policy["last"][measure],
        "answers": result["answers"], "reward_model": result["reward_model"], "seconds": policy["seconds"],
    }  # fmt: skip


@cache
def scale(data: str) -> tuple[float, float | None]:
    """The returns that score 0 and 100 on a data set; `data` is its part of a config as JSON.

    0: the mean of twenty episodes of random actions. 100: the best policy of the SAC run that the data are of, if any.
    """
    parts = json.loads(data)
    rollouts = RolloutWorkers(parts["env"], 0).collect(Random(), evaluate.evaluation_seeds(20))
    random = evaluate.summarize(rollouts).return_mean
    if "sac" not in parts["data"]:
        return random, None
    source = {"folder": Path(parts["data_dir"]), "seed": parts["data_seed"], "workers": 0}
    return random, max(sac.evaluate_policies(parts["env"], parts["data"]["sac"], **source).values())


def scale_of(folder: Path) -> tuple[float, float | None]:
    """The same for the data of a run."""
    config = yaml.safe_load((folder / "config.yaml").read_text())
    return scale(json.dumps({k: config[k] for k in ("env", "data", "data_dir", "data_seed")}))


def prepare(suite: str, env: str, flags: list[str]) -> None:
    """Makes what all runs share: the data set, the reference values and the return of random actions, on all cores."""
    flags = [*SUITES[suite]["flags"], *flags]
    folder = run_folder(env, "answers", flags)
    command = [sys.executable, "train.py", "only=answers", "algo=cpl", f"run={folder}", f"env={env}", *flags]
    if subprocess.run(command).returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    low, high = scale_of(folder)  # cached here, since the threads that read results cannot share a simulator
    print(f"{env}: random actions return {low:.0f}" + (f", the best policy of the SAC run {high:.0f}" if high else ""))


def merge(suite: str, new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Writes the results, new ones in place of those of the same environment, method and seed; returns them all."""
    every = {(line["env"], line["method"], line["seed"]): line for line in [*read_results(suite), *new]}
    envs, methods = SUITES[suite]["envs"], [*SUITES[suite]["methods"], *METHODS]
    lines = sorted(every.values(), key=lambda k: (envs.index(k["env"]), methods.index(k["method"]), k["seed"]))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{suite}.jsonl").write_text("".join(to_json(line) + "\n" for line in lines))
    return lines


def read_results(suite: str) -> list[dict[str, Any]]:
    """The results that a suite has."""
    file = RESULTS / f"{suite}.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", choices=[*SUITES, *WHOLE], nargs="?", default="metaworld")
    parser.add_argument("flags", nargs="*", help="passed on to train.py, as in steps=20000 experiment=cpl_paper")
    parser.add_argument("--tasks", nargs="*", help="only these of the suite's tasks")
    parser.add_argument("--methods", nargs="*", choices=METHODS, help="only these methods")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    failed = [error for suite in WHOLE.get(args.suite, [args.suite]) for error in compare(suite, args)]
    if args.suite in WHOLE:
        report.overview(
            args.suite, {title: [read_results(suite), ending] for title, (suite, ending) in COLUMNS.items()}
        )
    if failed:
        raise SystemExit("\n".join(map(str, failed)))


def compare(suite: str, args: argparse.Namespace) -> list[BaseException]:
    """Runs a suite, writes and shows its results; returns the errors."""
    envs = [env for env in SUITES[suite]["envs"] if not args.tasks or env.split("/")[1] in args.tasks]
    for env in envs:
        prepare(suite, env, args.flags)
    methods = args.methods or SUITES[suite]["methods"]
    order = [(env, method, seed) for seed in range(args.seeds) for env in envs for method in methods]
    with ThreadPoolExecutor(args.jobs) as pool:
        jobs = [pool.submit(run, suite, *job, args.flags) for job in order]
    errors = [error for job in jobs if (error := job.exception())]
    report.show(suite, merge(suite, [job.result() for job in jobs if not job.exception()]))
    return errors


if __name__ == "__main__":
    main()

"""Policies from rewards of pictures, offline and online: true return, success and style on magical/grouping.

    python -m benchmarks.visual_policies                # all methods, three seeds
    python -m benchmarks.visual_policies --seeds 0 --parts offline

The data are 150 episodes of scripted experts with action noise, half of which push the pieces one after the other,
and not as a group, so that they fail. Rewards learn from 50 answers of a teacher that is right; both kinds see the
same features, of a ResNet-18 with random weights. RAPL (Tian et al. 2023, arXiv:2310.07932) is told triplets, and the
three best episodes as preferred videos; RLHF, comparisons. In the controls half of the answers, drawn at random, are
turned round, so that they say nothing.

Offline: `train.py` runs; online: `python -m pbrl.online` from the same data, on the rewards of these runs. A seed
decides which questions are asked, all networks, and the exploration. Finished runs are not repeated. Writes
`benchmarks/results/visual_policies.jsonl`, a line for a method and a seed, and prints a table in Markdown.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.report import RESULTS
from pbrl import files
from pbrl.configs import compose_config
from pbrl.data import collect
from pbrl.data.rollout import RolloutWorkers, make_environment
from pbrl.models.policy import load_policy
from pbrl.processor import processor_name
from pbrl.training.evaluate import rollout_policy, summarize
from pbrl.types import Episode

FILE = RESULTS / "visual_policies.jsonl"
FOLDER = Path("runs/benchmark/visual_policies")
TASK = ["env=magical/grouping", "data=styles", "data.behaviour.styles=[{together:1},{together:0}]",
        "data.behaviour.noise=0.3", "data.episodes=150"]  # fmt: skip
FIXED = ["threads=1", "workers=0", "video=false"]
OFFLINE = ["compare=false", "compile=never", "bf16=false", "steps=4000", "eval_every=4000", "checkpoint_every=4000",
           "log_every=1000", "eval_episodes=1", "final_episodes=1"]  # fmt: skip
ENCODER = ["reward.encoder=resnet18", "reward.weights=none", "reward.image_size=64"]
ASKED = ["feedback=perfect", "query.count=50", "query.length=100", "query.held_out=0"]
RAPL = ["algo=iql", "reward=rapl", "query.kind=triplet", *ENCODER, *ASKED]  # and preferred videos
RLHF = ["algo=iql", "reward=image", "query.kind=pair", "reward.frames=16", *ENCODER, *ASKED]
CHANCE = ["feedback.mistake=0.5"]
METHODS = {
    "BC": ["algo=bc", "feedback=none"],
    "IQL, true reward": ["algo=iql", "feedback=none"],
    "IQL, RLHF": RLHF,
    "IQL, RAPL": RAPL,
    "IQL, RLHF, answers by chance": [*RLHF, *CHANCE],
    "IQL, RAPL, answers by chance": [*RAPL, *CHANCE],
}
ONLINE = ["prior=true", "every=4", "steps=5000", "eval_every=1000", "checkpoint_every=1000", "eval_episodes=10",
          "final_episodes=1", "sac.learning_starts=100", "sac.gamma=0.97"]  # fmt: skip
REWARDS = {  # of SAC: the offline run that learnt the reward, and flags
    "SAC, true reward": ("IQL, RAPL", ["true_reward=true", "every=1"]),
    "SAC, RLHF": ("IQL, RLHF", []),
    "SAC, RAPL": ("IQL, RAPL", []),
    "SAC, RAPL, answers by chance": ("IQL, RAPL, answers by chance", []),
}
SHOWN = {"return": 1, "success": 2, "spread_at_end": 3}  # and digits
EPISODES = 50  # that a policy is judged by


def load_data(folder: str) -> list[Episode]:
    config = compose_config(*TASK)
    return collect.load_dataset(config["env"], config["data"], folder=Path(folder), seed=0, workers=0)[0]


def run(name: str, seed: int, command: list[str]) -> Path:
    """Trains, or finds the finished run; its folder. Raises RuntimeError where it fails."""
    folder = FOLDER / f"{name.replace(' ', '-').replace(',', '')}-{seed}"
    if not (folder / "result.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        whole = [sys.executable, *command, *FIXED, f"seed={seed}", f"run={folder}"]
        with open(folder / "output.txt", "w") as output:
            if subprocess.run(whole, stdout=output, stderr=output).returncode:
                raise RuntimeError(f"{' '.join(whole)} failed; see {folder / 'output.txt'}")
    return folder


def train(name: str, seed: int, data: list[Episode], data_dir: str) -> tuple[Path, list[str]]:
    """The folder of a method's run, and its flags."""
    if name in REWARDS:
        source, flags = REWARDS[name]
        before, _ = train(source, seed, data, data_dir)
        flags = [*ONLINE, *flags, f"data_dir={data_dir}"]
        return run(name, seed, ["-m", "pbrl.online", f"rewards={before}", *flags]), flags
    flags = [*TASK, *OFFLINE, *METHODS[name], f"query.seed={seed}", f"data_dir={data_dir}"]
    if "reward=rapl" in flags:
        best = np.argsort([-episode.reward.sum() for episode in data])[:3]
        flags.append(f"reward.preferred=[{','.join(map(str, best))}]")
    return run(name, seed, ["train.py", *flags]), flags


def judge(episodes: list[Episode]) -> dict[str, Any]:
    """What episodes came to. Style is how far pieces lie from their middle: over the episode, and at its end."""
    found, env = summarize(episodes), make_environment(compose_config(*TASK)["env"])
    spread = [env.measure(e.seed, e.state)["spread"] for e in episodes if e.state is not None]
    return {
        "return": round(found.return_mean, 3), "success": found.success, "success_at_end": found.success_at_end,
        "spread": round(float(np.mean(spread)), 4), "spread_at_end": round(float(np.mean([s[-1] for s in spread])), 4),
        "episodes": len(episodes),
    }  # fmt: skip


def line_of(name: str, seed: int, folder: Path, flags: list[str]) -> dict[str, Any]:
    pool = RolloutWorkers(compose_config(*TASK)["env"], 0)
    played = rollout_policy(pool, load_policy(folder / "policy.pt"), EPISODES, seed=1)
    result = json.loads((folder / "result.json").read_text())
    curve = {e["step"]: [round(e["return_mean"], 2), e["success"]] for e in result.get("evaluations", [])}
    return {
        "method": name, "seed": seed, **judge(played), "curve": curve, "flags": [*flags, *FIXED],
        "git": json.loads((folder / "versions.json").read_text())["git"], "torch": torch.__version__,
        "processor": processor_name(),
    }  # fmt: skip


def known() -> list[dict[str, Any]]:
    return [json.loads(line) for line in FILE.read_text().splitlines()] if FILE.exists() else []


def add(line: dict[str, Any]) -> None:
    """Adds a line, in the order of methods and seeds."""
    order = ["the data", *METHODS, *REWARDS]
    with files.lock(FILE):
        lines = [own for own in known() if (own["method"], own["seed"]) != (line["method"], line["seed"])]
        lines = sorted([*lines, line], key=lambda own: (order.index(own["method"]), own["seed"]))
        FILE.write_text("".join(files.to_json(own) + "\n" for own in lines))
    print(files.to_json({k: line[k] for k in line if k not in ("flags", "curve")}), flush=True)


def show(lines: list[dict[str, Any]]) -> None:
    """Prints the mean of each measure, and its standard deviation over seeds."""
    print("| | true return | success | spread at the end | seeds |\n|---|---|---|---|---|")
    for name in dict.fromkeys(line["method"] for line in lines):
        own = [line for line in lines if line["method"] == name]
        words = [in_words(own, key, digits) for key, digits in SHOWN.items()]
        print(f"| {name} | {' | '.join(words)} | {len(own)} |")


def in_words(lines: list[dict[str, Any]], key: str, digits: int) -> str:
    values = [line[key] for line in lines]
    return f"{np.mean(values):.{digits}f} ± {np.std(values):.{digits}f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--parts", nargs="+", choices=["offline", "online"], default=["offline", "online"])
    parser.add_argument("--methods", nargs="+", choices=[*METHODS, *REWARDS], default=[*METHODS, *REWARDS])
    parser.add_argument("--folder", default="datasets", help="where the data set and its features are kept")
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = load_data(args.folder)
    add({"method": "the data", "seed": 0, **judge(data)})
    wanted = [name for part, own in (("offline", METHODS), ("online", REWARDS)) for name in own if part in args.parts]
    for seed in args.seeds:
        for name in [name for name in wanted if name in args.methods]:
            if not any((line["method"], line["seed"]) == (name, seed) for line in known()):  # what was stopped goes on
                add(line_of(name, seed, *train(name, seed, data, args.folder)))
    show(known())


if __name__ == "__main__":
    main()

"""RAPL beside other rewards of pictures: rank correlation with the true preference, and speed.

    python -m benchmarks.rapl --parts speed
    python -m benchmarks.rapl --parts spearman --seeds 0 1 2
    python -m benchmarks.rapl --parts across

Videos (benchmarks/rapl_videos.py) are compared as wholes. `across`: the preferred videos and the answers are of one
embodiment, and episodes of the other one are scored.
"""

import argparse
import itertools
import json
import math
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.rapl_videos import (
    EPISODES,
    FRAMES,
    SIDE,
    TASKS,
    TRAIN,
    Videos,
    load_features,
    make_table,
    weights,
)
from benchmarks.report import RESULTS
from pbrl import api
from pbrl.configs import compose_config
from pbrl.data.table import Table, scale_of
from pbrl.models.transport import Transport
from pbrl.processor import processor_name
from pbrl.rewards.rapl import RAPL
from pbrl.run.build import build_reward
from pbrl.settings import RunSettings
from pbrl.training.batches import Data
from pbrl.training.held_out import rank_correlation

FILE = RESULTS / "rapl.jsonl"
RELEASED = 0.605  # triplets a CPU-second of the released code, which runs its encoder in each update

RANDOM = {"encoder": "resnet18", "weights": "none"}
SIMULATION = {"encoder": "resnet18", "weights": "simulation"}


class Method(NamedTuple):
    """What learns from which answers."""

    kind: str  # of question
    reward: str  # the model
    changes: dict[str, Any]  # of its settings
    is_wrong: bool = False  # every answer is the opposite of the true one
    answers_here: bool = False  # across embodiments: answers are about the one that is scored, videos of the other
    every: int = 1  # of the videos' frames, one in so many is seen
    adapts: bool = False  # features of each embodiment are standardized by those of its own 100 episodes


TRIPLETS, PAIRS = Method("triplet", "rapl", {}), Method("pair", "rapl", {"preferred": None})
RLHF = Method("pair", "image", {"image_size": SIDE})
FEW = {"steps": 100, "batch_size": 8, "frames": 8}  # what the last block can do in minutes
FEW_PAIRS = {"steps": 150, "batch_size": 16, "image_size": SIDE}
GOAL = {"align": False, "matching": "goal"}
METHODS = {
    "rapl": TRIPLETS,
    "rapl, comparisons": PAIRS,
    "rapl, released transport": Method("triplet", "rapl", {"metric": "cosine", "gamma": 1, "band": 1}),
    "frozen transport": Method("triplet", "rapl", {"align": False}),
    "frozen goal distance": Method("triplet", "rapl", GOAL),
    "tcc goal distance": Method("triplet", "rapl", {**GOAL, "encoder": "resnet18", "weights": "tcc"}),
    "rlhf": RLHF,
    "rapl, wrong answers": TRIPLETS._replace(is_wrong=True),
    "rlhf, wrong answers": RLHF._replace(is_wrong=True),
    "rapl, resnet18 random": Method("triplet", "rapl", RANDOM),
    "rapl, resnet18 simulation": Method("triplet", "rapl", SIMULATION),
    "rapl, comparisons, resnet18 random": Method("pair", "rapl", {"preferred": None, **RANDOM}),
    "rapl, comparisons, resnet18 simulation": Method("pair", "rapl", {"preferred": None, **SIMULATION}),
    "rapl, own answers": TRIPLETS._replace(answers_here=True),
    "rapl, adapted": TRIPLETS._replace(adapts=True),
    "rapl, comparisons, adapted": PAIRS._replace(adapts=True),
    "rapl, own answers, adapted": TRIPLETS._replace(answers_here=True, adapts=True),
    "rapl, wrong answers, adapted": TRIPLETS._replace(is_wrong=True, adapts=True),
    "rlhf, adapted": RLHF._replace(adapts=True),
    "frozen transport, adapted": Method("triplet", "rapl", {"align": False}, adapts=True),
    "frozen goal distance, adapted": Method("triplet", "rapl", GOAL, adapts=True),
    "rapl, few updates": Method("triplet", "rapl", FEW, every=2),
    "rapl, few updates, unfrozen": Method("triplet", "rapl", {**FEW, "unfreeze": True}, every=2),
    "rlhf, few updates": Method("pair", "image", FEW_PAIRS, every=2),
    "rlhf, few updates, unfrozen": Method("pair", "image", {**FEW_PAIRS, "unfreeze": True}, every=2),
}
METHODS |= {  # as it was before features that hardly vary were held down
    f"{name}, least spread 0": method._replace(changes={**method.changes, "least_spread": 0})
    for name, method in METHODS.items()
    if method.reward == "rapl"
}
ACROSS = {  # whose episodes are scored: whose are preferred and answered about
    "grouping": "grouping-gripper",
    "grouping-gripper": "grouping",
    "avoiding": "avoiding-gripper",
    "avoiding-gripper": "avoiding",
}


def measure_spearman(name: str, source: str, folder: Path, seed: int, count: int, method: str) -> dict[str, Any]:
    """A line: rank correlation of predicted and true returns over episodes of a task that no answer was about.

    Answers and preferred videos are of the task `source`, which is the same one, or the same of another embodiment.
    """
    kind, reward, changes, is_wrong, answers_here, every, adapts = METHODS[method]
    changes = {"encoder": "lite0", "weights": weights(), **changes}
    shuffled = np.random.default_rng(seed).permutation(EPISODES)
    train_places, test_places = shuffled[:TRAIN], shuffled[TRAIN:]
    seen = changes["encoder"], changes["weights"], changes.get("unfreeze", False), every
    here, there = (load_features(task, folder, *seen) for task in (name, source))
    train, test, own = make_table(*there, train_places), make_table(*here, test_places), None
    best = np.argsort(-train.returns)[:3].tolist()
    if answers_here:
        train = make_table(*here, train_places, beside=train)
    elif adapts:
        own = make_table(*here, train_places)
        if reward == "image":  # which standardizes nothing by itself
            test.pictures, train.pictures = standardize(test, own), standardize(train, train)
    labels = api.ask(train, kind=kind, count=count, length=FRAMES // every, seed=seed, held_out=0)
    if is_wrong:
        labels = labels._replace(value=1 - labels.value)
    given = {"preferred": best, "adapt": adapts, **changes} if reward == "rapl" else changes
    began = time.process_time()
    model = api.train_reward(train, labels, reward, seed=seed, **given)
    seconds = time.process_time() - began
    if own and isinstance(model, RAPL):
        model.adapt_to(own)
    predicted = model.label(test).mean(0)
    predicted[test.closing] = 0
    returns = predicted.reshape(len(test.ids), -1).sum(1).numpy()
    return {
        **name_line(name, source, seed, count, method),
        "spearman": round(rank_correlation(torch.from_numpy(returns), torch.from_numpy(test.returns)), 4),
        "cpu_seconds": round(seconds, 2),
    }


def standardize(table: Table, by: Table) -> torch.Tensor:
    """Features of a table less the mean of another's, and over its spread."""
    assert table.pictures is not None and by.pictures is not None
    return (table.pictures - by.pictures.mean(0)) / scale_of(by.pictures)


def is_across(method: Method) -> bool:
    """Whether it differs from another one across embodiments alone."""
    return method.answers_here or method.adapts


def name_line(name: str, source: str, seed: int, count: int, method: str) -> dict[str, Any]:
    """What a line is about, and by which it is found again."""
    part = {"part": "spearman"} if name == source else {"part": "across", "from": TASKS[source].title}
    return {**part, "task": TASKS[name].title, "method": method, "answers": count, "seed": seed}


def measure_transport() -> dict[str, Any]:
    """A line: plans of two videos of 45 frames a CPU-second."""
    random = torch.Generator().manual_seed(0)
    a, b = (torch.randn(512, 45, 32, generator=random).cumsum(1) / 45 for _ in range(2))
    found = {}
    for name, transport in {"band 0.2": Transport(), "no band": Transport(band=1.0)}.items():
        cost = transport.cost(a, b)
        cost = cost / cost.mean()
        found[name] = len(a) / fastest(lambda cost=cost, transport=transport: transport.plan(cost))
    cost = Transport().cost(a, b)
    exact = Transport(gamma=math.inf, band=1.0)
    found["exact"] = 128 / fastest(lambda: exact.plan(cost[:128]))
    return {"part": "speed", "what": "transport", "frames": 45, "threads": 1,
            "pairs_per_cpu_second": {name: round(rate) for name, rate in found.items()}}  # fmt: skip


def measure_alignment(frames: int) -> dict[str, Any]:
    """A line: triplets a CPU-second of alignment on cached features, and the seconds of all of it and of labels."""
    random = np.random.default_rng(0)
    features = random.normal(size=(EPISODES, FRAMES + 1, 1280)).astype(np.float32)
    obs, reward = np.zeros((EPISODES, FRAMES + 1, 1), np.float32), random.normal(size=(EPISODES, FRAMES))
    table = make_table(features, Videos(features, obs, reward.astype(np.float32)), np.arange(EPISODES))
    labels = api.ask(table, kind="triplet", count=150, length=FRAMES, held_out=0)
    settings = RunSettings.parse(compose_config("reward=rapl", f"reward.frames={frames}", "reward.preferred=[0,1,2]"))
    model = build_reward(settings, table.spec())
    data = Data(table, torch.Generator().manual_seed(0))
    data.set_labels(labels)
    model.measure(data)
    each = fastest(lambda: model.update(model.draw(data)), 30)
    model.choose(data)
    label = fastest(lambda: model.label(table), 2)
    rate = model.batch_size / each
    return {
        "part": "speed", "what": "alignment", "frames": frames, "threads": 1, "triplets_per_cpu_second": round(rate),
        "of_released": round(rate / RELEASED), "seconds_of_training": round(each * model.steps, 2),
        "seconds_of_labels_of_10000_frames": round(label * 1e4 / table.row_count, 2),
    }  # fmt: skip


def fastest(run: Callable[[], Any], turns: int = 5) -> float:
    """CPU-seconds of a call, the least of several after one that warms up: others use the processor too."""
    found = []
    for _ in range(turns + 1):
        began = time.process_time()
        run()
        found.append(time.process_time() - began)
    return min(found[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=["speed", "spearman", "across"], default=["speed"])
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--answers", nargs="+", type=int, default=[25, 50, 100, 150])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=Path("datasets"), help="where pictures and features are kept")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.folder.mkdir(parents=True, exist_ok=True)
    if "speed" in args.parts:
        keep([line for line in known() if line["part"] != "speed"])
        for measure in (measure_transport, partial(measure_alignment, 16), partial(measure_alignment, 32)):
            add(measure())
    tasks = [(name, name) for name in args.tasks if "spearman" in args.parts]
    tasks += [(name, ACROSS[name]) for name in args.tasks if name in ACROSS and "across" in args.parts]
    for seed, count, (name, source), method in itertools.product(args.seeds, args.answers, tasks, args.methods):
        key = name_line(name, source, seed, count, method)
        is_known = any(key.items() <= line.items() for line in known())  # a run that was stopped goes on
        if not is_known and (name != source or not is_across(METHODS[method])):
            add(measure_spearman(name, source, args.folder, seed, count, method))


def known() -> list[dict[str, Any]]:
    return [json.loads(line) for line in FILE.read_text().splitlines()] if FILE.exists() else []


def keep(lines: list[dict[str, Any]]) -> None:
    FILE.write_text("".join(json.dumps(line) + "\n" for line in lines))


def add(line: dict[str, Any]) -> None:
    about = {"processor": processor_name(), "torch": torch.__version__, "load": round(os.getloadavg()[0], 1),
             "real_weights": weights() is None}  # fmt: skip
    print(json.dumps(line), flush=True)
    keep([*known(), {**line, **about}])


if __name__ == "__main__":
    main()

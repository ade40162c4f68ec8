"""Which triplets to ask: query strategies with reward=rapl, beside triplets at random.

    python -m benchmarks.rapl_active --seeds 0 1 2

As in a run, answers come in rounds, after each of which the alignment goes on with all that there are; a strategy
chooses the next ones by what it has learnt. Rank correlations are over episodes that no answer was about.
"""

import argparse
import itertools
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.rapl import add, known
from benchmarks.rapl_videos import EPISODES, FRAMES, TASKS, TRAIN, load_features, make_table, weights
from pbrl.configs import compose_config
from pbrl.data.table import Table
from pbrl.feedback.asking import Asking
from pbrl.feedback.sources.context import Context
from pbrl.feedback.store.store import Store
from pbrl.run.build import build, build_reward
from pbrl.settings import RunSettings
from pbrl.training.batches import Data
from pbrl.training.held_out import rank_correlation
from pbrl.types import RewardModel

ROUNDS, STEPS = 5, 60  # of answers, and updates after each
STRATEGIES = [("uniform", 1), ("entropy", 1), ("k_center", 1), ("uniform", 3), ("disagreement", 3)]  # with members


def measure(name: str, folder: Path, seed: int, count: int, strategy: str, members: int) -> dict[str, Any]:
    """A line: rank correlation of predicted and true returns."""
    features, videos = load_features(name, folder, "lite0", weights())
    shuffled = np.random.default_rng(seed).permutation(EPISODES)
    train, test = (make_table(features, videos, which) for which in (shuffled[:TRAIN], shuffled[TRAIN:]))
    best = np.argsort(-train.returns)[:3].tolist()
    query = {"kind": "triplet", "count": count, "rounds": ROUNDS, "length": FRAMES, "strategy": strategy, "seed": seed}
    flags = [f"query.{key}={value}" for key, value in {**query, "held_out": 0}.items()]
    reward = ["reward=rapl", f"reward.members={members}", f"reward.steps={STEPS}", f"reward.preferred={best}"]
    reward += [f"reward.weights={weights() or 'null'}"]
    settings = RunSettings.parse(
        compose_config("feedback=perfect", *flags, *[flag.replace(" ", "") for flag in reward])
    )
    began = time.process_time()
    torch.manual_seed(seed)
    model = build_reward(settings, train.spec())
    accuracy = align(settings, train, model, seed)
    seconds = time.process_time() - began
    predicted = model.label(test).mean(0)
    predicted[test.closing] = 0
    returns = predicted.reshape(-1, FRAMES + 1).sum(1).numpy()
    return {
        **name_line(name, seed, count, strategy, members),
        "spearman": round(rank_correlation(torch.from_numpy(returns), torch.from_numpy(test.returns)), 4),
        "label_accuracy": round(accuracy, 4),
        "cpu_seconds": round(seconds, 2),
    }


def align(settings: RunSettings, table: Table, model: RewardModel, seed: int) -> float:
    """Asks all rounds, and learns after each. Returns how often the answers agree with the true returns."""
    source, store = build(settings.feedback), Store("sqlite://")
    source.start(Context(store, table, settings.query, data_dir=settings.data_dir))
    asking = Asking(table=table, query=settings.query, source=source, store=store)
    data, report = Data(table, torch.Generator().manual_seed(seed)), {}
    for round_ in range(ROUNDS):
        report = asking.ask(round_, model)
        data.set_labels(asking.labels)
        for phase in model.phases():
            if phase.before:
                phase.before(data)
            for _ in range(phase.steps):
                phase.update(phase.draw(data))
    source.stop()
    return report["label_accuracy"]


def name_line(name: str, seed: int, count: int, strategy: str, members: int) -> dict[str, Any]:
    about = {"part": "active", "task": TASKS[name].title, "strategy": strategy, "members": members}
    return {**about, "answers": count, "seed": seed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=["grouping"])
    parser.add_argument("--answers", nargs="+", type=int, default=[25, 50])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=Path("datasets"), help="where pictures and features are kept")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.folder.mkdir(parents=True, exist_ok=True)
    for seed, count, name, own in itertools.product(args.seeds, args.answers, args.tasks, STRATEGIES):
        key = name_line(name, seed, count, *own)
        if not any(key.items() <= line.items() for line in known()):  # a run that was stopped goes on
            add(measure(name, args.folder, seed, count, *own))


if __name__ == "__main__":
    main()

"""Where reward is rare, nearly all random pairs are ties: how many are left when questions are chosen?

    python -m benchmarks.ties                       # three seeds of each strategy
    python -m benchmarks.ties --seeds 0 decisive

A thousand pairs in ten rounds, answered by a scripted teacher by the true return. The data are those of the sweep-into
runs (`benchmarks.annotator`), with all episodes that fail and ten that succeed, and a reward of 1 when success is
reached for the first time: pairs of segments of 16 steps are ties but for half a per cent. The reward model is the
default ensemble, trained for 300 updates after each round; it is tested on a thousand pairs that are no ties. Writes
`benchmarks/results/ties.jsonl`, with the machine's load, and prints a table in Markdown.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from tqdm import tqdm

import sim.configs
from benchmarks.report import RESULTS
from benchmarks.rewards import CONFIGS
from pbrl.data import collect
from pbrl.data.table import Table
from pbrl.feedback import strategies
from pbrl.feedback.asking import Asking
from pbrl.feedback.questions import TIE
from pbrl.feedback.sources.context import Context
from pbrl.feedback.store.store import Store
from pbrl.files import to_json
from pbrl.run.build import build_objective
from pbrl.settings import Query
from pbrl.training.batches import Data
from pbrl.types import Episode

STRATEGIES = ("uniform", "disagreement", "k_center_disagreement", "decisive")
FLAGS = ["env=metaworld/sweep-into", "data=offset", "feedback=perfect", "reward=ensemble"]
ASK = {"kind": "pair", "count": 1000, "rounds": 10, "length": 16, "span": 16, "candidates": 200, "per_list": 1,
       "held_out": 0.0}  # fmt: skip
OBJECTIVE = {"_target_": "pbrl.objectives.bradley_terry", "_partial_": True}
SUCCEED, UPDATES, JUDGED = 10, 300, 1000


def pool(config: Any) -> Table:
    """The data, with few episodes that succeed and a reward for it."""
    source = {"folder": Path(config.data_dir), "seed": config.data_seed, "workers": 0}
    env, data = (OmegaConf.to_container(part, resolve=True) for part in (config.env, config.data))
    episodes, _ = collect.load_dataset(env, data, **source)  # type: ignore[arg-type]
    good = [e for e in episodes if first_success(e).any()]
    few = good[:SUCCEED] + [e for e in episodes if not first_success(e).any()]
    return Table([e._replace(reward=first_success(e)) for e in few])


def first_success(episode: Episode) -> np.ndarray:
    """1 in the step that ends in success for the first time [T]."""
    assert episode.success is not None
    before = np.maximum.accumulate(episode.success)
    return np.diff(before.astype(np.float32), prepend=0.0)[1:]


def measure(config: Any, table: Table, strategy: str, seed: int) -> dict[str, Any]:
    """A line of the results."""
    torch.manual_seed(seed)
    query = Query(**ASK, strategy=strategy, seed=seed)
    teacher, model = instantiate(config.feedback), instantiate(config.reward, table.spec(), build_objective(OBJECTIVE))
    data, ties = Data(table, torch.Generator().manual_seed(seed)), []
    with tempfile.TemporaryDirectory() as folder:
        store = Store(f"sqlite:///{folder}/answers.sqlite")
        teacher.start(Context(store, table, query, data_dir=Path(folder)))
        asking = Asking(table=table, query=query, source=teacher, store=store)
        for r in tqdm(range(query.rounds), desc=f"{strategy} {seed}", leave=False):
            before = asking.counts["ties"]
            asking.ask(r, model)
            ties.append(100 * (asking.counts["ties"] - before) * query.rounds / query.count)
            data.set_labels(asking.labels)
            (phase,) = model.phases()
            for _ in range(UPDATES):
                phase.update(phase.draw(data))
    anywhere = torch.Generator().manual_seed(1)
    starts = strategies.choose(
        table, n=200 * JUDGED, width=2, length=query.length, strategy="uniform", candidates=1, generator=anywhere
    )
    label, outcome = teacher.label(table, starts, query.length, np.zeros((len(starts), 2)))
    clear = np.flatnonzero(outcome != TIE)[:JUDGED]
    with torch.no_grad():
        score = model.score(table.segments(starts[clear], query.length)).mean(0)
    right = (score[:, 1] > score[:, 0]).numpy() == (label[clear] > 0.5)
    return {
        "strategy": strategy, "seed": seed, "ties_by_round": ties, "ties": float(np.mean(ties)),
        "ties_among_random": round(100 * float((outcome == TIE).mean()), 2), "right_about": len(clear),
        "accuracy": round(100 * float(right.mean()), 2), "load": [round(x, 1) for x in os.getloadavg()],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("strategies", nargs="*", default=STRATEGIES, metavar="strategy")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    sim.configs.register()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("train", FLAGS)
    table, file = pool(config), RESULTS / "ties.jsonl"
    for strategy in args.strategies:
        for seed in args.seeds:
            with open(file, "a") as results:
                results.write(to_json(measure(config, table, strategy, seed)) + "\n")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    print("|  | ties % | in the last round % | right about those that are none % |\n|---|---|---|---|")
    for strategy in dict.fromkeys(line["strategy"] for line in lines):
        own = [line for line in lines if line["strategy"] == strategy]
        found = [[line["ties"] for line in own], [line["ties_by_round"][-1] for line in own],
                 [line["accuracy"] for line in own]]  # fmt: skip
        print(f"| {strategy} | " + " | ".join(f"{np.mean(x):.0f} ± {np.std(x, ddof=1):.0f}" for x in found) + " |")


if __name__ == "__main__":
    main()

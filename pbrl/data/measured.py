"""Physical attributes of a data set's behaviour, which its environment measures from the stored states.

Each episode is measured once and kept, by its id, in a file beside the data sets; nothing is rendered or stepped.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from pbrl import files
from pbrl.data.frames import without_view
from pbrl.data.rollout import RolloutWorkers, drop_name
from pbrl.data.table import Table
from pbrl.types import Environment, UserError

VERSION = 1  # of what a value means; kept values of another one are not read
SHARE = 8  # episodes per task of a process
Measured = dict[str, np.ndarray]  # attribute: [T] of an episode, or [R] of a table


def measure_table(table: Table, workers: RolloutWorkers, folder: Path) -> Measured:
    """Every attribute that the workers' environment measures, of each row of the table [R] float64.

    NaN where a step has none, and in rows that hold no step. Raises UserError where there are no states to measure.
    """
    if table.state is None:
        raise UserError(
            "attributes are measured from simulator states, and this data has none, as where an environment cannot be "
            "restored: choose feedback=people, or feedback=stored"
        )
    ends = table.first + table.steps + 1
    states = {own: (int(seed), table.state[first:end])
              for own, seed, first, end in zip(table.ids, table.seed, table.first, ends, strict=True)}  # fmt: skip
    known = measure_episodes(states, workers, folder)
    names = list(known[table.ids[0]])
    found = {name: np.full(table.row_count, np.nan) for name in names}
    for own, first in zip(table.ids, table.first, strict=True):
        for name, values in known[own].items():
            found[name][first : first + len(values)] = values
    return found


def measure_episodes(
    states: dict[str, tuple[int, np.ndarray]], workers: RolloutWorkers, folder: Path
) -> dict[str, Measured]:
    """The seeds and states of episodes, by their ids → their attributes, by their ids; kept in `folder`."""
    made_of = json.dumps({"version": VERSION, "env": drop_name(without_view(workers.env))}, sort_keys=True)
    path = Path(folder) / f"attributes-{hashlib.sha256(made_of.encode()).hexdigest()[:10]}.pt"
    known = _load(path)
    missing = [own for own in states if own not in known]
    if not missing:
        return known
    shares = [missing[i : i + SHARE] for i in range(0, len(missing), SHARE)]
    with tqdm(total=len(missing), desc="measuring attributes", unit="episode") as bar:
        for i, found in workers.map(_measure, [[states[own] for own in share] for share in shares]):
            known.update(zip(shares[i], found, strict=True))
            bar.update(len(found))
    path.parent.mkdir(parents=True, exist_ok=True)  # with data=file it may not exist yet
    with files.lock(path):  # by other runs on this environment, too
        known = {**_load(path), **known}
        files.save(path, {own: {name: torch.from_numpy(x) for name, x in one.items()} for own, one in known.items()})
    return known


def _load(path: Path) -> dict[str, Measured]:
    kept = files.load(path, torch.device("cpu")) or {}
    return {own: {name: values.numpy() for name, values in one.items()} for own, one in kept.items()}


def _measure(envs: Sequence[Environment], share: Sequence[tuple[int, np.ndarray]]) -> list[Measured]:
    return [{k: np.asarray(v, np.float64) for k, v in envs[0].measure(*one).items()} for one in share]


def mean_over(values: np.ndarray, rows: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """values [R] at rows [..., L] → their mean, weighted by `weights` [L], over the steps that have one [...].

    NaN where none has.
    """
    found = values[rows]
    known = ~np.isnan(found) * (1.0 if weights is None else weights)  # [..., L]
    total = known.sum(-1)
    return (np.nan_to_num(found) * known).sum(-1) / np.where(total > 0, total, np.nan)

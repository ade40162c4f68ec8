"""D4RL-style HDF5 files → episodes (Fu et al. 2020, arXiv:2004.07219)."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from pbrl.data.action_bounds import ActionUnits
from pbrl.data.inspection import (
    DataSet,
    Names,
    Raw,
    inspect,
    refuse_non_finite,
    to_column,
    to_flags,
    to_numbers,
    to_vectors,
)
from pbrl.data.opening import open_hdf5
from pbrl.types import Episode, UserError

NAMES = Names("observations", "actions", "rewards")
NEEDED = ("observations", "actions", "rewards", "terminals")
SAME = 1e-4  # of a column's standard deviation: next observations this close to the next row are that row
UNORDERED = 0.5  # a larger share of steps that do not lead to the next row: the rows are in no order


class Flat(NamedTuple):
    """What a D4RL file holds: N steps, one episode after the other."""

    obs: np.ndarray  # [N, O]
    action: np.ndarray  # [N, …]
    reward: np.ndarray  # [N]
    terminal: np.ndarray  # [N] bool
    timeout: np.ndarray  # [N] bool
    after: np.ndarray | None  # [N, O], next observations, where the file has them
    jump: np.ndarray  # [N] bool: nothing ends here by the file's marks, and yet it does not lead to the next row

    def episodes(self) -> Iterator[slice]:
        """The steps of each episode. Without `after`, where a timeout's step led is unknown, and it is left out."""
        start = 0
        for end in [*np.flatnonzero(self.terminal | self.timeout | self.jump), len(self.reward) - 1]:
            known = self.terminal[end] or self.after is not None  # a true terminal's end is never used
            steps = slice(start, int(end) + int(known))
            start = int(end) + 1
            if steps.stop > steps.start:
                yield steps


def _read_flat(path: Path) -> Flat:
    with open_hdf5(path) as file:
        arrays = {name: _read_array(path, file, name) for name in (*NEEDED, "timeouts")}
        if "next_observations" in file:
            arrays["next_observations"] = _read_array(path, file, "next_observations")
    steps = len(arrays["rewards"])
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise UserError(f"{path} has arrays of different lengths ({found}): which rows belong together is unknown")
    if not steps:
        raise UserError(f"{path} holds no step: its arrays are empty")
    obs = to_vectors(path, "observations", arrays["observations"])
    after = arrays.get("next_observations")
    after = None if after is None else to_vectors(path, "next_observations", after)
    if after is not None and after.shape != obs.shape:
        raise UserError(f"{path}: observations {obs.shape} and next_observations {after.shape} differ in shape")
    terminal, timeout = (to_flags(path, name, arrays[name]) for name in ("terminals", "timeouts"))
    flat = Flat(
        obs,
        arrays["actions"],
        to_column(path, "rewards", arrays["rewards"]),
        terminal,
        timeout,
        after,
        terminal & False,
    )
    _check_finite(path, flat)
    return flat._replace(jump=_find_jumps(path, flat))


def _read_array(path: Path, file: h5py.File, name: str) -> np.ndarray:
    found = file.get(name)
    if isinstance(found, h5py.Dataset) and found.ndim:
        return to_numbers(path, name, found[()])
    if name == "timeouts" and found is None:
        raise UserError(
            f"{path} has no timeouts, so the ends of its episodes are unknown: take D4RL's v2, or add the array"
        )
    what = "is no array of rows" if found is not None else "is missing"
    raise UserError(f"{path} is no D4RL file: {name} {what}; it holds {', '.join(file) or 'nothing'}")


def _check_finite(path: Path, flat: Flat) -> None:
    ends = np.flatnonzero(flat.terminal | flat.timeout)

    def locate(name: str) -> Callable[[int], str]:
        def where(row: int) -> str:
            episode = int(np.searchsorted(ends, row))
            step = row - (int(ends[episode - 1]) + 1 if episode else 0)
            return f"{path}, episode {episode}, step {step} (row {row}): {name}"

        return where

    parts = {"observations": flat.obs, "actions": flat.action, "rewards": flat.reward, "next_observations": flat.after}
    for name, array in parts.items():
        if array is not None:
            refuse_non_finite(array, locate(name))


def _find_jumps(path: Path, flat: Flat) -> np.ndarray:
    """Where an episode ends that no mark ends: its next observation is not the next row. [N] bool.

    Raises UserError where most rows do not lead to the next one.
    """
    jump = np.zeros(len(flat.reward), bool)
    if flat.after is None or len(jump) < 2:
        return jump
    tolerance = SAME * flat.obs.std(0, dtype=np.float64)
    tolerance += 1e-6 * np.abs(flat.obs).max(0).astype(np.float64)
    if flat.obs.dtype != flat.after.dtype:  # one of them was rounded
        coarse = max(np.finfo(part.dtype).eps for part in (flat.obs, flat.after) if part.dtype.kind == "f")
        tolerance += coarse * np.abs(flat.obs).max(0).astype(np.float64)
    near = np.abs(flat.after[:-1].astype(np.float64) - flat.obs[1:]) <= tolerance
    marked = flat.terminal | flat.timeout
    jump[:-1] = ~near.all(1) & ~marked[:-1]
    unmarked = int((~marked[:-1]).sum())
    if jump.sum() > max(1, UNORDERED * unmarked):
        raise UserError(
            f"{path}: next_observations differ from the next row after {jump.sum()} of {unmarked} steps, so rows are "
            "not in the order of time, or next_observations are something else: sort the rows, or leave them out"
        )
    return jump


def read_d4rl(path: Path, units: ActionUnits) -> DataSet:
    """Episodes of flat arrays observations, actions, rewards, terminals, timeouts and, mostly, next_observations.

    Where next_observations are not the next row, an episode ends, whether it is marked or not. Raises UserError where
    an array is missing, does not fit the others, or holds what cannot be learnt from.
    """
    flat = _read_flat(path)
    raw = [
        Raw(
            f"episode {i} (from row {steps.start})",
            Episode(
                seed=0,
                obs=np.concatenate([flat.obs[steps], _last_observation(flat, steps.stop - 1)[None]]),
                action=flat.action[steps],
                reward=flat.reward[steps],
                terminated=bool(flat.terminal[steps.stop - 1]),
                source="d4rl",
            ),
        )
        for i, steps in enumerate(flat.episodes())
    ]
    return inspect(path, raw, NAMES, units, notes=_notes(flat))


def _notes(flat: Flat) -> list[str]:
    found = int(flat.jump.sum())
    if found:
        return [f"{found} ends of episodes are marked nowhere; next_observations show them: episodes are cut there"]
    lost = _count_lost(flat)
    if lost:
        return [f"{lost} episodes of a single step are left out: without next_observations, where it led is unknown"]
    if not (flat.terminal | flat.timeout)[:-1].any() and flat.after is None:
        return [
            f"no end of an episode is marked, and there are no next_observations: {len(flat.reward):,} steps are one"
        ]
    return []


def _count_lost(flat: Flat) -> int:
    """How many episodes have no step whose next observation is known."""
    ends = flat.terminal | flat.timeout | flat.jump
    return int(ends[:-1].sum()) + 1 - sum(1 for _ in flat.episodes())


def _last_observation(flat: Flat, last: int) -> np.ndarray:
    """The observation after an episode's last step; of a true terminal, where it is not known, the one before."""
    if flat.after is not None:
        return flat.after[last]
    return flat.obs[last if flat.terminal[last] else last + 1]


def d4rl_rows(path: Path) -> np.ndarray:
    """The row in a `Table` of this file of each transition that D4RL's `qlearning_dataset` lists: [M] int64.

    That list leaves out the file's last step, timeouts and, where next observations are missing, true terminals; the
    published answers count in it. Where the table holds no such step the row is -1.
    """
    flat = _read_flat(path)
    rows, first = np.full(len(flat.reward), -1), 0
    for steps in flat.episodes():
        count = steps.stop - steps.start
        rows[steps] = first + np.arange(count)
        first += count + 1
    left_out = flat.timeout | flat.terminal if flat.after is None else flat.timeout
    return rows[:-1][~left_out[:-1]]

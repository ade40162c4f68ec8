"""D4RL-style HDF5 files → episodes (Fu et al. 2020, arXiv:2004.07219)."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from pbrl.types import Episode, UserError


class Flat(NamedTuple):
    """What a D4RL file holds: N steps, one episode after the other."""

    obs: np.ndarray  # [N, O]
    action: np.ndarray  # [N, A]
    reward: np.ndarray  # [N]
    terminal: np.ndarray  # [N] bool
    timeout: np.ndarray  # [N] bool
    after: np.ndarray | None  # [N, O], next observations, where the file has them

    def episodes(self) -> Iterator[slice]:
        """The steps of each episode. Without `after`, where a timeout's step led is unknown, and it is left out."""
        start = 0
        for end in [*np.flatnonzero(self.terminal | self.timeout), len(self.reward) - 1]:
            known = self.terminal[end] or self.after is not None  # a true terminal's end is never used
            steps = slice(start, int(end) + int(known))
            start = int(end) + 1
            if steps.stop > steps.start:
                yield steps


def _read_flat(path: Path) -> Flat:
    with h5py.File(path) as file:
        try:
            obs, action, reward, terminal = (
                np.asarray(file[k]) for k in ("observations", "actions", "rewards", "terminals")
            )
        except KeyError as error:
            raise UserError(f"{path} is no D4RL file: {error}") from error
        if "timeouts" not in file:
            raise UserError(
                f"{path} has no timeouts, so the ends of its episodes are unknown: take D4RL's v2, or add the array"
            )
        timeout = np.asarray(file["timeouts"])
        after = np.asarray(file["next_observations"]) if "next_observations" in file else None
    return Flat(obs, action, reward.ravel(), terminal.astype(bool).ravel(), timeout.astype(bool).ravel(), after)


def read_d4rl(path: Path) -> list[Episode]:
    """Episodes of flat arrays observations, actions, rewards, terminals, timeouts and, mostly, next_observations.

    Raises UserError where an array is missing.
    """
    flat = _read_flat(path)
    return [
        Episode(
            seed=0,
            obs=np.concatenate([flat.obs[steps], _last_observation(flat, steps.stop - 1)[None]]).astype(np.float32),
            action=np.clip(flat.action[steps], -1, 1).astype(np.float32),
            reward=flat.reward[steps].astype(np.float32),
            terminated=bool(flat.terminal[steps.stop - 1]),
            source="d4rl",
        )
        for steps in flat.episodes()
    ]


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

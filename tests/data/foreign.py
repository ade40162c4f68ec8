"""Data sets as other programs write them: D4RL's HDF5 and Minari folders, made up."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import minari
import numpy as np
from gymnasium.spaces import Box, Space
from minari.data_collector import EpisodeBuffer

LENGTHS = (40, 50, 60)


def d4rl_arrays(lengths: Sequence[int] = LENGTHS, terminal: Sequence[int] = (), seed: int = 0) -> dict[str, np.ndarray]:
    """Episodes of these lengths, of 4 numbers an observation and 2 an action; those of `terminal` end truly."""
    random = np.random.default_rng(seed)
    obs = [np.cumsum(0.1 * random.standard_normal((length + 1, 4)), 0) for length in lengths]
    last = [np.arange(length) == length - 1 for length in lengths]
    arrays = {
        "observations": np.concatenate([o[:-1] for o in obs]).astype(np.float32),
        "next_observations": np.concatenate([o[1:] for o in obs]).astype(np.float32),
        "actions": np.tanh(random.standard_normal((sum(lengths), 2))).astype(np.float32),
        "rewards": random.standard_normal(sum(lengths)).astype(np.float32),
        "terminals": np.concatenate([end & (i in terminal) for i, end in enumerate(last)]),
        "timeouts": np.concatenate([end & (i not in terminal) for i, end in enumerate(last)]),
    }
    return arrays


def write_d4rl(path: Path, arrays: dict[str, Any]) -> Path:
    """The file; what is None is left out."""
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            if array is not None:
                file[name] = array
    return path


def write_minari_set(root: Path, actions: np.ndarray, space: Space, **more: Any) -> Path:
    """A data set of three episodes with these actions [T, …] each; `more` are arrays that take the place of others."""
    steps = len(actions)
    random, ends = np.random.default_rng(0), np.arange(steps) == steps - 1
    given = {
        "observations": random.standard_normal((steps + 1, 4)).astype(np.float32),
        "rewards": random.random(steps),
        "terminations": np.zeros(steps, bool),
        **more,
    }
    buffers = [EpisodeBuffer(id=i, actions=actions, truncations=ends, **given) for i in range(3)]
    before = os.environ.get("MINARI_DATASETS_PATH")
    os.environ["MINARI_DATASETS_PATH"] = str(root)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            minari.create_dataset_from_buffers(
                "lab/mine-v0", buffers, action_space=space, algorithm_name="x", author="x", author_email="x",
                observation_space=Box(-np.inf, np.inf, given["observations"].shape[1:], np.float32),
                code_permalink="x", description="made up",
            )  # fmt: skip
    finally:
        os.environ.pop("MINARI_DATASETS_PATH")
        if before is not None:
            os.environ["MINARI_DATASETS_PATH"] = before
    return root / "lab" / "mine-v0"

"""Runs on a point that walks, whose rewards serve online training; and vectorised environments of such points."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pbrl.configs import compose_config
from pbrl.data import episodes as storage
from pbrl.run import report
from pbrl.run import train as run
from pbrl.types import Episode
from tests import toy

POINT = {"_target_": "tests.toy.Point"}
SMALL = [
    "algo=iql", "algo.hidden=[8]", "feedback=perfect", "query.kind=pair", "query.count=60", "query.length=8", "steps=1",
    "log_every=1", "eval_every=1", "checkpoint_every=1", "eval_episodes=1", "final_episodes=1", "workers=0",
    "threads=1", "video=false", "compile=never", "compare=false", "query.held_out=0",
]  # fmt: skip
KINDS = {
    "states": ["reward=ensemble", "reward.steps=100", "reward.hidden=[16]"],
    "pixels": ["reward=image", "reward.steps=20", "reward.image_size=48", "reward.channels=[4,4,4,4]",
               "reward.members=2", "reward.stack=2", "reward.lr=1e-2", "reward.camera=above"],
    "rapl": ["reward=rapl", "reward.steps=2", "reward.image_size=16", "reward.encoder=resnet18", "reward.weights=none",
             "reward.frames=4", "reward.embedding=8", "reward.preferred=[0,1]", "reward.camera=above"],
}  # fmt: skip


def write_run(kind: str) -> Callable[[Path], object]:
    """Writes a run that learns a reward of this kind into a folder, with its data beside it."""

    def write(folder: Path) -> None:
        storage.write(folder / "learnt", toy.episodes(20 if kind == "states" else 8), {})
        data = {"name": "file", "path": str(folder / "learnt")}
        own = {"env": POINT, "data": data, "data_dir": str(folder), "run": str(folder / "run")}
        with pytest.MonkeyPatch.context() as patch:  # of its files, only the checkpoint is read
            patch.setattr(report, "write_page", lambda folder: folder)
            patch.setattr(report, "plot", lambda folder: None)
            run.train({**compose_config(*SMALL, *KINDS[kind]), **own})

    return write


def online_config(rewards: Path, folder: Path, *flags: str, **changes: Any) -> dict[str, Any]:
    """What `python -m pbrl.online` would run with, made small."""
    small = ["steps=120", "eval_every=60", "checkpoint_every=60", "eval_episodes=2", "final_episodes=3", "workers=0",
             "threads=1", "device=cpu", "video=false", "sac.hidden=[16]", "sac.learning_starts=40",
             "sac.batch_size=16"]  # fmt: skip
    own = compose_config(*small, f"rewards={rewards}", f"run={folder}", *flags, name="online")
    return {**own, **changes}


def hindsight(episodes: list[Episode]) -> list[np.ndarray]:
    """A reward that is not known before an episode has ended: a hundred times its steps, and the place after each."""
    return [100.0 * len(e.action) + e.obs[1:, 0] for e in episodes]

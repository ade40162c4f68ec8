"""Pictures of the videos that a reward of likeness prefers: where a run names them, and they are still kept."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pbrl.data.episodes import read_dataset, read_provenance
from pbrl.data.frames import images_path
from pbrl.data.table import Table
from pbrl.rewards.pictures import find_camera
from pbrl.rewards.preferred import Pick, name_rows


def find_preferred_pictures(config: Mapping[str, Any], dataset: str | None) -> list[np.ndarray] | None:
    """The pictures [T + 1, H, W, 3] of each video that the reward of a run's config names; None where there are none.

    `dataset` is the content hash of what the run has learnt from. Nothing is collected or rendered for it.
    """
    reward = config["reward"]
    place = _find_dataset(config, dataset) if reward.get("preferred") else None
    if place is None:
        return None
    env, content = config["env"], dataset
    if reward.get("preferred_from"):
        provenance = read_provenance(place) or {}
        env, content = provenance["recipe"]["env"], provenance["content_hash"]
    camera = reward["camera"] or find_camera(env)
    path = images_path({**env, "image_size": reward["image_size"]}, camera, str(content), Path(config["data_dir"]))
    if not path.exists():
        return None
    pictures, pick = np.load(path, mmap_mode="r"), Pick(reward["preferred"], reward["videos"])
    found = name_rows(Table(read_dataset(place).episodes), pick)
    return [pictures[first : first + steps + 1] for first, steps in found]


def _find_dataset(config: Mapping[str, Any], dataset: str | None) -> Path | None:
    """Where the data set lies that the preferred videos are of."""
    named = config["reward"].get("preferred_from") or config["data"].get("path")
    if named:
        return Path(named).expanduser()
    for record in sorted(Path(config["data_dir"]).glob("*/provenance.json")):
        if (read_provenance(record.parent) or {}).get("content_hash") == dataset:
            return record.parent
    return None

"""Collecting data sets: a behaviour is rolled out in an environment, in parallel processes, once, and reused after.

`python train.py env=… data=… only=data` makes one without training. The folder's name carries a hash of the recipe;
`provenance.json` in the folder says how it was made.
"""

import hashlib
import json
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from tqdm import tqdm

from pbrl import files
from pbrl.data import calibration
from pbrl.data import episodes as storage
from pbrl.data.action_bounds import ActionUnits, Bounds
from pbrl.data.frames import without_view
from pbrl.data.inspection import DataSet
from pbrl.data.rollout import RolloutWorkers, drop_name, episode_seeds, make_environment
from pbrl.types import Episode, UserError


def load_dataset(
    env: dict[str, Any], data: dict[str, Any], *, folder: Path, seed: int, workers: int
) -> tuple[list[Episode], str]:
    """The episodes that `data` describes for `env`, and their content hash; see `load_inspected`. Raises UserError."""
    found, content_hash = load_inspected(env, data, folder=folder, seed=seed, workers=workers)
    return found.episodes, content_hash


def load_inspected(
    env: dict[str, Any], data: dict[str, Any], *, folder: Path, seed: int, workers: int
) -> tuple[DataSet, str]:
    """The data set that `data` describes for `env`, and its content hash: read if it is there, else collected.

    It is collected without images, which are rendered afterwards (see frames.py), so the data are the same.

    `data` has either `path`, an existing Minari folder, folder of videos or D4RL file, perhaps with the bounds of its
    actions, or `behaviour`, `episodes` and perhaps `success`, to which the behaviour's strength is calibrated, or
    `sac`, a training run to take them from. Raises UserError.
    """
    if data.get("path"):
        found = storage.read_dataset(Path(data["path"]).expanduser(), action_units(env, data))
        return found, storage.content_hash(found.episodes)
    if not data.get("episodes", 1) > 0:
        raise UserError("data.episodes must be at least 1")
    env = without_view(env)
    recipe = {"env": env, "data": data, "seed": seed}
    if data.get("success") is not None:
        recipe["calibration"] = [calibration.EPISODES, calibration.STEPS]
    path = dataset_path(recipe, folder)
    if not path.exists():
        if data.get("behaviour"):
            instantiate(data["behaviour"])  # says what is wrong with it before anything is made
        with files.lock(path):  # runs of a sweep make it once
            if not path.exists():
                episodes, content_hash = _collect_and_write(recipe, path, workers)
                return DataSet(episodes, str(path)), content_hash
    found = storage.read_dataset(path)
    provenance = storage.read_provenance(path)
    if provenance is None:
        raise UserError(
            f"{path} has no provenance.json, so how it was made is unknown: delete it, and it is made again"
        )
    return found, provenance["content_hash"]


def action_units(env: dict[str, Any], data: dict[str, Any]) -> ActionUnits:
    """What the settings say of a data set's actions: stated bounds, and those of the environment. Raises UserError."""
    clip = data.get("clip_actions", False)
    if not isinstance(clip, bool):
        raise UserError(f"data.clip_actions={clip} is true or false")

    def bounds() -> Bounds | None:
        if not env.get("_target_"):  # videos are shown without one
            return None
        environment = make_environment(without_view(env))
        environment.close()
        return Bounds(*environment.action_bounds, "the environment's bounds")

    return ActionUnits(data.get("action_low"), data.get("action_high"), clip, cache(bounds))


def _collect_and_write(recipe: dict[str, Any], path: Path, workers: int) -> tuple[list[Episode], str]:
    began = time.monotonic()
    env, data, seed = recipe["env"], recipe["data"], recipe["seed"]
    with tempfile.TemporaryDirectory(prefix=".frames-", dir=path.parent) as videos:
        if "sac" in data:
            from pbrl.data.sac_replay import collect_from_sac

            episodes, found = collect_from_sac(
                env, data, folder=path.parent, seed=seed, workers=workers, videos=Path(videos)
            )
        else:
            episodes, found = collect_episodes(env, data, seed=seed, workers=workers, videos=Path(videos))
        seconds = round(time.monotonic() - began, 1)
        provenance = storage.write(path, episodes, {**recipe, **found, "seconds": seconds})
    if any(episode.video is not None for episode in episodes):
        episodes = storage.read(path)  # their videos lie there now
    return episodes, provenance["content_hash"]


def dataset_path(recipe: dict[str, Any], folder: Path) -> Path:
    """Where the data set of a recipe lives: the names of environment and recipe, and a hash of all settings."""
    name = recipe["env"].get("name") or recipe["env"].get("task", "env")
    made_of = {**recipe, "env": drop_name(recipe["env"])}
    digest = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:10]
    return Path(folder) / f"{name.replace('/', '-')}-{recipe['data']['name']}-{digest}"


def collect_episodes(
    env: dict[str, Any], data: dict[str, Any], *, seed: int, workers: int, videos: Path | None = None
) -> tuple[list[Episode], dict[str, Any]]:
    """Rolls the behaviour out for `data["episodes"]` episodes; `videos` is a folder for frames that must be kept.

    Returns them, and what was found out on the way.
    """
    pool = RolloutWorkers(env, workers)
    try:
        behaviour = dict(data["behaviour"])
        found: dict[str, Any] = {}
        if data.get("success") is not None and behaviour.get("strength") is None:
            about = behaviour, data["success"], seed
            strength, curve = calibration.find_known(env, *about) or calibration.calibrate(pool, *about)
            found = {"strength": strength, "curve": curve}
            behaviour["strength"] = strength
        seeds = episode_seeds(seed, data["episodes"])
        with tqdm(total=len(seeds), desc=f"collecting {data['name']}", unit="episode") as bar:
            progress: Callable[[int], Any] = bar.update
            episodes = pool.collect(instantiate(behaviour), seeds, progress, videos)
        return episodes, {**found, "behaviour": behaviour}
    finally:
        pool.close()

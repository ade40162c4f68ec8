"""Making data sets: a behaviour is rolled out in an environment, in parallel processes, once, and reused ever after.

`python train.py env=… data=… only=data` makes one without training. The folder's name carries a hash of the recipe;
what is in the folder says how it was made.
"""

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from hydra.utils import instantiate
from tqdm import tqdm

from pbrl import files
from pbrl.data import episodes as storage
from pbrl.data.frames import blind
from pbrl.data.rollout import Players, episode_seeds
from pbrl.types import Episode, UserError

CALIBRATION_EPISODES, CALIBRATION_STEPS = 80, 7


def dataset(
    env: dict[str, Any], data: dict[str, Any], *, folder: Path, seed: int, workers: int
) -> tuple[list[Episode], str]:
    """The episodes that `data` describes for `env`, and their content hash: read if they are there, else made.

    Nobody looks while they are made: images are rendered afterwards (pbrl/frames.py), and the data are the same.

    `data` has either `path`, an existing Minari folder, folder of videos or D4RL file, or `behaviour`, `episodes` and
    perhaps `success`, to which the behaviour's level is calibrated, or `sac`, a training run to take them from.
    """
    if data.get("path"):
        episodes = storage.read(Path(data["path"]).expanduser())
        return episodes, storage.content_hash(episodes)
    if not data.get("episodes", 1) > 0:
        raise UserError("data.episodes must be at least 1")
    env = blind(env)
    recipe = {"env": env, "data": data, "seed": seed}
    if data.get("success") is not None:
        recipe["calibration"] = [CALIBRATION_EPISODES, CALIBRATION_STEPS]
    path = dataset_path(recipe, folder)
    if not path.exists():
        if data.get("behaviour"):
            instantiate(data["behaviour"])  # says what is wrong with it before anything is made
        with files.lock(path):  # runs of a sweep make it once
            if not path.exists():
                return made(env, data, recipe, path, seed=seed, workers=workers)
    episodes = storage.read(path)
    provenance = storage.read_provenance(path)
    assert provenance is not None
    return episodes, provenance["content_hash"]


def made(
    env: dict[str, Any], data: dict[str, Any], recipe: dict[str, Any], path: Path, *, seed: int, workers: int
) -> tuple[list[Episode], str]:
    """The same, newly made and written to `path`."""
    began = time.monotonic()
    if "sac" in data:
        from pbrl.data.sac_replay import episodes_of_run

        episodes, extra = episodes_of_run(env, data, folder=path.parent, seed=seed, workers=workers)
    else:
        episodes, extra = play(env, data, seed=seed, workers=workers)
    provenance = storage.write(path, episodes, {**recipe, **extra, "seconds": round(time.monotonic() - began, 1)})
    return episodes, provenance["content_hash"]


def dataset_path(recipe: dict[str, Any], folder: Path) -> Path:
    """Where the data set of a recipe lives."""
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:10]
    simulator = recipe["env"]["_target_"].split(".")[1]
    return Path(folder) / f"{simulator}-{recipe['env'].get('task', 'env')}-{recipe['data']['name']}-{digest}"


def play(env: dict[str, Any], data: dict[str, Any], *, seed: int, workers: int) -> tuple[list[Episode], dict[str, Any]]:
    """Rolls the behaviour out for `data["episodes"]` episodes; returns them, and what was found out on the way."""
    players = Players(env, workers)
    try:
        behaviour = dict(data["behaviour"])
        found: dict[str, Any] = {}
        if data.get("success") is not None and behaviour.get("level") is None:
            behaviour["level"], curve = calibrate(players, behaviour, data["success"], seed)
            found = {"level": behaviour["level"], "calibration": curve}
        seeds = episode_seeds(seed, data["episodes"])
        with tqdm(total=len(seeds), desc=f"collecting {data['name']}", unit="episode") as bar:
            episodes = players.play_all(instantiate(behaviour), seeds, lambda n: bar.update(n))
        return episodes, {**found, "behaviour": behaviour}
    finally:
        players.close()


def calibrate(players: Players, behaviour: dict[str, Any], wished: float, seed: int) -> tuple[float, list[list[float]]]:
    """Bisects the behaviour's level until its success is what is wished; returns it and all (level, success) tried.

    The same episodes are played at each level. Raises UserError if the environment knows no success.
    """
    low, high = 0.0, instantiate({**behaviour, "level": 0.0}).max_level
    seeds = episode_seeds(seed + 1, CALIBRATION_EPISODES)
    curve: list[list[float]] = []
    for _ in tqdm(range(CALIBRATION_STEPS), desc=f"calibrating to {wished:.0%} success", unit="level"):
        level = 0.5 * (low + high)
        episodes = players.play_all(instantiate({**behaviour, "level": level}), seeds)
        if episodes[0].success is None:
            raise UserError("data.success needs an environment that knows success: set data.behaviour.level instead")
        success = float(np.mean([e.success.any() for e in episodes]))  # type: ignore[union-attr]
        curve.append([level, success])
        if abs(success - wished) < 0.5 / CALIBRATION_EPISODES:
            break
        low, high = (level, high) if success > wished else (low, level)
    level, success = min(curve, key=lambda point: abs(point[1] - wished))
    return level, curve

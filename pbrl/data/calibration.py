"""Calibrating a behaviour: how strongly an expert is corrupted for a share of its episodes to succeed.

    python -m pbrl.data.calibration datasets    # takes up what the data sets of a folder were calibrated to

What was found before is kept in `calibrations.json`, so that a first run need not wait for it. It holds for the
versions of the simulators that it was found with, and is left aside with others.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from hydra.utils import instantiate
from tqdm import tqdm

from pbrl.data import episodes as storage
from pbrl.data.rollout import RolloutWorkers, drop_name, episode_seeds
from pbrl.types import UserError

EPISODES, STEPS = 80, 7
KNOWN = Path(__file__).with_name("calibrations.json")
SIMULATORS = ("mujoco", "metaworld", "dm-control", "gymnasium")


def calibrate(
    pool: RolloutWorkers, behaviour: dict[str, Any], target: float, seed: int
) -> tuple[float, list[list[float]]]:
    """Bisects the behaviour's strength for the target success rate; returns it and all (strength, success) tried.

    The same episodes are rolled out at each strength. Raises UserError if the environment reports no success.
    """
    low, high = 0.0, instantiate({**behaviour, "strength": 0.0}).max_strength
    seeds = episode_seeds(seed + 1, EPISODES)
    curve: list[list[float]] = []
    for _ in tqdm(range(STEPS), desc=f"calibrating to {target:.0%} success", unit="step"):
        strength = 0.5 * (low + high)
        episodes = pool.collect(instantiate({**behaviour, "strength": strength}), seeds)
        if episodes[0].success is None:
            raise UserError(
                "data.success needs an environment that reports success: set data.success=null and "
                "data.behaviour.strength instead"
            )
        success = float(np.mean([e.success.any() for e in episodes]))  # type: ignore[union-attr]
        curve.append([strength, success])
        if abs(success - target) < 0.5 / EPISODES:
            break
        low, high = (strength, high) if success > target else (low, strength)
    strength, success = min(curve, key=lambda point: abs(point[1] - target))
    return strength, curve


def find_known(
    env: dict[str, Any], behaviour: dict[str, Any], target: float, seed: int, known: Path = KNOWN
) -> tuple[float, list[list[float]]] | None:
    """What `calibrate` found before for the same episodes in the same simulators; None: nothing did."""
    wanted = _identify(env, behaviour, target, seed, storage.versions())
    found = (one["found"] for one in json.loads(known.read_text()) if one["of"] == wanted)
    return next(((one["strength"], one["curve"]) for one in found), None)


def _identify(
    env: dict[str, Any], behaviour: dict[str, Any], target: float, seed: int, versions: dict[str, str]
) -> dict[str, Any]:
    simulators = {name: versions.get(name) for name in SIMULATORS}
    own = {"env": drop_name(env), "behaviour": behaviour, "success": target, "seed": seed}
    return {**own, "calibration": [EPISODES, STEPS], "versions": simulators}


def add_known(folder: Path, known: Path = KNOWN) -> int:
    """Adds what the data sets in a folder were calibrated to; returns how many of them were new."""
    kept = json.loads(known.read_text()) if known.exists() else []
    before = len(kept)
    for path in sorted(folder.iterdir()):
        provenance = storage.read_provenance(path) or {"recipe": {}}
        recipe = provenance["recipe"]
        if recipe.get("calibration") != [EPISODES, STEPS] or "curve" not in recipe:
            continue
        data = recipe["data"]
        of = _identify(recipe["env"], data["behaviour"], data["success"], recipe["seed"], provenance["versions"])
        if all(one["of"] != of for one in kept):
            kept.append({"of": of, "found": {"strength": recipe["strength"], "curve": recipe["curve"]}})
    known.write_text("[\n" + ",\n".join(json.dumps(one) for one in kept) + "\n]\n")
    return len(kept) - before


def main() -> None:
    """Adds those of a folder to the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", type=Path, help="a folder of data sets, as data_dir=… names it")
    print(f"{add_known(parser.parse_args().datasets)} new in {KNOWN}")


if __name__ == "__main__":
    main()

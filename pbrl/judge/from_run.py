"""A run's reward model as a judge: its reward of each step, and P(second preferred) of any pair of clips."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from pbrl import files
from pbrl.data.table import Table
from pbrl.feedback.store.address import hide_passwords, sqlite_file
from pbrl.feedback.store.store import Store
from pbrl.judge.evidence import Clips, Source
from pbrl.judge.material import Material
from pbrl.judge.preferred import find_preferred_pictures
from pbrl.judge.visual import KINDS, Visual, find_trained
from pbrl.run.build import build_reward, name_of
from pbrl.run.folder import env_name
from pbrl.settings import RunSettings
from pbrl.types import Clip, RewardModel, UserError

PAIRS_AT_ONCE = 128


def load_run(
    folder: Path, material: Material, device: torch.device, changes: Mapping[str, dict[str, Any]] | None = None
) -> Source:
    """The reward model of the run in a folder, or of one of its seeds (`runs/x/seed3`). Raises UserError.

    Its rewards are what the run's policy learnt from, normalized over this data set; its probabilities are
    Bradley-Terry's, of the members' mean score. One that reads pictures is shown those of `changes` too: by name, what
    `Environment.change_view` takes.
    """
    settings, checkpoint, seed = read_run(folder, device)
    place = folder if (folder / "checkpoint.pt").exists() else folder.parent
    versions = _read_versions(place)
    reward = find_trained(settings.reward, versions, [Path(settings.data_dir), material.data_dir])
    table = material.table(device, settings.env, reward)
    model = _build(folder, settings, checkpoint["replicas"][seed]["reward"], table)
    table.relabel(model)
    visual = None
    if isinstance(model, KINDS):
        liked = find_preferred_pictures(_read_config(folder), versions.get("data"))
        visual = Visual(model, table, material, settings.env, reward, preferred=liked)
    return Source(
        reward=table.labels["reward"][table.rows].double().cpu().numpy(),
        probability=lambda clips: compare(model, table, clips),
        trained_on=_answered_pairs(settings, place),
        about={"reward": name_of(settings.reward), "run": str(folder), "seed": settings.seed},
        reversed_reward=visual.score_reversed() if visual else None,
        changed_reward={name: visual.score_changed(own) for name, own in (changes or {}).items()} if visual else {},
        visual=visual,
    )


def load_reward(folder: Path, table: Table) -> RewardModel:
    """The reward model of the run in a folder, on the table's device, for episodes like the table's. Raises
    UserError."""
    settings, checkpoint, seed = read_run(folder, table.target)
    return _build(folder, settings, checkpoint["replicas"][seed]["reward"], table)


def _build(folder: Path, settings: RunSettings, state: dict[str, Any], table: Table) -> RewardModel:
    model = build_reward(settings, table.spec())
    if model.gives != "reward":
        raise UserError(f"{folder} learnt how strong attributes are, and no reward: nothing here judges those")
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        words = str(error).splitlines()[-1].strip()
        raise UserError(
            f"the reward model of {folder} does not fit this data set, or was made by another version ({words}): "
            "judge it on episodes of the environment that it learnt in"
        ) from error
    return model.to(table.target).eval()


def own_data(folder: Path) -> dict[str, Any]:
    """The settings of the data set that a run learnt from. Raises UserError."""
    config = _read_config(folder)
    return {key: config[key] for key in ("env", "data", "data_dir", "data_seed")}


@torch.no_grad()
def compare(model: RewardModel, table: Table, clips: Clips) -> np.ndarray:
    """P(second preferred) of clips [Q, 2], by the difference of the members' mean scores."""
    found = np.empty(len(clips))
    starts = table.first[clips.episode] + clips.first  # [Q, 2] rows
    for length in np.unique(clips.length):
        places = np.flatnonzero(clips.length == length)
        for own in np.array_split(places, -(-len(places) // PAIRS_AT_ONCE)):
            rows = torch.from_numpy(starts[own]).to(table.device)
            score = model.score_at(table, rows, int(length)).mean(0)  # [n, 2]
            found[own] = torch.sigmoid((score[:, 1] - score[:, 0]).double()).cpu().numpy()
    return found


def read_run(folder: Path, device: torch.device) -> tuple[RunSettings, dict[str, Any], int]:
    """A run's settings, its checkpoint, and which of its seeds the folder is of. Raises UserError."""
    config = _read_config(folder)
    if config.get("seeds", 1) > 1:
        raise UserError(f"{folder} holds {config['seeds']} seeds: choose one, as in {folder}/seed{config['seed']}")
    if not config.get("reward", {}).get("_target_"):
        raise UserError(f"{folder} is of a run without a reward model: take one that was started with reward=…")
    seed, place = int(config["seed"]), folder
    if not (folder / "checkpoint.pt").exists() and (folder.parent / "checkpoint.pt").exists():
        place, first = folder.parent, int(_read_config(folder.parent)["seed"])
    else:
        first = seed
    checkpoint = files.load(place / "checkpoint.pt", device)
    if checkpoint is None:
        raise UserError(f"{folder} has no checkpoint.pt yet: wait until its run has saved one")
    if "position" not in checkpoint:
        raise UserError(f"{place / 'checkpoint.pt'} is of an older version, whose rewards are not read: train it anew")
    if not checkpoint["position"]["round"]:
        raise UserError(f"the reward model of {folder} has learnt nothing yet: wait until its run has saved one")
    return RunSettings.parse(config), checkpoint, seed - first


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.yaml"
    try:
        config = yaml.safe_load(path.read_text())
        return {**config, "seed": config["seed"]}
    except OSError as error:
        raise UserError(f"{folder} is no run folder: it has no config.yaml") from error
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not the config of a run ({type(error).__name__})") from error


def _read_versions(folder: Path) -> dict[str, Any]:
    path = folder / "versions.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _answered_pairs(settings: RunSettings, folder: Path) -> frozenset[tuple[Clip, ...]]:
    """The clips of the questions that were answered in the store of a run, sorted; none where it cannot be read."""
    url = settings.store or f"sqlite:///{folder / 'answers.sqlite'}"
    file = sqlite_file(url)
    if "***" in hide_passwords(url) or (file and not file.exists()):
        return frozenset()
    store = Store(url)
    asked = store.questions(list({answer.question for answer in store.answers()}))
    return frozenset(tuple(sorted(question.clips)) for question in asked.values())


def describe_data(env: dict[str, Any], data: dict[str, Any]) -> str:
    """An environment and a data set, by their names."""
    return " · ".join(filter(None, [env_name(env) if env.get("_target_") else "", data.get("path") or data["name"]]))

"""Minari data sets ↔ episodes. Ours keep what Minari has no place for in `infos` and in the `options` of an episode."""

import json
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import minari
import numpy as np
from gymnasium.spaces import Box
from minari.data_collector import EpisodeBuffer

from pbrl.data.action_bounds import ActionUnits
from pbrl.data.inspection import DataSet, Names, Raw, inspect, to_column, to_flags, to_numbers, to_vectors
from pbrl.data.opening import FileError, load_json, open_hdf5
from pbrl.data.recordings import copy_video
from pbrl.types import Episode, UserError

NAMES = Names("observations", "actions", "rewards")


def read_minari(path: Path, units: ActionUnits) -> DataSet:
    """Any Minari data set with vector observations; states, success and instructions are read where they are stored.

    Raises UserError where observations are no vectors, actions are not continuous or without bounds, and for what
    cannot be learnt from.
    """
    try:
        space, read, inner = _read(path)
    except UserError:
        raise
    except Exception as error:  # HDF5, JSON and Minari each have their own ways to fail
        raise FileError(f"the data set {path} is damaged ({error!r}): restore it from its source", True) from error
    notes = [f"{inner} episodes go on after a true terminal: only the last step of an episode can be one"] * bool(inner)
    return inspect(path, read, NAMES, units, (space.low.ravel(), space.high.ravel()), notes)


def _read(path: Path) -> tuple[Box, list[Raw], int]:
    """The space of actions, the episodes, and how many of them go on after a true terminal."""
    dataset = _open(path)
    space = dataset.action_space
    if not isinstance(space, Box):
        raise UserError(
            f"{path} has actions in {space}, and actions must be continuous, a Box of numbers: policies here choose no "
            "classes"
        )
    read, inner = [], 0
    metadata = dataset.storage.get_episode_metadata(dataset.episode_indices)
    for episode, meta in zip(dataset, metadata, strict=True):
        read.append(_read_episode(path, episode, meta))
        inner += bool(np.any(episode.terminations[:-1]))
    return space, read, inner


def _open(path: Path) -> minari.MinariDataset:
    """The data set, whose files were tried: Minari's own errors do not say which is wrong."""
    folder = path / "data" if (path / "data").is_dir() else path
    if not (folder / "metadata.json").exists():
        raise UserError(
            f"{folder} has no metadata.json: a part of the data set is missing, or it is of Minari before 0.5"
        )
    metadata = load_json(folder / "metadata.json")
    if metadata.get("minari_version") not in minari.supported_dataset_versions:
        raise FileError(
            f"{path} is of another version of Minari ({metadata.get('minari_version')}): the installed one "
            f"({minari.__version__}) reads {minari.supported_dataset_versions}; `pip install -U minari`",
            is_broken=False,
        )
    if metadata.get("data_format", "hdf5") == "hdf5":
        with open_hdf5(folder / "main_data.hdf5"):
            pass
    return minari.MinariDataset(folder)


def _read_episode(path: Path, episode: minari.EpisodeData, meta: dict) -> Raw:
    if not isinstance(episode.observations, np.ndarray) or episode.observations.ndim > 2:
        raise UserError(f"{path} has observations that are not plain vectors; flatten them first")
    infos, options = episode.infos or {}, _options(meta)
    video = path / options["video"] if options.get("video") else None
    if video is not None and not video.exists():
        raise FileNotFoundError(video)
    where = f"{path}, episode {episode.id}"
    steps, ends = len(episode.actions), to_flags(where, "terminations", episode.terminations)
    if len(ends) != steps:
        raise UserError(f"{where}: {steps} actions need {steps} rows of terminations, and there are {len(ends)}")
    return Raw(
        f"episode {episode.id}",
        Episode(
            seed=int(meta.get("seed") or 0),
            obs=to_vectors(where, "observations", episode.observations),
            action=to_numbers(where, "actions", episode.actions),
            reward=to_column(where, "rewards", episode.rewards),
            terminated=bool(ends.size and ends[-1]),
            success=to_flags(where, "success", infos["success"]) if "success" in infos else None,
            state=to_vectors(where, "state", infos["state"]).astype(np.float64) if "state" in infos else None,
            source=str(options.get("source", "")),
            video=video,
            instruction=_instruction(options, infos),
            filmed=bool(options.get("filmed")),
            person=to_flags(where, "person", infos["person"])[:steps] if "person" in infos else None,
        ),
    )


def _options(meta: dict) -> dict:
    options = meta.get("options") or {}
    return json.loads(options) if isinstance(options, (str, bytes)) else options


def _instruction(options: dict, infos: dict) -> str:
    """The task in words: of the options, else of the first step's info, where others store it."""
    instruction = options.get("instruction")
    if instruction is None and "instruction" in infos:
        instruction = np.ravel(np.asarray(infos["instruction"], object))[0]
    return instruction.decode() if isinstance(instruction, bytes) else str(instruction or "")


def write_minari(root: Path, name: str, episodes: Sequence[Episode], provenance: dict[str, Any]) -> Path:
    """Writes a data set with its videos under the folder `root`; returns its own folder."""
    from pbrl.files import to_json  # PyTorch's, which what reads data sets does without

    buffers = [_buffer(i, episode) for i, episode in enumerate(episodes)]
    first = episodes[0]
    before = os.environ.get("MINARI_DATASETS_PATH")
    os.environ["MINARI_DATASETS_PATH"] = str(root)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Minari misses a registered environment; the recipe names ours
            minari.create_dataset_from_buffers(
                f"pbrl/{name}-v0",
                buffers,
                observation_space=Box(-np.inf, np.inf, first.obs.shape[1:], np.float32),
                action_space=Box(-1.0, 1.0, first.action.shape[1:], np.float32),
                algorithm_name=str(provenance["recipe"].get("behaviour", {}).get("_target_", "")),
                author="pbrl",
                author_email="none",
                code_permalink="pbrl",
                data_format="hdf5",
                description=to_json(provenance),
            )
    finally:
        os.environ.pop("MINARI_DATASETS_PATH")
        if before is not None:
            os.environ["MINARI_DATASETS_PATH"] = before
    folder = root / "pbrl" / f"{name}-v0"
    for i, episode in enumerate(episodes):
        if episode.video is not None:
            copy_video(episode.video, folder / _video(i, episode.video))
    return folder


def _buffer(i: int, episode: Episode) -> EpisodeBuffer:
    ends = np.zeros(len(episode.action), bool)
    ends[-1] = True
    person = None if episode.person is None else np.append(episode.person, False)  # infos have a row more
    fields = (("success", episode.success), ("state", episode.state), ("person", person))
    options = {"source": episode.source, "instruction": episode.instruction, "filmed": episode.filmed}
    if episode.video is not None:
        options["video"] = _video(i, episode.video)
    arrays: dict[str, Any] = {
        "observations": episode.obs,
        "actions": episode.action,
        "rewards": episode.reward,
        "infos": {key: value for key, value in fields if value is not None},
        "terminations": ends & episode.terminated,
        "truncations": ends & (not episode.terminated),
    }
    return EpisodeBuffer(id=i, seed=episode.seed, options={k: v for k, v in options.items() if v}, **arrays)


def _video(i: int, file: Path) -> str:
    """Where an episode's video is in a data set."""
    return f"videos/{i:05d}{file.suffix}"

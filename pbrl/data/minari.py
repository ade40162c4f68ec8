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

from pbrl.data.recordings import copy_video
from pbrl.types import Episode, UserError


def read_minari(path: Path) -> list[Episode]:
    """Any Minari data set with vector observations; states, success and instructions are read where they are stored.

    Raises UserError where observations are no vectors.
    """
    dataset = minari.MinariDataset(path / "data" if (path / "data").is_dir() else path)
    low, high = dataset.action_space.low, dataset.action_space.high  # type: ignore[attr-defined]
    plain = (low == -1).all() and (high == 1).all()
    episodes = []
    for episode, meta in zip(dataset, dataset.storage.get_episode_metadata(dataset.episode_indices), strict=True):
        if not isinstance(episode.observations, np.ndarray) or episode.observations.ndim != 2:
            raise UserError(f"{path} has observations that are not plain vectors; flatten them first")
        infos, options = episode.infos or {}, _options(meta)
        video = path / options["video"] if options.get("video") else None
        if video is not None and not video.exists():
            raise FileNotFoundError(video)
        action = episode.actions if plain else 2 * (episode.actions - low) / (high - low) - 1
        episodes.append(
            Episode(
                seed=int(meta.get("seed") or 0),
                obs=episode.observations.astype(np.float32),
                action=action.astype(np.float32),
                reward=np.asarray(episode.rewards, np.float32),
                terminated=bool(episode.terminations[-1]),
                success=np.asarray(infos["success"], bool) if "success" in infos else None,
                state=np.asarray(infos["state"], np.float64) if "state" in infos else None,
                source=str(options.get("source", "")),
                video=video,
                instruction=_instruction(options, infos),
                filmed=bool(options.get("filmed")),
            )
        )
    return episodes


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
                description=json.dumps(provenance),
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
    fields = (("success", episode.success), ("state", episode.state))
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

"""Minari data sets, D4RL-style HDF5 files and recorded videos ↔ episodes. Readers and writers only.

A data set of ours is a folder: Minari's own `data/`, and `provenance.json` with the recipe, the versions, the seed and
a hash of the content. It appears under its name only when it is whole.
"""

import hashlib
import json
import os
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import minari
import numpy as np
from gymnasium.spaces import Box
from minari.data_collector import EpisodeBuffer
from tqdm import tqdm

from pbrl.data.video import recording
from pbrl.types import Episode, UserError

VIDEOS = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v")

VERSIONS = ("pbrl", "mujoco", "metaworld", "dm-control", "gymnasium", "stable-baselines3", "minari", "numpy", "torch")


def versions() -> dict[str, str]:
    """Installed versions of what a result depends on."""
    found = {}
    for name in VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def episode_id(episode: Episode) -> str:
    """The hash of an episode's own content: its numbers and its video, not the name of the behaviour."""
    return content_hash([episode])


def content_hash(episodes: Sequence[Episode]) -> str:
    """A hash of all numbers in the episodes, whatever the file format (the behaviour's name is left out)."""
    digest = hashlib.sha256()
    for e in episodes:
        for part in (np.int64(e.seed), e.obs, e.action, e.reward, np.bool_(e.terminated), e.success, e.state):
            digest.update(b"-" if part is None else np.ascontiguousarray(part).tobytes())
        if e.video is not None:
            with open(e.video, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:32]


def write(path: Path, episodes: Sequence[Episode], recipe: dict[str, Any]) -> dict[str, Any]:
    """Writes a Minari data set to the folder `path`, which appears only when complete; returns its provenance.

    Raises UserError when the disk is full or not writable.
    """
    provenance = {
        "recipe": recipe,
        "versions": versions(),
        "content_hash": content_hash(episodes),
        "episodes": len(episodes),
        "steps": int(sum(len(e.action) for e in episodes)),
    }
    path = path.absolute()  # Minari joins a relative one to itself
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        needed = 2**20 + 2 * sum(part.nbytes for e in episodes for part in e if isinstance(part, np.ndarray))
        if shutil.disk_usage(path.parent).free < needed:  # HDF5 can crash when a disk fills under its hands
            raise OSError(f"it takes {needed / 1e6:.0f} MB, more than is free")
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=path.parent) as partial:
            _write_minari(Path(partial), path.name, episodes, provenance)
            whole = Path(partial) / "pbrl" / f"{path.name}-v0"
            (whole / "provenance.json").write_text(json.dumps(provenance, indent=2))
            if path.exists():
                shutil.rmtree(path)
            os.replace(whole, path)
    except (OSError, RuntimeError) as error:  # HDF5 reports a full disk as a RuntimeError
        raise UserError(
            f"cannot write the data set {path} ({error}): free some space, or choose another folder with data_dir=…"
        ) from error
    return provenance


def _write_minari(root: Path, name: str, episodes: Sequence[Episode], provenance: dict[str, Any]) -> None:
    first = episodes[0]
    buffers = []
    for i, e in enumerate(episodes):
        ends = np.zeros(len(e.action), bool)
        ends[-1] = True
        infos = {key: value for key, value in (("success", e.success), ("state", e.state)) if value is not None}
        arrays: dict[str, Any] = {
            "observations": e.obs, "actions": e.action, "rewards": e.reward, "infos": infos,
            "terminations": ends & e.terminated, "truncations": ends & (not e.terminated),
        }  # fmt: skip
        buffers.append(EpisodeBuffer(id=i, seed=e.seed, options={"source": e.source}, **arrays))
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


def read(path: Path) -> list[Episode]:
    """Episodes of a Minari folder, a folder of videos or a D4RL-style .hdf5 file. Raises UserError where it cannot."""
    path = Path(path).absolute()
    if not path.exists():
        raise UserError(f"there is no data set at {path}")
    try:
        if path.is_dir() and recordings(path):
            return read_recordings(path)
        if path.is_dir() and not any((path / name).exists() for name in ("data", "main_data.hdf5", "metadata.json")):
            raise UserError(f"{path} holds neither a Minari data set nor videos ({', '.join(VIDEOS)})")
        episodes = read_d4rl(path) if path.is_file() else read_minari(path)
    except UserError:
        raise
    except Exception as error:  # HDF5, JSON and Minari each have their own ways to fail
        advice = (
            "delete it, and it is made again" if (path / "provenance.json").exists() else "restore it from its source"
        )
        raise UserError(f"the data set {path} is damaged ({error!r}); {advice}") from error
    provenance = read_provenance(path)
    if provenance and provenance["content_hash"] != content_hash(episodes):
        raise UserError(
            f"the data set {path} is not what was written (its hash differs); delete it, and it is made again"
        )
    return episodes


def read_provenance(path: Path) -> dict[str, Any] | None:
    """How one of our data sets was made; None for somebody else's. Raises UserError if the record is damaged."""
    file = path / "provenance.json"
    if not file.exists():
        return None
    try:
        return json.loads(file.read_text())
    except ValueError as error:
        raise UserError(f"{file} is damaged ({error}); delete the data set {path}, and it is made again") from error


def read_minari(path: Path) -> list[Episode]:
    """Any Minari data set with vector observations; simulator states and success are read where they are stored."""
    data = path / "data" if (path / "data").is_dir() else path
    dataset = minari.MinariDataset(data)
    episodes = []
    for episode, meta in zip(dataset, dataset.storage.get_episode_metadata(dataset.episode_indices), strict=True):
        if not isinstance(episode.observations, np.ndarray) or episode.observations.ndim != 2:
            raise UserError(f"{path} has observations that are not plain vectors; flatten them first")
        infos = episode.infos or {}
        low, high = dataset.action_space.low, dataset.action_space.high  # type: ignore[attr-defined]
        plain = (low == -1).all() and (high == 1).all()
        episodes.append(
            Episode(
                seed=int(meta.get("seed") or 0),
                obs=episode.observations.astype(np.float32),
                action=(episode.actions if plain else 2 * (episode.actions - low) / (high - low) - 1).astype(
                    np.float32
                ),
                reward=np.asarray(episode.rewards, np.float32),
                terminated=bool(episode.terminations[-1]),
                success=np.asarray(infos["success"], bool) if "success" in infos else None,
                state=np.asarray(infos["state"], np.float64) if "state" in infos else None,
                source=str((_options(meta)).get("source", "")),
            )
        )
    return episodes


def _options(meta: dict) -> dict:
    options = meta.get("options") or {}
    return json.loads(options) if isinstance(options, (str, bytes)) else options


def recordings(path: Path) -> list[Path]:
    """The video files in a folder, by name."""
    return sorted(file for file in path.iterdir() if file.suffix.lower() in VIDEOS)


def read_recordings(path: Path) -> list[Episode]:
    """A folder of videos, each an episode. `name.npz` beside `name.mp4` holds its numbers, a row for each frame.

    Those are obs [T+1, O], action [T, A] in [-1, 1], and where they are known reward [T] and success [T+1]. Without
    them an episode can be looked at and judged, but not learnt from. Raises UserError for a file that does not fit.
    """
    episodes = []
    for i, file in enumerate(tqdm(recordings(path), desc="looking at videos", unit="video", leave=False)):
        frames = len(recording(file).shown)
        beside = file.with_suffix(".npz")
        try:
            with np.load(beside) as arrays:
                given = dict(arrays)
            steps = len(given["action"])
            numbers = {"obs": given["obs"].reshape(steps + 1, -1), "action": given["action"].reshape(steps, -1),
                       "reward": given.get("reward", np.zeros(steps)).reshape(steps)}  # fmt: skip
            success = given["success"].reshape(steps + 1).astype(bool) if "success" in given else None
        except FileNotFoundError:
            steps, success = frames - 1, None
            numbers = {"obs": np.zeros((frames, 0)), "action": np.zeros((steps, 0)), "reward": np.zeros(steps)}
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise UserError(
                f"{beside} shall hold obs [T+1, O], action [T, A] and perhaps reward [T] and success [T+1] ({error})"
            ) from error
        if frames not in (steps, steps + 1):
            raise UserError(f"{file} has {frames} frames and {beside.name} {steps} steps: a frame belongs to each step")
        obs, action, reward = (part.astype(np.float32) for part in numbers.values())
        if not (np.isfinite(obs).all() and np.isfinite(reward).all() and (np.abs(action) <= 1).all()):
            raise UserError(f"{beside} holds what is not finite, or actions beyond [-1, 1]: scale them")
        episodes.append(Episode(i, obs, action, reward, False, success, source=file.stem, video=file))
    sizes = {(e.obs.shape[1], e.action.shape[1]) for e in episodes}
    if len(sizes) > 1:
        raise UserError(f"the recordings in {path} differ in the sizes of obs and action: {sorted(sizes)}")
    return episodes


class Flat(NamedTuple):
    """What a D4RL file holds, N steps of one episode after the other."""

    obs: np.ndarray  # [N, O]
    action: np.ndarray  # [N, A]
    reward: np.ndarray  # [N]
    terminal: np.ndarray  # [N] bool
    timeout: np.ndarray  # [N] bool
    after: np.ndarray | None  # [N, O], next observations, where the file has them

    def episodes(self) -> Iterator[slice]:
        """The steps of each episode. Without `after` nobody knows where a timeout's step led, and it is left out."""
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
                f"{path} has no timeouts, so nobody can tell where its episodes end: take D4RL's v2, or add the array"
            )
        timeout = np.asarray(file["timeouts"])
        after = np.asarray(file["next_observations"]) if "next_observations" in file else None
    return Flat(obs, action, reward.ravel(), terminal.astype(bool).ravel(), timeout.astype(bool).ravel(), after)


def read_d4rl(path: Path) -> list[Episode]:
    """A D4RL file: flat arrays observations, actions, rewards, terminals, timeouts, and mostly next_observations."""
    flat = _read_flat(path)
    return [
        Episode(
            seed=0,
            obs=np.concatenate([flat.obs[steps], _closing(flat, steps.stop - 1)[None]]).astype(np.float32),
            action=np.clip(flat.action[steps], -1, 1).astype(np.float32),
            reward=flat.reward[steps].astype(np.float32),
            terminated=bool(flat.terminal[steps.stop - 1]),
            source="d4rl",
        )
        for steps in flat.episodes()
    ]


def _closing(flat: Flat, last: int) -> np.ndarray:
    """The observation after the last step of an episode; of a true terminal, where it is not known, that before."""
    if flat.after is not None:
        return flat.after[last]
    return flat.obs[last if flat.terminal[last] else last + 1]


def d4rl_rows(path: Path) -> np.ndarray:
    """The row in a `Table` of this file of each transition that D4RL's `qlearning_dataset` lists: [M] int64.

    That list leaves out the file's last step, timeouts and, where next observations are missing, true terminals; the
    answers that others have published count in it. Where the table holds no such step the row is -1.
    """
    flat = _read_flat(path)
    rows, first = np.full(len(flat.reward), -1), 0
    for steps in flat.episodes():
        count = steps.stop - steps.start
        rows[steps] = first + np.arange(count)
        first += count + 1
    left_out = flat.timeout | flat.terminal if flat.after is None else flat.timeout
    return rows[:-1][~left_out[:-1]]

"""Data sets on disk ↔ episodes, and what identifies them: ids of episodes, hashes of data sets.

A data set of ours is a folder: Minari's own `data/`, `videos/` where frames were kept, and `provenance.json` with the
recipe, the versions, the seed and a hash of the content. It appears under its name only when it is whole.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from pbrl.data.action_bounds import ActionUnits
from pbrl.data.d4rl import d4rl_rows as d4rl_rows
from pbrl.data.d4rl import read_d4rl
from pbrl.data.inspection import DataSet, check_episodes, report
from pbrl.data.minari import read_minari, write_minari
from pbrl.data.opening import FileError, load_json
from pbrl.data.recordings import VIDEOS, inspect_recordings, size_on_disk, video_files
from pbrl.data.recordings import read_recordings as read_recordings
from pbrl.data.video_reader import read_video_info, video_digest
from pbrl.types import Episode, UserError

NOTHING_KNOWN = ActionUnits()
FORMAT = 1  # of our own data sets: a number higher than this is of a version to come
VERSIONS = (
    "pbrl", "mujoco", "metaworld", "dm-control", "gymnasium", "pymunk", "stable-baselines3", "minari", "numpy", "torch",
)  # fmt: skip
MANY = 200  # recordings in a folder: beyond, their numbers are not hashed once for each place in it


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
    """The hash of an episode's own content, 32 hexadecimal digits: the same in every file format and data set.

    SHA-256 over, in this order: the seed as int64; obs, action and reward as float32; `terminated` as one byte; success
    as bytes of 0 or 1 and state as float64, or "-" where there is none; all in C order and little-endian. Then, where
    there is a video, the SHA-256 of the bytes of its file, and where there is an instruction, "instruction:" and its
    UTF-8. The behaviour's name is left out, and so are the names of files.

    A camera's recording (`filmed`) is known by its video alone: SHA-256 over "video:" and the SHA-256 of its file. So
    answers stay when the folder grows, and when numbers or an instruction are put beside the video later.
    """
    if episode.filmed and episode.video is not None:
        return hashlib.sha256(b"video:" + video_digest(episode.video)).hexdigest()[:32]
    return _numbered_id(episode)


def former_ids(episode: Episode, count: int) -> Iterator[str]:
    """Under which ids earlier stores may know a recording, one of `count` in its folder.

    They were hashes of its place in the folder, its numbers and its instruction as well; numbers may have been put
    beside it since, and other videos into the folder. Its own place comes first.
    """
    assert episode.video is not None
    frames = len(read_video_info(episode.video).shown)
    alone = {"obs": np.zeros((frames, 0)), "action": np.zeros((frames - 1, 0)), "reward": np.zeros(frames - 1)}
    bare = episode._replace(success=None, **alone)
    yield _numbered_id(episode)
    for place in range(count):
        if count <= MANY:
            yield _numbered_id(episode._replace(seed=place))
        yield _numbered_id(bare._replace(seed=place))
        yield _numbered_id(bare._replace(seed=place, instruction=""))


def _numbered_id(episode: Episode) -> str:
    digest = hashlib.sha256()
    _update(digest, episode)
    if episode.instruction:
        digest.update(b"instruction:" + episode.instruction.encode())
    return digest.hexdigest()[:32]


def content_hash(episodes: Sequence[Episode]) -> str:
    """A hash of all numbers and videos in the episodes, whatever the file format: 32 hexadecimal digits.

    It is over what `episode_id` hashes, one episode after the other, without instructions.
    """
    digest = hashlib.sha256()
    for episode in episodes:
        _update(digest, episode)
    return digest.hexdigest()[:32]


def dataset_id(ids: Iterable[str]) -> str:
    """A hash of a list of episode ids, in their order: 32 hexadecimal digits."""
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()[:32]


def _update(digest: Any, e: Episode) -> None:
    for part, kind in (
        (np.int64(e.seed), "<i8"),
        (e.obs, "<f4"),
        (e.action, "<f4"),
        (e.reward, "<f4"),
        (np.bool_(e.terminated), "?"),
        (e.success, "?"),
        (e.state, "<f8"),
    ):
        digest.update(b"-" if part is None else np.ascontiguousarray(part, kind).tobytes())
    if e.video is not None:
        digest.update(video_digest(e.video))


def write(path: Path, episodes: Sequence[Episode], recipe: dict[str, Any]) -> dict[str, Any]:
    """Writes a Minari data set, with copies of videos, to the folder `path`, which appears only when complete.

    Returns its provenance. Raises UserError when the disk is full or not writable, or the episodes hold what cannot be
    learnt from.
    """
    from pbrl.files import write_json  # PyTorch's, which what reads data sets does without

    check_episodes(path.name, episodes)
    provenance = {
        "format": FORMAT,
        "recipe": recipe,
        "versions": versions(),
        "content_hash": content_hash(episodes),
        "episodes": len(episodes),
        "steps": int(sum(len(e.action) for e in episodes)),
        "report": report(DataSet(list(episodes), path.name)).to_dict(),
    }
    path = path.absolute()  # Minari joins a relative one to itself
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        needed = 2**20 + 2 * sum(part.nbytes for e in episodes for part in e if isinstance(part, np.ndarray))
        _reserve(path.parent, needed)
        needed += sum(size_on_disk(e.video) for e in episodes if e.video is not None)
        if shutil.disk_usage(path.parent).free < needed:  # HDF5 can crash when a disk fills under its hands
            raise OSError(f"it takes {needed / 1e6:.0f} MB, more than is free")
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=path.parent) as partial:
            whole = write_minari(Path(partial), path.name, episodes, provenance)
            write_json(whole / "provenance.json", provenance)
            if path.exists():
                shutil.rmtree(path)
            os.replace(whole, path)
    except (OSError, RuntimeError) as error:  # HDF5 reports a full disk as a RuntimeError, in many lines
        words = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(
            f"cannot write the data set {path} ({words}): free some space, or choose another folder with data_dir=…"
        ) from error
    return provenance


def _reserve(folder: Path, size: int) -> None:
    """Raises OSError where no file of so many bytes can be: a full disk, a quota or a limit of the shell's."""
    with tempfile.TemporaryFile(dir=folder) as file:
        os.posix_fallocate(file.fileno(), 0, size)


def read(path: Path, units: ActionUnits = NOTHING_KNOWN) -> list[Episode]:
    """Episodes of a Minari folder, a folder of videos or a D4RL-style .hdf5 file. Raises UserError where it cannot."""
    return read_dataset(path, units).episodes


def read_dataset(path: Path, units: ActionUnits = NOTHING_KNOWN) -> DataSet:
    """The same with what was noticed. `units` are what is known of the actions. Raises UserError."""
    path = Path(path).absolute()
    if not path.exists():
        raise UserError(f"there is no data set at {path}")
    if not (path.is_dir() or path.is_file()):
        raise UserError(f"{path} is neither a file nor a folder, so no data set")
    try:
        if path.is_dir() and video_files(path):
            return inspect_recordings(path)
        if path.is_dir() and not any((path / name).exists() for name in ("data", "main_data.hdf5", "metadata.json")):
            raise UserError(f"{path} holds neither a Minari data set nor videos ({', '.join(VIDEOS)})")
        provenance = read_provenance(path) if path.is_dir() else None
        if provenance is not None:  # our own: written with actions in [-1, 1]
            units = replace(units, environment=lambda: None)
        with np.errstate(over="ignore"):  # what is too large for float32 is refused
            data = read_d4rl(path, units) if path.is_file() else read_minari(path, units)
    except FileError as error:
        if not error.is_broken or not (path / "provenance.json").exists():
            raise
        raise UserError(f"{error}; or delete it, and it is made again") from error
    is_scaled = units.low is not None or units.high is not None
    if provenance and not is_scaled and provenance["content_hash"] != content_hash(data.episodes):
        raise UserError(
            f"the data set {path} is not what was written (its hash differs); delete it, and it is made again"
        )
    return data


def read_provenance(path: Path) -> dict[str, Any] | None:
    """How a data set was collected; None for one of another program. Raises UserError if the record is damaged."""
    file = path / "provenance.json"
    if not file.exists():
        return None
    try:
        found = load_json(file)
    except FileError as error:
        raise UserError(f"{error}; delete the data set {path}, and it is made again") from error
    if isinstance(found.get("format", FORMAT), int) and found.get("format", FORMAT) > FORMAT:
        raise UserError(
            f"{path} is of another version: format {found['format']} was written by a newer pbrl, and this one reads "
            f"format {FORMAT}: update pbrl, or take another data_dir=…"
        )
    if not isinstance(found.get("content_hash"), str):
        raise UserError(
            f"{file} has no content_hash, so it is none of pbrl's: take it away, or delete the data set {path}"
        )
    return found

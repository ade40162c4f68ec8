"""What cameras saw at each row of a data set: rendered once from simulator states, or cut from recordings.

A file beside the data set, by the same row index as a `Table`, which maps it. So one data set serves whoever looks and
whoever does not, answers about it hold for both, and nothing is rendered to train.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from pbrl import files
from pbrl.data.rollout import Players
from pbrl.data.video import recorded, recording, square
from pbrl.types import Episode, UserError

LOOKS = ("images", "image_size")  # settings of an environment
Share = Sequence[tuple[int, Episode]]  # the row at which an episode begins, and the episode


def blind(env: dict[str, Any]) -> dict[str, Any]:
    """The same environment without images."""
    return {key: value for key, value in env.items() if key not in LOOKS}


def shape(env: dict[str, Any]) -> tuple[int, ...]:
    """The images' shape [C, H, W, 3]; empty where there are none."""
    size = env.get("image_size", 0)
    return (len(env["images"]), size, size, 3) if env.get("images") else ()


def image_shapes(env: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """The shape [H, W, 3] of what each camera observes."""
    return {camera: shape(env)[1:] for camera in env.get("images") or ()}


def frames(
    env: dict[str, Any], episodes: Sequence[Episode], dataset: str, *, folder: Path, workers: int
) -> dict[str, np.ndarray]:
    """{camera: [R, H, W, 3] uint8}, mapped from a file in `folder` that is made if it is not there.

    Raises UserError where an episode has neither states nor videos of these cameras, or the disk is full.
    """
    if not env.get("images"):
        return {}
    made_of = json.dumps([dataset, env], sort_keys=True)
    path = Path(folder) / f"frames-{hashlib.sha256(made_of.encode()).hexdigest()[:10]}.npy"
    if not path.exists():
        with files.lock(path):  # runs of a sweep make it once
            if not path.exists():
                make(env, episodes, path, workers)
    mapped = np.load(path, mmap_mode="c")  # what torch takes must look as if it could be written to
    return {camera: mapped[:, c] for c, camera in enumerate(env["images"])}


def make(env: dict[str, Any], episodes: Sequence[Episode], path: Path, workers: int) -> None:
    """Writes the file, which appears only when it is whole."""
    first = np.cumsum([0, *(len(e.obs) for e in episodes)]).tolist()
    partial = path.with_suffix(".partial.npy")
    size = (first[-1], *shape(env))
    players = Players(env, workers)
    try:
        if shutil.disk_usage(path.parent).free < np.prod(size, dtype=float) + 2**20:
            raise OSError(f"they take {np.prod(size, dtype=float) / 1e6:.0f} MB, more than is free")
        np.lib.format.open_memmap(partial, "w+", np.uint8, size).flush()
        shares = [[(row, episode)] for row, episode in zip(first, episodes, strict=False)]
        with tqdm(total=len(shares), desc=f"looking through {', '.join(env['images'])}", unit="episode") as bar:
            for _ in players.map(fill, shares, partial, list(env["images"]), env["image_size"]):
                bar.update(1)
        os.replace(partial, path)
    except OSError as error:
        raise UserError(
            f"cannot write the images {path} ({error}): free some space, or choose another folder with data_dir=…"
        ) from error
    finally:
        players.close()
        partial.unlink(missing_ok=True)


def fill(envs: Sequence[Any], share: Share, path: Path, cameras: Sequence[str], size: int) -> None:
    """Writes what the cameras saw in each episode from its first row on."""
    out = np.lib.format.open_memmap(path, "r+")
    for row, episode in share:
        rows = out[row : row + len(episode.obs)]
        if episode.video is not None:
            for c, file in enumerate(videos(episode.video, cameras)):
                seen = recorded(file, recording(file), first=0, last=len(rows), height=size)
                for t, frame in enumerate(seen):
                    rows[t:, c] = square(frame, size)  # of an end that was not filmed: what was seen last
        elif episode.state is not None:
            for t, state in enumerate(episode.state):
                images = envs[0].restore(episode.seed, state, t)["images"]
                rows[t] = np.stack([images[camera] for camera in cameras])
        else:
            raise UserError(
                "env.images are rendered from simulator states or cut from videos, and this data set has neither: "
                "choose another data=…, or drop env.images"
            )
    out.flush()


def videos(video: Path, cameras: Sequence[str]) -> list[Path]:
    """The files of an episode's cameras, as its recorder has named them in the json beside. Raises UserError."""
    said = video.with_suffix(".json")
    known = json.loads(said.read_text()).get("cameras", {}) if said.exists() else {}
    files = {camera: video.parent / ("" if name == video.name else "cameras") / name for camera, name in known.items()}
    missing = [camera for camera in cameras if camera not in files or not files[camera].exists()]
    if missing:
        raise UserError(
            f"{video} has no pictures of {', '.join(missing)}; of {', '.join(files) or 'no camera'} it has some"
        )
    return [files[camera] for camera in cameras]

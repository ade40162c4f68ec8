"""Images at each row of a data set: rendered once from simulator states, or cut from videos.

Each camera has a file beside the data set, by the same row index as a `Table`, which maps it. So one data set serves
policies with and without images, answers about it hold for both, and nothing is rendered to train.
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
from pbrl.data.recordings import camera_files, describe_torn
from pbrl.data.rollout import RolloutWorkers
from pbrl.data.video import square
from pbrl.data.video_reader import Torn, read_frames, read_video_info
from pbrl.types import Environment, Episode, UserError

IMAGE_SETTINGS = ("images", "image_size")  # of an environment
LOOK_SETTINGS = ("see_through", "camera", "view_change")  # what its pictures look like
Share = Sequence[tuple[int, Episode]]  # the row at which an episode begins, and the episode


def without_images(env: dict[str, Any]) -> dict[str, Any]:
    """The config of the same environment without images."""
    return {key: value for key, value in env.items() if key not in IMAGE_SETTINGS}


def without_view(env: dict[str, Any]) -> dict[str, Any]:
    """The config without what changes pictures and words alone: episodes of both are the same, and so are their ids.

    It names data sets. Where a task has words of its own, episodes do not keep an instruction that replaces them; those
    of `env=gymnasium`, which names no task, do.
    """
    words = ("instruction",) if "task" in env else ()
    return {key: value for key, value in without_images(env).items() if key not in (*LOOK_SETTINGS, *words)}


def look_of(env: dict[str, Any]) -> dict[str, Any]:
    """The settings of what pictures look like, where they are not as the task has them."""
    return {key: env[key] for key in LOOK_SETTINGS if env.get(key)}


def image_shapes(env: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """The shape [H, W, 3] of each camera's image; empty where a policy observes none."""
    return {camera: (env["image_size"], env["image_size"], 3) for camera in env.get("images") or []}


def load_images(
    env: dict[str, Any], episodes: Sequence[Episode], dataset: str, *, folder: Path, workers: int
) -> dict[str, np.ndarray]:
    """[R, H, W, 3] uint8 of each camera of `env["images"]`, mapped from files in `folder`, which are made if missing.

    Raises UserError where an episode has neither states nor videos of these cameras, or the disk is full.
    """
    paths = {camera: images_path(env, camera, dataset, folder) for camera in image_shapes(env)}
    missing = {camera: path for camera, path in paths.items() if not path.exists()}
    if missing:
        with files.lock(next(iter(missing.values()))):  # runs of a sweep make them once
            missing = {camera: path for camera, path in missing.items() if not path.exists()}
            if missing:
                write_images({**env, "images": list(missing)}, episodes, missing, workers)
    # torch takes only what looks writable
    return {camera: np.load(path, mmap_mode="c") for camera, path in paths.items()}


def images_path(env: dict[str, Any], camera: str, dataset: str, folder: Path) -> Path:
    """Where the images of a camera lie. Which camera shows clips does not matter to it."""
    settings = {**without_view(env), **look_of({**env, "camera": None}), "image_size": env["image_size"]}
    settings.pop("name", None)
    digest = hashlib.sha256(json.dumps([dataset, settings, camera], sort_keys=True).encode()).hexdigest()[:10]
    return Path(folder) / f"images-{camera}-{digest}.npy"


def write_images(env: dict[str, Any], episodes: Sequence[Episode], paths: dict[str, Path], workers: int) -> None:
    """Writes the file of each camera, which appears only when it is whole. Raises UserError."""
    first = np.cumsum([0, *(len(e.obs) for e in episodes)]).tolist()
    sizes = {camera: (first[-1], *shape) for camera, shape in image_shapes(env).items()}
    partial = {camera: path.with_suffix(".partial.npy") for camera, path in paths.items()}
    needed = sum(np.prod(size, dtype=float) for size in sizes.values())
    pool = RolloutWorkers(env, workers)
    try:
        if shutil.disk_usage(next(iter(paths.values())).parent).free < needed + 2**20:
            raise OSError(f"they take {needed / 1e6:.0f} MB, more than is free")
        for camera, path in partial.items():
            np.lib.format.open_memmap(path, "w+", np.uint8, sizes[camera]).flush()
        shares = [[(row, episode)] for row, episode in zip(first, episodes, strict=False)]
        with tqdm(total=len(shares), desc=f"rendering {', '.join(paths)}", unit="episode") as bar:
            torn: dict[Path, Torn] = {}
            for _, found in pool.map(fill_images, shares, partial, env["image_size"]):
                torn.update(found)
                bar.update(1)
        if torn:
            print(describe_torn(torn), end="", flush=True)
        for camera, path in paths.items():
            os.replace(partial[camera], path)
    except OSError as error:
        raise UserError(
            f"cannot write the images {', '.join(map(str, paths.values()))} ({error}): free some space, or choose "
            "another folder with data_dir=…"
        ) from error
    finally:
        pool.close()
        for path in partial.values():
            path.unlink(missing_ok=True)


def fill_images(envs: Sequence[Environment], share: Share, paths: dict[str, Path], size: int) -> dict[Path, Torn]:
    """Writes the images of each episode into the files of its cameras, from its first row on.

    Returns which frames of which videos were torn. Raises UserError.
    """
    torn: dict[Path, Torn] = {}
    out = {camera: np.lib.format.open_memmap(path, "r+") for camera, path in paths.items()}
    for row, episode in share:
        rows = {camera: images[row : row + len(episode.obs)] for camera, images in out.items()}
        if episode.state is not None:
            for t, state in enumerate(episode.state):
                for camera, image in envs[0].restore(episode.seed, state, t)["images"].items():
                    rows[camera][t] = image
        elif episode.video is not None:
            for camera, file in find_videos(episode.video, list(paths)).items():
                missing = fill_from_video(rows[camera], file, size)
                if missing:
                    torn[file] = Torn(missing)
        else:
            raise UserError(
                "env.images are rendered from simulator states or cut from videos, and this data set has neither: "
                "choose another data=…, or drop env.images"
            )
    for images in out.values():
        images.flush()
    return torn


def fill_from_video(rows: np.ndarray, file: Path, size: int) -> tuple[int, ...]:
    """Fills rows [T+1, H, W, 3] from a video; returns which of its frames are torn. Raises UserError."""
    source, torn = read_video_info(file), list[int]()
    if len(source.shown) not in (len(rows), len(rows) - 1):
        raise UserError(
            f"{file} has {len(source.shown)} frames, and its episode {len(rows)} rows: a frame belongs to each row, "
            "but perhaps the last"
        )
    for t, frame in enumerate(read_frames(file, source, first=0, last=len(rows), height=None, torn=torn)):
        rows[t:] = square(frame, size)  # the last row repeats a frame where the end was not filmed
    return tuple(torn)


def find_videos(video: Path, cameras: Sequence[str]) -> dict[str, Path]:
    """The files of an episode's cameras, as the json beside its video names them. Raises UserError."""
    known = camera_files(video)
    missing = [camera for camera in cameras if camera not in known or not known[camera].exists()]
    if missing:
        raise UserError(
            f"{video} has no video of {', '.join(missing)}; it has {', '.join(known) or 'none of a named camera'}"
        )
    return {camera: known[camera] for camera in cameras}

"""Folders of videos ↔ episodes: recordings of a robot, or frames that were kept while an episode was collected.

name.mp4        an episode; also .mkv, .webm, .mov, .avi, .m4v
name.npz        its numbers, a row for each frame: obs [T+1, O], action [T, A], maybe reward [T] and success [T+1]
name.json       maybe {"instruction": …, "cameras": {camera: file}}; files of further cameras are in cameras/
"""

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from pbrl.data.video import read_video_info
from pbrl.types import Episode, UserError

VIDEOS = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v")


def video_files(path: Path) -> list[Path]:
    """The video files in a folder, by name."""
    return sorted(file for file in path.iterdir() if file.suffix.lower() in VIDEOS)


def read_recordings(path: Path) -> list[Episode]:
    """A folder of videos, each an episode; see above.

    Without a npz an episode can be shown and compared, but not learnt from. Raises UserError for a file that does not
    fit.
    """
    bar = tqdm(video_files(path), desc="reading videos", unit="video", leave=False)
    episodes = [_read_recording(i, file) for i, file in enumerate(bar)]
    sizes = {(e.obs.shape[1], e.action.shape[1]) for e in episodes}
    if len(sizes) > 1:
        raise UserError(f"the recordings in {path} differ in the sizes of obs and action: {sorted(sizes)}")
    return episodes


def _read_recording(i: int, file: Path) -> Episode:
    frames = len(read_video_info(file).shown)
    beside = file.with_suffix(".npz")
    obs, action, reward, success = _numbers(beside, frames)
    if frames not in (len(action), len(action) + 1):
        raise UserError(
            f"{file} has {frames} frames and {beside.name} {len(action)} steps: a frame belongs to each step"
        )
    if not (np.isfinite(obs).all() and np.isfinite(reward).all() and (np.abs(action) <= 1).all()):
        raise UserError(f"{beside} holds what is not finite, or actions beyond [-1, 1]: scale them")
    details = read_details(file)
    instruction = details.get("instruction") or details.get("about", {}).get("instruction", "")  # ours; the recorder's
    return Episode(i, obs, action, reward, False, success, source=file.stem, video=file, instruction=str(instruction))


def _numbers(file: Path, frames: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
    """obs [T+1, O], action [T, A], reward [T] float32 and success [T+1] of a npz; of width zero where there is none."""
    try:
        with np.load(file) as arrays:
            given = dict(arrays)
        steps = len(given["action"])
        numbers = (
            given["obs"].reshape(steps + 1, -1),
            given["action"].reshape(steps, -1),
            given.get("reward", np.zeros(steps)).reshape(steps),
        )
        success = given["success"].reshape(steps + 1).astype(bool) if "success" in given else None
    except FileNotFoundError:
        numbers, success = (np.zeros((frames, 0)), np.zeros((frames - 1, 0)), np.zeros(frames - 1)), None
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{file} must hold obs [T+1, O], action [T, A] and perhaps reward [T] and success [T+1] ({error})"
        ) from error
    obs, action, reward = (part.astype(np.float32) for part in numbers)
    return obs, action, reward, success


def read_details(video: Path) -> dict[str, Any]:
    """What the json beside a video holds; {} where there is none. Raises UserError where it is damaged."""
    file = video.with_suffix(".json")
    try:
        found = json.loads(file.read_text())
        if not isinstance(found, dict):
            raise ValueError(f"it holds a {type(found).__name__}")
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise UserError(f"{file} must hold an object of JSON ({error}): mend it, or take it away") from error
    return found


def camera_files(video: Path) -> dict[str, Path]:
    """The video file of each camera of an episode, as the json beside its `video` names them."""
    named = read_details(video).get("cameras", {})
    return {camera: video.parent / ("" if name == video.name else "cameras") / name for camera, name in named.items()}


def copy_video(video: Path, to: Path) -> None:
    """Copies an episode's video, its cameras' videos and its json, under the name `to`."""
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(video, to)
    names = {}
    for camera, file in camera_files(video).items():
        if file == video:
            names[camera] = to.name
        elif file.exists():
            names[camera] = f"{to.stem}.{camera}{file.suffix}"
            (to.parent / "cameras").mkdir(exist_ok=True)
            shutil.copyfile(file, to.parent / "cameras" / names[camera])
    details = {**read_details(video), **({"cameras": names} if names else {})}
    if details:
        to.with_suffix(".json").write_text(json.dumps(details, indent=2))


def size_on_disk(video: Path) -> int:
    """Bytes of an episode's videos."""
    return sum(file.stat().st_size for file in {video, *camera_files(video).values()} if file.exists())

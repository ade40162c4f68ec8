"""Folders of videos ↔ episodes: recordings of a robot, or frames that were kept while an episode was collected.

name.mp4        an episode; also .mkv, .webm, .mov, .avi, .m4v
name.npz        its numbers, a row for each frame: obs [T+1, O], action [T, A], maybe reward [T] and success [T+1]
name.json       maybe {"instruction": …, "cameras": {camera: file}}; files of further cameras are in cameras/
"""

import codecs
import json
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import parent_process
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pbrl.data.damage import is_being_written
from pbrl.data.inspection import DataSet, Names, check_episodes, check_precision, to_float32
from pbrl.data.recorded_numbers import read_numbers
from pbrl.data.video_reader import PAUSE_S, Torn, find_torn, read_video_info, video_digest
from pbrl.types import Episode, UserError

VIDEOS = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v")
MOST_TORN = 0.25  # share of a video's frames


def video_files(path: Path) -> list[Path]:
    """The video files in a folder, by name, without hidden ones."""
    found = (file for file in path.iterdir() if file.suffix.lower() in VIDEOS and not file.name.startswith("."))
    return sorted(file for file in found if file.is_file() or (file.is_symlink() and not file.exists()))


def read_recordings(path: Path) -> list[Episode]:
    """The episodes of a folder of videos. Raises UserError for a file that does not fit."""
    return inspect_recordings(path).episodes


def inspect_recordings(path: Path) -> DataSet:
    """A folder of videos, each an episode; see above. Frames that cannot be decoded are named on the screen.

    Without a npz an episode can be shown and compared, but not learnt from. Raises UserError for a file that does not
    fit.
    """
    files = video_files(path)
    _check_names(files)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:  # decoding leaves Python free
        bar = tqdm(threads.map(_read_recording, range(len(files)), files), "reading videos", len(files), False)
        found = list(bar)
    episodes = _without_copies([episode for episode, _ in found])
    _check_sizes(episodes)
    torn = {file: own for file, (_, own) in zip(files, found, strict=True) if own.frames}
    if parent_process() is None:  # once, not in each process
        print(describe_torn(torn) + describe_pauses(files), end="", flush=True)
    notes = check_precision(path, Names(), episodes)
    episodes = [to_float32(episode) for episode in episodes]
    check_episodes(path, episodes)
    return DataSet(episodes, str(path), notes=notes)


def _read_recording(i: int, file: Path) -> tuple[Episode, Torn]:
    if is_being_written(file):
        raise UserError(f"{file} is still being written or copied: wait until that is done, and start again")
    frames = len(read_video_info(file).shown)
    obs, action, reward, success, person = read_numbers(file.with_suffix(".npz"), file, frames)
    details = read_details(file)
    instruction = details.get("instruction") or details.get("about", {}).get("instruction", "")  # ours; the recorder's
    episode = Episode(
        i,
        obs,
        action,
        reward,
        False,
        success,
        source=file.stem,
        video=file,
        instruction=str(instruction),
        filmed=details.get("video", "camera") == "camera",  # the recorder's: the arm is drawn where it has no camera
        person=person,
    )
    return episode, _look_for_torn(file, frames)


def _look_for_torn(file: Path, frames: int) -> Torn:
    """Raises UserError where more than a few frames are torn."""
    found = find_torn(file)
    if len(found.frames) > MOST_TORN * frames:
        raise UserError(
            f"{file}: {len(found.frames)} of {frames} frames cannot be decoded ({spell_out(found.frames)}): "
            "record it again, or take it away"
        )
    return found


def describe_torn(torn: dict[Path, Torn]) -> str:
    """Which frames the picture before stands for, file by file; empty where there are none."""
    if not torn:
        return ""
    count = sum(len(found.frames) for found in torn.values())
    lines = [f"torn    {count} frames in {len(torn)} videos cannot be decoded; the picture before is shown:"]
    for file, found in torn.items():
        after = f"; may be spoilt by it: {spell_out(found.doubtful)}" if found.doubtful else ""
        lines.append(f"        {file.name}: frame {spell_out(found.frames)}{after}")
    return "\n".join(lines) + "\n"


def describe_pauses(files: Sequence[Path]) -> str:
    """Where nothing was recorded for long, file by file; empty where that is nowhere."""
    found = {file.name: pauses for file in files if (pauses := read_video_info(file).pauses())}
    if not found:
        return ""
    lines = [f"pauses  in {len(found)} videos nothing was recorded for long; they are shown as {PAUSE_S:g} s:"]
    for name, pauses in found.items():
        lines.append(f"        {name}: " + ", ".join(f"{s:.0f} s after frame {t}" for t, s in pauses.items()))
    return "\n".join(lines) + "\n"


def spell_out(numbers: Sequence[int], most: int = 8) -> str:
    """Numbers in order as ranges: "3, 7 to 9"."""
    ranges: list[list[int]] = []
    for n in numbers:
        if ranges and n == ranges[-1][1] + 1:
            ranges[-1][1] = n
        else:
            ranges.append([n, n])
    words = [str(a) if a == b else f"{a} to {b}" for a, b in ranges]
    return ", ".join(words[:most] + ["…"] * (len(words) > most))


def _check_names(files: Sequence[Path]) -> None:
    """Numbers belong to one video. Raises UserError."""
    shared = [stem for stem, count in Counter(file.stem for file in files).items() if count > 1]
    for file in files:
        if file.stem in shared and any(file.with_suffix(suffix).exists() for suffix in (".npz", ".json")):
            names = ", ".join(other.name for other in files if other.stem == file.stem)
            raise UserError(f"{file.with_suffix('.npz')} could belong to each of {names}: rename all but one of them")


def _check_sizes(episodes: Sequence[Episode]) -> None:
    """Raises UserError where the sizes of obs and action differ."""
    first = episodes[0]
    for other in episodes:
        if other.obs.shape[1:] != first.obs.shape[1:] or other.action.shape[1:] != first.action.shape[1:]:
            words = [
                f"{e.video.with_suffix('.npz').name if e.video and e.obs.shape[1] else f'{e.source} (no npz)'} has "
                f"{e.obs.shape[1]} numbers an observation and {e.action.shape[1]} an action"
                for e in (first, other)
            ]
            raise UserError(f"the recordings in {first.video and first.video.parent} differ: {', '.join(words)}")


def _without_copies(episodes: Sequence[Episode]) -> list[Episode]:
    """A video that stands beside other numbers, too (a black one, a test picture), does not say which episode it is."""
    numbers: dict[bytes, set[bytes]] = {}
    for e in episodes:
        assert e.video is not None
        numbers.setdefault(video_digest(e.video), set()).add(e.obs.tobytes() + e.action.tobytes() + e.reward.tobytes())
    shared = {video for video, found in numbers.items() if len(found) > 1}
    return [e._replace(filmed=e.filmed and video_digest(e.video) not in shared) if e.video else e for e in episodes]


def read_details(video: Path) -> dict[str, Any]:
    """What the json beside a video holds; {} where there is none. Raises UserError where it is damaged."""
    file = video.with_suffix(".json")
    try:
        found = json.loads(file.read_bytes().removeprefix(codecs.BOM_UTF8))
        if not isinstance(found, dict):
            raise ValueError(f"it holds a {type(found).__name__}")
        found = {name: value for name, value in found.items() if value is not None}
        for name in ("about", "cameras"):
            if not isinstance(found.get(name, {}), dict):
                raise ValueError(f"{name} is a {type(found[name]).__name__} and no object")
        for camera, name in found.get("cameras", {}).items():
            if not isinstance(name, str) or Path(name).name != name:
                raise ValueError(f"camera {camera} is the name of a file, not {name!r:.60}")
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} must hold an object of JSON ({error}): mend it, or take it away") from error
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror or error}): mend it, or take it away") from error
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

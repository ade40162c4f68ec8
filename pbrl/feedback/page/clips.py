"""Clips for people: segments rendered again from simulator states or cut from videos, as H.264 for any browser.

Separate processes make a clip when it is first wanted; files are kept by what they show, below a limit.
"""

import contextlib
import os
from bisect import bisect
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np

from pbrl.data.rendering import Renderers, first_rows, shown_environment, shown_episode
from pbrl.data.video_reader import VideoFile, read_video_info
from pbrl.types import Episode, UserError

PART = ".part.mp4"  # of a clip that is being made


@dataclass(frozen=True)
class Look:
    """How clips are shown: `size` pixels high at `fps`, each frame one step, so that a step can be pointed at.

    With `as_recorded` frames of a video are shown at the times at which they were recorded, whatever `fps` is.
    """

    size: int = 256
    fps: int = 20
    camera: str | None = None
    as_recorded: bool = False

    def __post_init__(self) -> None:
        if self.size < 16 or self.size % 2 or self.fps < 1:
            raise UserError("label.size is an even number of pixels from 16 on, and label.fps at least 1")


class Clips:
    """Files of clips under `folder`, below a limit. `episodes` are those of the data set, whose videos have times."""

    def __init__(
        self, renderers: Renderers, folder: Path, *, look: Look, limit_mb: float, episodes: Sequence[Episode] = ()
    ):
        from pbrl.data.frames import look_of

        self.renderers, self.folder, self.look, self.limit = renderers, Path(folder), look, limit_mb * 1e6
        looks = look_of(renderers.source["env"] or {})  # the same clip with a see-through arm is another file
        self.shown = "".join(f"-{name}-{value}" for name, value in looks.items())
        self.first = first_rows(episodes).tolist()
        self.videos = [read_video_info(e.video) if e.video is not None else None for e in episodes]
        self.folder.mkdir(parents=True, exist_ok=True)
        self.wanted: dict[str, Future[Path]] = {}
        self.lock = Lock()

    def path(self, clip: str) -> Path:
        """Where a clip's file is, once it is made."""
        camera = f"-{self.look.camera}" if self.look.camera else ""
        speed = "recorded" if self.look.as_recorded else self.look.fps
        return self.folder / f"{clip}-{self.look.size}-{speed}{camera}{self.shown}.mp4"

    def times_s(self, row: int, length: int) -> np.ndarray:
        """When each frame of a clip is shown, and when the last one is over, from its start: [length + 1] s."""
        e = bisect(self.first, row) - 1
        video = self.videos[e] if e < len(self.videos) else None
        return frame_times(video, row - self.first[e], length, self.look)

    def get(self, clip: str, row: int, length: int) -> "Future[Path]":
        """The file of the segment of `length` steps that begins at `row`: at once where it is kept."""
        path = self.path(clip)
        with self.lock:
            known = self.wanted.get(clip)
            if known is not None and not (known.done() and not path.exists()):
                if known.done():
                    os.utime(path)
                return known
            future: Future[Path]
            if path.exists():
                os.utime(path)  # the least recently used go first
                future = Future()
                future.set_result(path)
            else:
                future = self.renderers.submit(_render, row, length, self.look, path)
                future.add_done_callback(lambda _: self._tidy())
            self.wanted[clip] = future
            return future

    def _tidy(self) -> None:
        """Deletes the least recently used files until the rest fits."""
        found = []
        for file in self.folder.glob("*.mp4"):
            with contextlib.suppress(OSError):  # another page tidies too, or somebody empties the folder
                if not file.name.endswith(PART):
                    found.append((file.stat().st_mtime, file.stat().st_size, file))
        excess = sum(size for _, size, _ in found) - self.limit
        for _, size, file in sorted(found)[:-8]:  # those on the page now stay
            if excess <= 0:
                return
            excess -= size
            file.unlink(missing_ok=True)


def frame_times(video: VideoFile | None, first: int, length: int, look: Look) -> np.ndarray:
    """The same of a clip that begins at step `first` of an episode with this video, or none: [length + 1] s."""
    if video is not None and look.as_recorded:
        return video.times_s(first, first + length)
    return np.arange(length + 1) / look.fps


# In a rendering process


def _render(row: int, length: int, look: Look, path: Path) -> Path:
    from pbrl.data.video import frames, write_mp4

    episode, t = shown_episode(row)
    env = None if episode.video is not None else shown_environment()
    times = frame_times(episode.video and read_video_info(episode.video), t, length, look)
    size = {"width": look.size, "height": look.size}
    images = frames(env, episode, first=t, last=t + length, camera=look.camera, **size)
    part = path.with_suffix(f".{os.getpid()}{PART}")
    path.parent.mkdir(parents=True, exist_ok=True)  # again: somebody may have freed the space
    try:
        write_mp4(part, images, times)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path

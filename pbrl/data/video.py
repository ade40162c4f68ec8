"""Frames, re-rendered from simulator states or cut from recordings; as H.264 that every browser plays, or a GIF."""

from collections.abc import Iterable, Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import av
import av.error
import numpy as np
from PIL import Image

from pbrl.types import Environment, Episode, UserError


def frames(
    env: Environment | None,
    episode: Episode,
    *,
    width: int,
    height: int,
    first: int = 0,
    last: int | None = None,
    every: int = 1,
    camera: str | None = None,
) -> Iterator[np.ndarray]:
    """Frames [H, W, 3] uint8 of an episode, from step `first` up to before step `last`.

    They are rendered by `env` from the episode's states, or cut from its video, then as wide as that is. Raises
    UserError where it has neither.
    """
    if episode.video is not None:
        last = len(episode.obs) if last is None else last
        found = read_frames(episode.video, read_video_info(episode.video), first=first, last=last, height=height)
        yield from islice(found, 0, None, every)
    elif episode.state is not None:
        for t in range(len(episode.state))[first:last:every]:
            assert env is not None
            env.restore(episode.seed, episode.state[t], t)
            yield env.render(width=width, height=height, camera=camera)
    else:
        raise UserError(
            "frames are rendered from simulator states or cut from videos, and this episode has neither: collect it "
            "with env.frames=true, or choose another data=…"
        )


class VideoFile(NamedTuple):
    """A video file. `shown` [F] says when each frame is, in units of its stream, in order; `fps` is the mean rate."""

    shown: np.ndarray
    fps: float


@cache
def read_video_info(path: Path) -> VideoFile:
    """What a file that FFmpeg decodes holds. Raises UserError where it is damaged, or its frames have no times."""
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            packets = [p for p in container.demux(stream) if p.size and not p.is_discard]
            shown = np.sort(np.array([np.nan if p.pts is None else p.pts for p in packets], np.float64))
            if len(shown) < 2 or np.isnan(shown).any() or (np.diff(shown) <= 0).any():
                raise UserError(f"{path} does not say when its frames are shown: `ffmpeg -i {path.name} better.mp4`")
            seconds = float(shown[-1] - shown[0]) * float(stream.time_base or 0)
            found = VideoFile(shown.astype(np.int64), (len(shown) - 1) / seconds)
        for t in (0, len(shown) - 1):
            if not len(list(read_frames(path, found, first=t, last=t + 1, height=16))):
                raise UserError(f"{path} is damaged: frame {t} of {len(shown)} is not there")
    except (av.error.FFmpegError, IndexError, OSError) as error:
        raise UserError(f"{path} holds no video that can be read ({error}): convert it, or take it away") from error
    return found


def read_frames(path: Path, source: VideoFile, *, first: int, last: int, height: int | None) -> Iterator[np.ndarray]:
    """Frames [height, W, 3] uint8 of a recording, upright, from `first` up to before `last`; None: as they are."""
    begin, end = source.shown[first], source.shown[min(last, len(source.shown)) - 1]
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        container.seek(int(begin), stream=stream)  # to the key frame before
        for frame in container.decode(stream):
            if frame.pts is None or frame.pts < begin:
                continue
            if frame.pts > end:
                return
            turns = round(frame.rotation / 90) % 4
            wide, high = (frame.width, frame.height) if turns % 2 == 0 else (frame.height, frame.width)
            width, tall = (wide, high) if height is None else (max(2, 2 * round(height * wide / high / 2)), height)
            size = {"width": width, "height": tall} if turns % 2 == 0 else {"width": tall, "height": width}
            yield np.rot90(frame.reformat(**size, format="rgb24").to_ndarray(), turns)


def square(image: np.ndarray, size: int) -> np.ndarray:
    """The middle of an image [H, W, 3] uint8, scaled to what a policy observes: [size, size, 3]."""
    side = min(image.shape[:2])
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    middle = np.ascontiguousarray(image[top : top + side, left : left + side])
    return np.asarray(Image.fromarray(middle).resize((size, size), Image.Resampling.BOX))


class VideoWriter:
    """Writes a file frame by frame: H.264, yuv420p, with its index in front, as every browser plays it.

    Frame sides must be even. With `lossless` it is RGB to the bit, which browsers do not play, and sides may be odd.
    """

    def __init__(self, path: Path, fps: float, lossless: bool = False):
        self.container = av.open(str(path), "w", options={"movflags": "faststart"})
        self.fps, self.lossless = max(1, round(fps)), lossless
        self.stream: Any = None

    def add(self, image: np.ndarray) -> None:
        """Adds a frame [H, W, 3] uint8; all have one size."""
        if self.stream is None:
            codec, pixels, quality = ("libx264rgb", "rgb24", "0") if self.lossless else ("libx264", "yuv420p", "23")
            self.stream = self.container.add_stream(codec, rate=self.fps, options={"crf": quality, "g": "10"})
            self.stream.height, self.stream.width, self.stream.pix_fmt = image.shape[0], image.shape[1], pixels
        self.container.mux(self.stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), "rgb24")))

    def close(self) -> None:
        """Finishes the file."""
        if self.stream is not None:
            self.container.mux(self.stream.encode())
        self.container.close()


def write_mp4(path: Path, images: Iterable[np.ndarray], fps: float) -> None:
    """Writes H.264, yuv420p, with its index in front. Frame sides must be even."""
    writer = VideoWriter(path, fps)
    try:
        for image in images:
            writer.add(image)
    finally:
        writer.close()


def write_gif(path: Path, images: Iterable[np.ndarray], fps: float) -> None:
    """Writes a looping GIF."""
    pictures = [Image.fromarray(image).quantize(64, dither=Image.Dither.NONE) for image in images]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=round(1000 / fps), loop=0, optimize=True)

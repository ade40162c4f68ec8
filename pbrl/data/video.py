"""Frames, re-rendered from simulator states or cut from recordings; as H.264 that every browser plays, or a GIF."""

from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from pbrl.data.video_reader import VideoFile as VideoFile
from pbrl.data.video_reader import read_frames as read_frames
from pbrl.data.video_reader import read_video_info as read_video_info
from pbrl.types import Environment, Episode, UserError

TICK = Fraction(1, 90_000)  # s, of videos whose frames have times of their own


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
            yield env.render_at(episode.seed, episode.state[t], t, width=width, height=height, camera=camera)
    else:
        raise UserError(
            "frames are rendered from simulator states or cut from videos, and this episode has neither: collect it "
            "with env.frames=true, or choose another data=…"
        )


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
        self.fps, self.lossless = fps, lossless
        self.stream: Any = None

    def add(self, image: np.ndarray) -> None:
        """Adds a frame [H, W, 3] uint8; all have one size."""
        self._add(image, None)

    def _add(self, image: np.ndarray, at: int | None) -> None:
        if self.stream is None:
            codec, pixels, quality = ("libx264rgb", "rgb24", "0") if self.lossless else ("libx264", "yuv420p", "23")
            options = {"crf": quality, "g": "10", **({} if at is None else {"bf": "0"})}  # in the order of their times
            self.stream = self.container.add_stream(codec, rate=_as_rate(self.fps), options=options)
            self.stream.height, self.stream.width, self.stream.pix_fmt = image.shape[0], image.shape[1], pixels
            if at is not None:
                self.stream.codec_context.time_base = TICK
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), "rgb24")
        if at is not None:
            frame.pts, frame.time_base = at, TICK
        self._mux(self.stream.encode(frame))

    def _mux(self, packets: Sequence[Any]) -> None:
        self.container.mux(packets)

    def close(self) -> None:
        """Finishes the file."""
        if self.stream is not None:
            self._mux(self.stream.encode())
        self.container.close()


class TimedVideoWriter(VideoWriter):
    """Writes a file whose frames are shown at times of their own: `times_s` [F + 1], the last of them the end."""

    def __init__(self, path: Path, times_s: np.ndarray):
        places = np.arange(len(times_s))
        self.ticks = np.maximum.accumulate(np.round(times_s / float(TICK)).astype(np.int64) - places) + places
        super().__init__(path, (len(times_s) - 1) / max(float(times_s[-1] - times_s[0]), 1e-3))
        self.count = 0

    def add(self, image: np.ndarray) -> None:
        self._add(image, int(self.ticks[self.count]))
        self.count += 1

    def _mux(self, packets: Sequence[Any]) -> None:
        for packet in packets:
            packet.duration = int(self.ticks[np.searchsorted(self.ticks, packet.pts) + 1]) - packet.pts
            self.container.mux(packet)


def _as_rate(fps: float) -> Fraction:
    return Fraction(fps).limit_denominator(1001)  # as of 30000/1001 frames a second


def write_mp4(path: Path, images: Iterable[np.ndarray], fps: float | np.ndarray) -> None:
    """Writes H.264, yuv420p, with its index in front. Frame sides must be even.

    `fps` is the rate, or the times [F + 1] in seconds at which each frame is shown and the last one is over.
    """
    writer = TimedVideoWriter(path, fps) if isinstance(fps, np.ndarray) else VideoWriter(path, fps)
    try:
        for image in images:
            writer.add(image)
    finally:
        writer.close()


def write_webp(path: Path, images: Iterable[np.ndarray], fps: float) -> None:
    """Writes a looping WebP, which is lossy and a fraction of a GIF's size."""
    pictures = [Image.fromarray(image) for image in images]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=round(1000 / fps), loop=0, quality=50)


def write_gif(path: Path, images: Iterable[np.ndarray], fps: float) -> None:
    """Writes a looping GIF."""
    pictures = [Image.fromarray(image).quantize(64, dither=Image.Dither.NONE) for image in images]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=round(1000 / fps), loop=0, optimize=True)

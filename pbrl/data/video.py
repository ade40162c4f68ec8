"""Frames, re-rendered from simulator states or cut from recordings; as H.264 that every browser plays, or a GIF."""

from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import av
import av.error
import numpy as np
from PIL import Image

from pbrl.types import Episode, UserError


def frames(
    env: Any, episode: Episode, *, width: int, height: int, first: int = 0, last: int | None = None, every: int = 1,
    camera: str | None = None,
) -> Iterator[np.ndarray]:  # fmt: skip
    """Frames [H, W, 3] uint8 of an episode with stored states, from step `first` up to before step `last`."""
    assert episode.state is not None
    for t in range(len(episode.state))[first:last:every]:
        env.restore(episode.seed, episode.state[t], t)
        yield env.render(width=width, height=height, camera=camera)


class Recording(NamedTuple):
    """A video file. `shown` [F] says when each frame is, in units of its stream, in order; `fps` is the mean rate."""

    shown: np.ndarray
    fps: float


@cache
def recording(path: Path) -> Recording:
    """What a file that FFmpeg decodes holds. Raises UserError where its frames cannot be had or told apart."""
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            packets = [p for p in container.demux(stream) if p.size and not p.is_discard]
            shown = np.sort(np.array([np.nan if p.pts is None else p.pts for p in packets], np.float64))
            if len(shown) < 2 or np.isnan(shown).any() or (np.diff(shown) <= 0).any():
                raise UserError(f"{path} does not say when its frames are shown: `ffmpeg -i {path.name} better.mp4`")
            seconds = float(shown[-1] - shown[0]) * float(stream.time_base or 0)
            found = Recording(shown.astype(np.int64), (len(shown) - 1) / seconds)
        for t in (0, len(shown) - 1):
            if not len(list(recorded(path, found, first=t, last=t + 1, height=16))):
                raise UserError(f"{path} is damaged: frame {t} of {len(shown)} is not there")
    except (av.error.FFmpegError, IndexError, OSError) as error:
        raise UserError(f"{path} holds no video that can be read ({error}): convert it, or take it away") from error
    return found


def recorded(path: Path, source: Recording, *, first: int, last: int, height: int) -> Iterator[np.ndarray]:
    """Frames [height, W, 3] uint8 of a recording, upright, from `first` up to before `last`."""
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
            width = max(2, 2 * round(height * wide / high / 2))
            size = {"width": width, "height": height} if turns % 2 == 0 else {"width": height, "height": width}
            yield np.rot90(frame.reformat(**size, format="rgb24").to_ndarray(), turns)


def square(image: np.ndarray, size: int) -> np.ndarray:
    """The middle of a picture [H, W, 3] uint8, as a policy sees it: [size, size, 3]."""
    side = min(image.shape[:2])
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    middle = np.ascontiguousarray(image[top : top + side, left : left + side])
    return np.asarray(Image.fromarray(middle).resize((size, size), Image.Resampling.BOX))


def write_mp4(path: Path, images: Iterable[np.ndarray], fps: float) -> None:
    """Writes H.264, yuv420p, with its index in front. Frame sides must be even."""
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream: Any = None
        for image in images:
            if stream is None:
                stream = container.add_stream("libx264", rate=max(1, round(fps)), options={"crf": "23", "g": "10"})
                stream.height, stream.width, stream.pix_fmt = image.shape[0], image.shape[1], "yuv420p"
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), "rgb24")))
        if stream is not None:
            container.mux(stream.encode())


def write_gif(path: Path, images: Iterable[np.ndarray], fps: float) -> None:
    """Writes a looping GIF."""
    pictures = [Image.fromarray(image).quantize(64, dither=Image.Dither.NONE) for image in images]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=round(1000 / fps), loop=0, optimize=True)

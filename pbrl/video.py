"""Clips: frames re-rendered from simulator states, as H.264 that every browser plays, or as an animated picture."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from pbrl.types import Episode


def frames(
    env: Any, episode: Episode, *, width: int, height: int, first: int = 0, last: int | None = None, every: int = 1,
    camera: str | None = None,
) -> Iterator[np.ndarray]:  # fmt: skip
    """Frames [H, W, 3] uint8 of an episode with stored states, from step `first` up to before step `last`."""
    assert episode.state is not None
    for t in range(len(episode.state))[first:last:every]:
        env.restore(episode.seed, episode.state[t], t)
        yield env.render(width=width, height=height, camera=camera)


def write_mp4(path: Path, images: Iterable[np.ndarray], fps: float) -> None:
    """Writes H.264, yuv420p, with its index in front. Frame sides must be even."""
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream: Any = None
        for image in images:
            if stream is None:
                stream = container.add_stream("libx264", rate=max(1, round(fps)), options={"crf": "23", "g": "10"})
                stream.height, stream.width, stream.pix_fmt = image.shape[0], image.shape[1], "yuv420p"
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        if stream is not None:
            container.mux(stream.encode())


def write_gif(path: Path, images: Iterable[np.ndarray], fps: float) -> None:
    """Writes a looping GIF."""
    pictures = [Image.fromarray(image).quantize(64, dither=Image.Dither.NONE) for image in images]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=round(1000 / fps), loop=0, optimize=True)

"""Small videos whose every frame says which one it is, and what becomes of files."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def picture(t: int, size=(64, 48)) -> np.ndarray:
    """Says `t` in eight bits, each a stripe from top to bottom."""
    bits = np.array([t >> bit & 1 for bit in range(8)], np.uint8)
    return np.repeat(np.tile(200 * bits, (size[1], 1)), size[0] // 8, axis=1)[..., None].repeat(3, -1)


def which(image) -> int:
    """Which frame of a film it is."""
    centres = ((np.arange(8) + 0.5) * image.shape[1] / 8).astype(int)
    return sum(int(bright) << bit for bit, bright in enumerate(image[:, centres].mean((0, 2)) > 100))


def film(path, frames=40, codec="libx264", options=None, size=(64, 48), fps=30, times=None, first=0):
    """Writes a video whose frame t says so; shown at `times` (s) where they are given."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps if times is None else 1000, options=options or {})
        stream.width, stream.height = size
        stream.pix_fmt = {"prores_ks": "yuv422p10le", "mjpeg": "yuvj420p"}.get(codec, "yuv420p")
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for t in range(frames if times is None else len(times)):
            frame = av.VideoFrame.from_ndarray(picture(first + t, size), "rgb24")
            if times is not None:
                frame.pts, frame.time_base = round(1000 * times[t]), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def tear(path: Path, packet: int, keep: float = 0.0) -> None:
    """Overwrites a packet of a video with zeros, but for a share of it."""
    with av.open(str(path)) as container:
        place, size = [(p.pos, p.size) for p in container.demux(container.streams.video[0]) if p.size][packet]
    data = bytearray(path.read_bytes())
    data[place + int(keep * size) : place + size] = bytes(size - int(keep * size))
    path.write_bytes(data)


def shown(path: Path) -> tuple[list[int], list[float], float]:
    """Of a clip: which frames it has, when each is shown (s), and how long it is (s)."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [(which(f.to_ndarray(format="rgb24")), float(f.pts * f.time_base)) for f in container.decode(stream)]
        return [t for t, _ in frames], [at for _, at in frames], float(stream.duration * stream.time_base)

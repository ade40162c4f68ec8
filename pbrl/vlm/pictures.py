"""Clips as a model sees them: single frames, the first beside the last, contact sheets with times, or frame by frame.

Pictures are drawn in processes beside, and kept by clip, so that the same clip gives the same bytes again: what was
paid for is found by them, also where nothing can be rendered.
"""

import asyncio
import base64
import hashlib
import io
import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pbrl.data.frames import look_of
from pbrl.data.rendering import Renderers, shown_environment, shown_episode
from pbrl.feedback.questions import clip_id
from pbrl.types import Clip, UserError
from pbrl.vlm.judging import View
from pbrl.vlm.messages import Picture

if TYPE_CHECKING:  # it takes PyTorch, without which the processes that draw begin in half of the time
    from pbrl.data.table import Table

QUALITY = 92  # of JPEG
GAP, MARGIN = 4, 3  # pixels between frames of a sheet, and around burnt-in words


@dataclass(frozen=True)
class Sight:
    """What is shown of a clip: `view` is frame (its last), ends (first beside last), sheet or frames (of `frames`).

    Each frame is `size` pixels high; `camera` None is the environment's first.
    """

    view: str
    size: int
    frames: int
    camera: str | None

    def steps(self, length: int) -> list[int]:
        """The steps of a clip that are shown, in the order of time."""
        count = {"frame": 1, "ends": 2}.get(self.view, self.frames)
        if self.view == "frame":
            return [length - 1]
        return sorted({round(x) for x in np.linspace(0, length - 1, count)})


class Pictures:
    """Views of the clips of a table, kept in `folder` by clip and sight. `source` is what Renderers take."""

    def __init__(self, table: "Table", source: dict[str, Any], sight: Sight, folder: Path, workers: int):
        self.table, self.sight, self.folder = table, sight, Path(folder)
        made_of = [asdict(sight), look_of(source["env"] or {}), QUALITY]
        self.digest = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:10]
        self.renderers: Renderers | None = None
        self.source, self.workers = source, workers
        self.drawn = 0
        self._drawing: dict[str, asyncio.Future[View]] = {}

    async def view(self, clip: Clip) -> View:
        """A clip as the model sees it; drawn once. Raises UserError where nothing can be shown."""
        name = clip_id(clip)
        if name not in self._drawing:
            self._drawing[name] = asyncio.ensure_future(self._view(clip))
            self._drawing[name].add_done_callback(lambda _: self._drawing.pop(name, None))
        return await asyncio.shield(self._drawing[name])

    def path(self, clip: Clip) -> Path:
        """Where the view of a clip is kept."""
        return self.folder / "views" / f"{clip_id(clip)}-{self.digest}.json"

    async def _view(self, clip: Clip) -> View:
        path = self.path(clip)
        kept = await asyncio.to_thread(read_view, path)
        if kept is not None:
            return kept
        if self.renderers is None:
            self.renderers = Renderers(self.source, self.workers)
        self.drawn += 1
        row = self.table.row(clip)
        drawn = self.renderers.submit(draw, row, clip.length, self.sight, path)
        return await asyncio.wrap_future(drawn)

    def close(self) -> None:
        """Stops the processes."""
        if self.renderers is not None:
            self.renderers.close()


def read_view(path: Path) -> View | None:
    """A view that was kept, if it is whole."""
    try:
        kept = json.loads(path.read_text())
        return View(tuple(Picture(base64.b64decode(data)) for data in kept["pictures"]), tuple(kept["times_s"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def draw(row: int, length: int, sight: Sight, path: Path) -> View:
    """Draws the clip of `length` steps that begins at `row`, in a rendering process, and keeps it. Raises UserError."""
    from pbrl.data.video import frames, read_video_info

    episode, first = shown_episode(row)
    steps = sight.steps(length)
    env = None if episode.video is not None else shown_environment()
    size = {"width": sight.size, "height": sight.size}
    images, begin = [], 0
    for step in steps:
        one = frames(env, episode, first=first + step, last=first + step + 1, camera=sight.camera, **size)
        images.append(next(one))
    hz = read_video_info(episode.video).fps if env is None and episode.video is not None else env.control_hz  # type: ignore[union-attr]
    times = tuple((step - begin) / hz for step in steps)
    pictures = compose(images, times, sight.view)
    view = View(tuple(Picture(encode(image)) for image in pictures), times[-len(pictures) :])
    _keep(view, path)
    return view


def _keep(view: View, path: Path) -> None:
    data = [base64.b64encode(picture.data).decode() for picture in view.pictures]
    part = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps({"times_s": view.times_s, "pictures": data}))
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise UserError(f"cannot write {path} ({error}): free some space, or set vlm.cache=…") from error


def compose(images: Sequence[np.ndarray], times_s: Sequence[float], view: str) -> list[np.ndarray]:
    """The pictures [H, W, 3] uint8 of a view, of frames of one size."""
    if view in ("frame", "frames"):
        return list(images)
    columns = len(images) if view == "ends" else math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    height, width, _ = images[0].shape
    shape = (rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3)
    sheet = np.full(shape, 255, np.uint8)
    for i, (image, time_s) in enumerate(zip(images, times_s, strict=True)):
        top, left = (i // columns) * (height + GAP), (i % columns) * (width + GAP)
        sheet[top : top + height, left : left + width] = burn(image, f"{time_s:.1f} s")
    return [sheet]


def burn(image: np.ndarray, words: str) -> np.ndarray:
    """The image [H, W, 3] with words in its corner, white on black."""
    picture = Image.fromarray(image)
    pen = ImageDraw.Draw(picture)
    font = ImageFont.load_default(max(10, image.shape[0] // 12))
    left, top, right, bottom = pen.textbbox((MARGIN, MARGIN), words, font=font)
    pen.rectangle((left - MARGIN, top - MARGIN, right + MARGIN, bottom + MARGIN), fill=(0, 0, 0))
    pen.text((MARGIN, MARGIN), words, font=font, fill=(255, 255, 255))
    return np.asarray(picture)


def encode(image: np.ndarray) -> bytes:
    """An image [H, W, 3] uint8 as JPEG."""
    out = io.BytesIO()
    Image.fromarray(image).save(out, "JPEG", quality=QUALITY)
    return out.getvalue()

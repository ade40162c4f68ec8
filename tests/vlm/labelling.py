"""Questions about the point world in a store, and a labeller that answers them."""

import asyncio
import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import simulated_judge
from benchmarks.simulated_judge import Running
from pbrl.data import episodes as files
from pbrl.data import rendering
from pbrl.data.table import Table
from pbrl.feedback.questions import Question
from pbrl.feedback.store.leases import find_open
from pbrl.feedback.store.store import Store
from pbrl.types import Clip
from pbrl.vlm.labeller import Labeller
from pbrl.vlm.pictures import Pictures, Sight
from pbrl.vlm.pictures import draw as pictures_of
from pbrl.vlm.settings import Settings
from tests import toy

COUNT = 12
Served = tuple[Running, Path]  # a judge, and its answer key
Source = tuple[dict[str, Any], Table]  # what renderers take, and the data


def write(path: Path) -> Source:
    """Episodes of the point world in a data set."""
    files.write(path, toy.episodes(6), {})
    env = {"_target_": "tests.toy.Point"}
    source = {"env": env, "data": {"path": str(path)}, "folder": path.parent, "seed": 0, "workers": 0}
    return source, Table(files.read(path))


@contextlib.contextmanager
def serve(folder: Path, **profile: Any) -> Iterator[Served]:
    """A simulated judge that errs as it is told, whose answer key is in a folder."""
    key = folder / "key.jsonl"
    key.touch()
    running = simulated_judge.start(key, **profile)
    try:
        yield running, key
    finally:
        running.stop()


def ask(store: Store, table: Table, count: int = COUNT, kind: str = "pair", **more: Any) -> list[str]:
    """Questions about clips of four steps."""
    width = 2 if kind == "pair" else 1
    starts = np.random.default_rng(0).permutation(table.segment_starts(4).numpy())[: width * count]
    clips = table.clips(starts, 4)
    shown = [tuple(clips[i * width : (i + 1) * width]) for i in range(count)]
    return store.ask([Question(kind, x, {"text": "?"}, position=i, **more) for i, x in enumerate(shown)])


def draw(source: dict[str, Any], table: Table, settings: Settings, clips: Iterable[Clip]) -> None:
    """Draws clips here, which takes a moment: a rendering process would import for seconds first."""
    rendering._source.clear()
    rendering._source.update(source)
    rendering._data.cache_clear(), rendering.shown_environment.cache_clear()
    sight = Sight(settings.view or settings.make_judge().view, settings.size, settings.frames, settings.camera)
    pictures = Pictures(table, source, sight, settings.cache_folder, 1)
    for clip in clips:
        path = pictures.path(clip)
        if not path.exists():
            pictures_of(table.row(clip), clip.length, sight, path)


def run(store: Store, data: Source, settings: Settings, *, drawn: bool = True) -> Labeller:
    """Answers what is open, until it ends; with `drawn` its clips are drawn before."""
    if drawn:
        left = store.questions(find_open(store, "", "vlm"))
        draw(*data, settings, [clip for question in left.values() for clip in question.clips])
    labeller = Labeller(store, data[1], settings, data[0], instruction="")

    async def work() -> None:
        await labeller.begin()
        await labeller.run(once=True)

    try:
        asyncio.run(work())
    finally:
        labeller.close()
    return labeller

"""Processes that show clips of one data set: rendered again from simulator states, or cut from videos.

What they import takes seconds, so they start early; they do without PyTorch as far as they can.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from multiprocessing import get_context
from typing import Any, TypeVar

import numpy as np

from pbrl import processes
from pbrl.types import Episode

T = TypeVar("T")


class Renderers:
    """Runs functions beside the data set that `source` describes: the arguments of `collect.load_dataset`.

    In them, `shown_episode(row)` finds an episode and `shown_environment()` is what renders it.
    """

    def __init__(self, source: dict[str, Any], workers: int = 1):
        self.source, self.workers = source, workers
        self.pool = self.begin()
        self.pool.submit(os.getpid)  # their imports take seconds: start early

    def begin(self) -> ProcessPoolExecutor:
        """New processes; they start with the first task."""
        given = (self.source, processes.is_main_thread())
        return ProcessPoolExecutor(self.workers, get_context("spawn"), initializer=_load, initargs=given)

    def read(self) -> None:
        """Reads the data set, which exists now, before the first clip is wanted."""
        self.pool.submit(_data)

    def submit(self, function: Callable[..., T], *given: Any) -> "Future[T]":
        """Runs a function in one of the processes; where one of them was killed, in new ones."""
        try:
            return self.pool.submit(function, *given)
        except BrokenProcessPool:
            self.pool = self.begin()
            return self.pool.submit(function, *given)

    def close(self) -> None:
        """Stops the processes; what is still queued is not rendered."""
        self.pool.shutdown(cancel_futures=True)


def first_rows(episodes: Sequence[Episode]) -> np.ndarray:
    """At which row of a table each episode begins."""
    return np.cumsum([0, *(len(e.action) + 1 for e in episodes)])


# In a rendering process

_source: dict[str, Any] = {}


def _load(source: dict[str, Any], by_kernel: bool) -> None:
    processes.end_with_parent(by_kernel)
    _source.update(source)
    if source["env"]:  # recordings have none
        from hydra.utils import get_class

        get_class(source["env"]["_target_"])  # imports the simulator


@cache
def _data() -> tuple[list[Episode], np.ndarray]:
    """Its episodes, and at which row of a table each begins."""
    from pbrl.data import collect

    episodes, _ = collect.load_dataset(**_source)
    return episodes, first_rows(episodes)


def shown_episode(row: int) -> tuple[Episode, int]:
    """The episode that a row of the table is of, and its step."""
    episodes, first = _data()
    e = int(np.searchsorted(first, row, side="right")) - 1
    return episodes[e], row - int(first[e])


@cache
def shown_environment() -> Any:
    """The environment that renders, without the images that a policy would observe."""
    from pbrl.data.frames import without_images
    from pbrl.data.rollout import make_environment

    return make_environment(without_images(_source["env"]))

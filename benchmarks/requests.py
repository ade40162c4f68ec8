"""What is asked of a planner, and of what it is compared with: tasks, their data, and episodes that are kept apart.

Strengths are asked for that episodes have which nothing is learnt from: some like the rest of the data (`seen`), and as
held-out combinations (`held_out`) those in which two attributes lie in a corner where no other episode is. Such a test
begins where another episode that was kept apart had not come far yet. One of `changing`, which asks for what `seen`
does, begins in the midst of such an episode, which does something else already.
"""

import tempfile
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.attributes import FLAGS, learn
from pbrl.configs import compose_config
from pbrl.data import collect
from pbrl.data.measured import mean_over, measure_table
from pbrl.data.rollout import RolloutWorkers, make_environment
from pbrl.data.table import Table
from pbrl.feedback.asking import Asking
from pbrl.feedback.sources.context import Context
from pbrl.feedback.store.store import Store
from pbrl.run.build import build
from pbrl.settings import RunSettings
from pbrl.training.batches import Data

SETS = {"seen": 16, "held_out": 8, "changing": 8}  # how many episodes are asked for
CORNER = 2 / 3  # of the episodes, sorted by an attribute, lie outside the corner's range of it


class Task(NamedTuple):
    """Where, by what data, which attributes in which units; `corner` are the two that are held out together.

    1 is the greatest third of an attribute, -1 the least. Episodes count from step `settled` to `steps`. Tests begin in
    step `begin` of one, or `settled`, and last for `played` steps.
    """

    flags: tuple[str, ...]
    units: dict[str, str]
    corner: dict[str, int]
    settled: int
    steps: int
    begin: int
    played: int


TASKS = {
    "lift": Task(
        ("env=franka/lift", "query.length=16", "data=styles", "data.episodes=240",
         "data.behaviour.styles=[{speed:[0.4,1.0],lift:[0.0,0.2],circle:0.06}]"),
        {"speed": "m/s", "height": "m"}, {"speed": 1, "height": 1},
        settled=100, steps=160, begin=40, played=112,
    ),
    "cheetah": Task(
        ("env=dm_control/cheetah-run", "query.length=32", "data=waves", "data.episodes=200"),
        {"speed": "m/s", "height": "m", "gentleness": "rad/s²"}, {"speed": 1, "height": 1},
        settled=60, steps=500, begin=0, played=96,
    ),
}  # fmt: skip


class Asked(NamedTuple):
    """What is asked for: strengths [N, M] as the attribute model reads them, and what is measured [N, M], in units."""

    strength: Tensor
    measured: Tensor


class World:
    """A seed's data, attribute model and targets."""

    def __init__(self, name: str, seed: int):
        self.task = task = TASKS[name]
        self.names = list(task.units)
        own = [f"query.attributes=[{','.join(self.names)}]", f"seed={seed}", f"query.seed={seed}"]
        self.flags = [*task.flags, "feedback=perfect", *FLAGS, *own]
        self.settings = settings = RunSettings.parse(compose_config(*self.flags))
        source = {"folder": settings.data_dir, "seed": settings.data_seed, "workers": 0}
        episodes, dataset = collect.load_dataset(settings.env, settings.data, **source)
        workers, length = RolloutWorkers(settings.env, 0), settings.query.length
        measured = self.measure(Table(episodes), workers)
        apart = self.split(measured)
        learnt = np.setdiff1d(np.arange(len(episodes)), np.concatenate(list(apart.values())))
        self.table = Table([episodes[i] for i in learnt])
        with tempfile.TemporaryDirectory() as folder:
            store, teacher = Store(f"sqlite:///{folder}/answers.sqlite"), build(settings.feedback)
            shown = {"data_dir": settings.data_dir, "dataset": dataset, "workers": workers}
            teacher.start(Context(store, self.table, settings.query, **shown))
            asking = Asking(table=self.table, query=settings.query, source=teacher, store=store)
            asking.ask(0, None)
        self.model: Any = learn(settings, self.table, self.data(seed), asking, seed)
        self.table.relabel(self.model)
        self.learnt = measured[learnt]  # [N, M]
        self.asked = {
            name: Asked(self.read(Table([episodes[i] for i in places]), length), measured[places])
            for name, places in apart.items()
        }
        self.begins = [episodes[i] for i in apart["seen"]]
        self.env = make_environment(settings.env)

    def measure(self, table: Table, workers: RolloutWorkers) -> Tensor:
        """What is measured of each episode once it has settled, in units: [N, M]."""
        found = measure_table(table, workers, self.settings.data_dir)
        rows = table.first[:, None] + np.arange(self.task.settled, self.task.steps)
        return torch.from_numpy(np.stack([mean_over(found[name], rows) for name in self.names], -1))

    def split(self, measured: Tensor) -> dict[str, np.ndarray]:
        """The places of the episodes that are kept apart: all of the corner, and some of the others."""
        inside = np.ones(len(measured), bool)
        for name, side in self.task.corner.items():
            own = side * measured[:, self.names.index(name)]
            inside &= (own > own.quantile(CORNER)).numpy()
        corner, others = np.flatnonzero(inside), np.flatnonzero(~inside)
        seen = others[-SETS["seen"] :]
        return {"seen": seen, "held_out": corner, "changing": seen}  # the first of each are asked for

    @torch.no_grad()
    def read(self, table: Table, length: int) -> Tensor:
        """The mean strength of each episode's windows once it has settled, from 0 to 1: [N, M]."""
        begins = np.arange(self.task.settled, self.task.steps - length + 1)
        windows = torch.from_numpy(table.first[:, None] + begins)  # [N, W]
        found = [self.model.strength(table.segments(starts, length)).mean(0) for starts in windows]
        return torch.stack(found).clamp(0, 1).double()

    def data(self, seed: int) -> Data:
        """What learners draw from."""
        return Data(self.table, torch.Generator().manual_seed(seed))

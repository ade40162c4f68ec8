"""Whether a planner does what it is told: requested against measured physical strength of attributes.

    python -m benchmarks.aligndiff                              # three seeds, all methods
    python -m benchmarks.aligndiff --seeds 0 --methods planner

A scripted teacher compares segments by what the environment measures, an attribute model learns from that and labels
the data, and `algo=aligndiff` learns to plan. A fifth of the episodes is kept apart from all of it, and is what is
asked for: of each, the mean strengths of its windows between two steps, all attributes at once. From the same start
another episode is played, and what is measured of it between these steps is compared with what was measured of the one
that was kept apart. Beside the planner:

- the planner without guidance, with the same choice among candidates, and with guidance and no choice;
- behaviour cloning told the strengths: an MLP from state and strengths to the action. It plans no states, so there is
  nothing to choose from;
- the error of always the data's mean.

Each line of `benchmarks/results/aligndiff.jsonl` has Spearman's correlation between requested strength and measured
mean (`read_correlation`: and what the attribute model reads, which also chose), and the mean absolute error in the
attribute's unit. Prints a table in Markdown; lines that are there are kept.
"""

import argparse
import json
import os
import tempfile
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm, trange

import sim.configs
from benchmarks.attributes import FLAGS, TEST_SHARE, learn
from benchmarks.report import RESULTS
from benchmarks.styles import spread
from pbrl import api, steer
from pbrl.configs import compose_config
from pbrl.data import collect
from pbrl.data.measured import mean_over, measure_table
from pbrl.data.rollout import RolloutWorkers, make_environment
from pbrl.data.table import Table
from pbrl.feedback.asking import Asking
from pbrl.feedback.sources.context import Context
from pbrl.feedback.store.store import Store
from pbrl.files import to_json
from pbrl.models.layers import MLP
from pbrl.models.optim import Adam
from pbrl.models.planner import Planner, Targets
from pbrl.run.build import build
from pbrl.settings import RunSettings
from pbrl.training.batches import Data
from pbrl.training.held_out import rank_correlation
from pbrl.types import Observation

FILE = RESULTS / "aligndiff.jsonl"
UNITS = {"speed": "m/s", "height": "m", "gentleness": "rad/s²"}
TASK = ("env=dm_control/walker-walk", "data=waves", "data.episodes=200", "query.length=32", "feedback=perfect")
METHODS = {  # what is changed of the planner that was trained
    "planner": {},
    "without guidance": {"guidance": 0.0},
    "without choice": {"candidates": 1},
    "told cloning": None,
}
TARGETS, STEPS, SETTLED = 24, 160, 60  # episodes; steps of each; of them the first, in which it falls, do not count
CLONING = {"hidden": [256, 256], "lr": 1e-3, "batch_size": 256}


class Told(nn.Module):
    """Behaviour cloning that is told strengths, with a planner's targets and none of its plans."""

    def __init__(self, planner: Planner):
        super().__init__()
        self.planner = planner
        size = planner.spec.obs_dim + planner.bins * len(planner.attributes)
        self.net = MLP(size, planner.spec.action_dim, CLONING["hidden"])

    def forward(self, state: Tensor, strength: Tensor) -> Tensor:
        """state [B, O], strength [B, M] → action [B, A]."""
        told = torch.cat([self.planner.scaled(state), *self.planner.told(strength)], -1)
        return torch.tanh(self.net(told))

    def train_on(self, data: Data, steps: int) -> None:
        """Imitates the first action of windows, told their strengths."""
        optim = Adam(self.net.parameters(), CLONING["lr"], cosine=steps)
        for _ in trange(steps, desc="cloning", leave=False):
            batch = data.attribute_windows(CLONING["batch_size"], self.planner.horizon)
            found = self(batch.segments.obs.state[:, 0], batch.strength)
            optim.step((found - batch.segments.action[:, 0]).square().mean())

    # A planner's interface

    def reset(self) -> None:
        """Has no memory."""

    def set_targets(self, targets: Targets) -> None:
        """Acts for these from now on."""
        self.planner.set_targets(targets)

    @torch.no_grad()
    def act(self, obs: Observation) -> Tensor:
        """obs [1, O] → action [1, A]."""
        return self(obs.state, self.planner.wish(obs.state.device)[0][None])


class World:
    """A seed's data, attribute model and targets."""

    def __init__(self, names: list[str], seed: int):
        own = [f"query.attributes=[{','.join(names)}]", f"seed={seed}", f"query.seed={seed}"]
        self.flags, self.names = [*TASK, *FLAGS, *own], names
        self.settings = settings = RunSettings.parse(compose_config(*self.flags))
        source = {"folder": settings.data_dir, "seed": settings.data_seed, "workers": 0}
        episodes, dataset = collect.load_dataset(settings.env, settings.data, **source)
        cut = round(len(episodes) * (1 - TEST_SHARE))
        self.table, test = Table(episodes[:cut]), Table(episodes[cut:])
        workers, length = RolloutWorkers(settings.env, 0), settings.query.length
        with tempfile.TemporaryDirectory() as folder:
            store, teacher = Store(f"sqlite:///{folder}/answers.sqlite"), build(settings.feedback)
            shown = {"data_dir": settings.data_dir, "dataset": dataset, "workers": workers}
            teacher.start(Context(store, self.table, settings.query, **shown))
            asking = Asking(table=self.table, query=settings.query, source=teacher, store=store)
            asking.ask(0, None)
        self.model: Any = learn(settings, self.table, self.data(seed), asking, seed)
        self.table.relabel(self.model)
        self.seeds = test.seed[:TARGETS]
        windows = torch.from_numpy(test.first[:TARGETS, None] + np.arange(SETTLED, STEPS - length))  # [N, W]
        with torch.no_grad():
            read = [self.model.strength(test.segments(starts, length)).mean(0) for starts in windows]
        self.asked = torch.stack(read).clamp(0, 1).double()  # [N, M]
        self.wanted = self.measured(test, workers)[:TARGETS]  # [N, M]
        self.mean = self.measured(self.table, workers).mean(0)  # [M]
        self.env = make_environment(settings.env)

    def measured(self, table: Table, workers: RolloutWorkers) -> Tensor:
        """What is measured of each episode once it has settled, in units: [N, M]."""
        found = measure_table(table, workers, self.settings.data_dir)
        rows = table.first[:, None] + np.arange(SETTLED, STEPS)
        return torch.from_numpy(np.stack([mean_over(found[name], rows) for name in self.names], -1))

    def data(self, seed: int) -> Data:
        """What learners draw from."""
        return Data(self.table, torch.Generator().manual_seed(seed))


def play_targets(world: World, policy: Any, name: str) -> dict[str, Any]:
    """Plays every target, and compares what is measured with what was asked for."""
    measured, read, began = [], [], time.process_time()
    for i, asked in enumerate(tqdm(world.asked.tolist(), desc=name, leave=False)):
        targets = dict(zip(world.names, asked, strict=True))
        episode = steer.play(world.env, policy, targets, seed=int(world.seeds[i]), steps=STEPS)
        assert episode.state is not None
        each = world.env.measure(episode.seed, episode.state)
        read.append(steer.read_strengths(world.model, world.names, episode.obs[SETTLED:]))
        measured.append([np.nanmean(each[attribute][SETTLED:]) for attribute in world.names])
    found = torch.tensor(np.array(measured))
    error, guess = (found - world.wanted).abs().mean(0), (world.mean - world.wanted).abs().mean(0)
    columns = range(len(world.names))
    return {
        "rank_correlation": {world.names[i]: rank_correlation(world.asked[:, i], found[:, i]) for i in columns},
        "read_correlation": {
            name: rank_correlation(world.asked[:, i], torch.tensor([one[name] for one in read]).double())
            for i, name in enumerate(world.names)
        },
        "error": dict(zip(world.names, error.tolist(), strict=True)),
        "error_of_mean": dict(zip(world.names, guess.tolist(), strict=True)),
        "cpu_seconds": time.process_time() - began,
    }


def plans_per_cpu_second(planner: Planner, count: int = 10) -> float:
    """Decisions for one robot, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    planner.reset()
    obs = Observation(planner.normalize.mean[None])
    planner.plan(obs)
    began = time.process_time()
    for _ in range(count):
        planner.plan(obs)
    torch.set_num_threads(threads)
    return count / (time.process_time() - began)


def run(world: World, planner: Planner, method: str, seed: int, steps: int) -> dict[str, Any]:
    """A line of the results."""
    changes = METHODS[method]
    kept = {name: getattr(planner, name) for name in changes or {}}
    line: dict[str, Any] = {"task": "walker", "method": method, "seed": seed, "updates": steps}
    if changes is None:
        cloned = Told(planner)
        torch.manual_seed(seed)
        cloned.train_on(world.data(seed), steps)
        return {**line, **play_targets(world, cloned, method)}
    for name, value in changes.items():
        setattr(planner, name, value)
    line |= {
        "candidates": planner.candidates, "guidance": planner.guidance, "sample_steps": planner.sampler.steps,
        "plans_per_cpu_second": plans_per_cpu_second(planner), **play_targets(world, planner, method),
    }  # fmt: skip
    for name, value in kept.items():
        setattr(planner, name, value)
    return line


def show(lines: list[dict[str, Any]]) -> None:
    """Prints a table: mean ± standard deviation over seeds."""
    names = list(UNITS)
    head = [f"{name}: correlation | … error, {unit}" for name, unit in UNITS.items()]
    print(f"| method | {' | '.join(head)} | plans per CPU-second |\n|" + "---|" * (2 + 2 * len(names)))
    for method in METHODS:
        own = [line for line in lines if line["method"] == method]
        cells = [
            spread([line[measure][name] for line in own], 2)
            for name in names
            for measure in ("rank_correlation", "error")
        ]
        plans = [line["plans_per_cpu_second"] for line in own if "plans_per_cpu_second" in line]
        if own:
            print(f"| {method} | {' | '.join(cells)} | {spread(plans, 1) if plans else '–'} |")
    cells = [f"– | {spread([x['error_of_mean'][n] for x in lines if x['method'] == 'planner'], 2)}" for n in names]
    print(f"| the data's mean | {' | '.join(cells)} | – |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=6000, help="updates")
    args = parser.parse_args()
    sim.configs.register()
    lines = [json.loads(line) for line in FILE.read_text().splitlines()] if FILE.exists() else []
    known = {(line["method"], line["seed"]) for line in lines}
    for seed in args.seeds:
        missing = [method for method in args.methods if (method, seed) not in known]
        if not missing:
            continue
        world = World(list(UNITS), seed)
        began = time.process_time()
        planner: Any = api.train_policy(world.table, "aligndiff", reward=world.model, steps=args.steps, seed=seed)
        trained = {"train_cpu_seconds": time.process_time() - began, "load": os.getloadavg()[0], "flags": world.flags}
        for method in missing:
            lines.append({**run(world, planner, method, seed, args.steps), **trained})
            with open(FILE, "a") as out:
                out.write(to_json(lines[-1]) + "\n")
            print(method, seed, lines[-1]["rank_correlation"], lines[-1]["error"], flush=True)
    show(lines)


if __name__ == "__main__":
    main()

"""What everything around the updates costs: data, relabelling, rollouts, rendering.

    python -m benchmarks.pipeline                # all of PARTS
    python -m benchmarks.pipeline play render

Each part is measured in a process of its own, on one thread: medians of five turns where a turn is short. `play`
compares with Gymnasium's AsyncVectorEnv, which sends every observation and action through shared memory, in turns with
it. Writes `benchmarks/results/pipeline.jsonl`; absolute figures are of the machine at hand, whose load stands beside.
"""

import argparse
import ctypes
import gc
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from gymnasium.vector import AsyncVectorEnv
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

import sim.configs
from benchmarks.report import RESULTS
from benchmarks.rewards import CONFIGS
from pbrl.data import episodes
from pbrl.data.rollout import PolicyActor, RolloutWorkers
from pbrl.data.table import Table
from pbrl.feedback.labels import Labels
from pbrl.files import to_json
from pbrl.objectives import Objective, bradley_terry
from pbrl.processes import end_with_parent
from pbrl.training.batches import Data
from pbrl.training.evaluate import evaluation_seeds
from pbrl.types import Episode, Observation

TURNS = 5
EPISODES, STEPS, OBS, ACTION = 2000, 500, 39, 4  # a million steps of Meta-World's sizes


def make_episodes() -> list[Episode]:
    """A million steps of noise."""
    random = np.random.default_rng(0)
    return [
        Episode(i, random.standard_normal((STEPS + 1, OBS), np.float32),
                random.uniform(-1, 1, (STEPS, ACTION)).astype(np.float32),
                random.standard_normal(STEPS).astype(np.float32), False)
        for i in range(EPISODES)
    ]  # fmt: skip


def make_config(*flags: str) -> Any:
    """The config that `train.py` would have with these flags."""
    sim.configs.register()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return OmegaConf.to_container(compose("train", list(flags)), resolve=True)


def measure_seconds(run: Callable[[], Any]) -> float:
    """Seconds that it takes."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def measure_memory() -> int:
    """Bytes of this process's own memory; what it has freed is first given back to the system."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return psutil.Process().memory_full_info().uss


def data() -> dict[str, Any]:
    """Reading a million steps from disk, and what the table of them takes in memory; what a question takes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "noise"
        episodes.write(path, make_episodes()[:2], {})
        Table(episodes.read(path))  # imports everything
        episodes.write(path, make_episodes(), {})
        before, began = measure_memory(), time.perf_counter()
        found = episodes.read(path)
        read_s = time.perf_counter() - began
        both, began = measure_memory(), time.perf_counter()
        table = Table(found)
        table_s = time.perf_counter() - began
        table_kept = measure_memory() - both
        del found
        reader_kept = measure_memory() - before - table_kept  # by HDF5
    tensors = [v for v in vars(table).values() if isinstance(v, torch.Tensor)]
    arrays = [v for v in vars(table).values() if isinstance(v, np.ndarray)]
    numbers = 4 * sum((table.obs.numel(), table.action.numel(), table.reward.numel(), table.done.numel()))
    tensors += [table.obs, table.action, table.reward, table.done, *table.labels.values()]
    many = 10_000
    zeros, ids = np.zeros(many, np.int64), np.full(many, "f" * 32, object)
    answers = Data(table, torch.Generator(), length=64)
    answers.set_labels(Labels(np.zeros((many, 2), np.int64), np.zeros(many), zeros, zeros, np.ones(many), ids,
                              ("coin",), 64, "pair"))  # fmt: skip
    question = sum(part.nbytes for part in answers.train) / many
    return {
        "read_s": read_s, "table_s": table_s, "table_mb": sum(v.nbytes for v in (*tensors, *arrays)) / 1e6,
        "table_grew_mb": table_kept / 1e6, "reader_kept_mb": reader_kept / 1e6, "data_mb": numbers / 1e6,
        "bytes_of_a_question": question,
    }  # fmt: skip


def relabel() -> dict[str, Any]:
    """A new reward for a million steps, by the default ensemble."""
    table, settings = Table(make_episodes()), make_config("reward=ensemble")
    model = instantiate(settings["reward"], table.spec(), Objective(bradley_terry))
    turns = [measure_seconds(lambda: table.relabel(model)) for _ in range(TURNS)]
    return {"seconds": float(np.median(turns)), "steps": len(table)}


def play() -> dict[str, Any]:
    """Sixteen episodes of a policy: in one process, by two rollout workers, and in an AsyncVectorEnv of 2 and of 8."""
    settings = make_config("env=metaworld/button-press")
    env = instantiate(settings["env"])
    sizes = env.observation_space.shape[0], env.action_space.shape[0]
    table = Table([Episode(0, np.random.randn(9, sizes[0]).astype(np.float32), np.zeros((8, sizes[1]), np.float32),
                           np.zeros(8, np.float32), False)])  # fmt: skip
    policy = instantiate(settings["policy"], table.spec())
    seeds, found = evaluation_seeds(16), {}
    workers, single = RolloutWorkers(settings["env"], 2), RolloutWorkers(settings["env"], 0)
    vector_envs = {n: AsyncVectorEnv([partial(instantiate, settings["env"])] * n, shared_memory=True) for n in (2, 8)}

    def roll_out_vectorized(n: int) -> None:
        envs = vector_envs[n]
        for i in range(0, 16, n):
            obs, _ = envs.reset(seed=[int(s) for s in seeds[i : i + n]])
            for _ in range(env.horizon):
                obs, *_ = envs.step(policy.act(Observation(torch.from_numpy(obs))).numpy())

    sides = {
        "one_process": lambda: single.collect(PolicyActor(policy), seeds),
        "two_processes": lambda: workers.collect(PolicyActor(policy), seeds),
        "async_2": lambda: roll_out_vectorized(2), "async_8": lambda: roll_out_vectorized(8),
    }  # fmt: skip
    for run in sides.values():
        run()
    turns: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(TURNS):
        for name, run in sides.items():
            turns[name].append(measure_seconds(run))
    workers.close()
    for envs in vector_envs.values():
        envs.close()
    found = {f"{name}_steps_per_second": 16 * env.horizon / float(np.median(t)) for name, t in turns.items()}
    return {"horizon": env.horizon, **found}


def render() -> dict[str, Any]:
    """Frames of 256 × 256, as they are for clips and with shadows and reflections."""
    settings = make_config("env=metaworld/button-press")
    env = instantiate(settings["env"])
    env.reset(seed=0)
    found = {}
    for name, fast in (("fast", True), ("full", False)):
        env.render(fast=fast)
        turns = [measure_seconds(lambda fast=fast: [env.render(fast=fast) for _ in range(20)]) for _ in range(TURNS)]
        found[f"{name}_frames_per_second"] = 20 / float(np.median(turns))
    return found


PARTS = {"data": data, "relabel": relabel, "play": play, "render": render}


def measure(name: str) -> dict[str, Any]:
    """A line of the results."""
    torch.set_num_threads(1)
    before = os.getloadavg()
    found = {key: round(value, 3) if isinstance(value, float) else value for key, value in PARTS[name]().items()}
    return {"name": name, **found, "torch": torch.__version__, "load": [round(x, 1) for x in before]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[[], *PARTS], help="all by default")
    args = parser.parse_args()
    file = RESULTS / "pipeline.jsonl"
    lines = {line["name"]: line for line in map(json.loads, file.read_text().splitlines())} if file.exists() else {}
    for name in args.names or PARTS:
        context = multiprocessing.get_context("spawn")
        parent, child = context.Pipe()
        process = context.Process(target=send_line, args=(child, name))  # a pool's processes could have no children
        process.start()
        lines[name] = parent.recv()
        process.join()
        print(to_json(lines[name]), flush=True)
        file.write_text("".join(to_json(line) + "\n" for line in lines.values()))


def send_line(pipe: Any, name: str) -> None:
    """Measures a part and sends its line."""
    end_with_parent(by_kernel=True)
    pipe.send(measure(name))


if __name__ == "__main__":
    main()

"""Updates per second and per CPU-second of learners at fixed shapes, on random data of those shapes.

    python -m benchmarks.speed dtr_paper               # the names are those of SHAPES
    python -m benchmarks.speed --threads 2 iql cpl

Each learner is timed in a process of its own, eager and compiled, with float32 and with bfloat16 products: the median
of five runs of as many updates as fill a second, after a warm-up. Writes `benchmarks/results/speed.jsonl`.
"""

import argparse
import json
import multiprocessing
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import sim.configs
from benchmarks.report import RESULTS
from pbrl.engine import Engine
from pbrl.parts import learner, reward_model
from pbrl.table import Table
from pbrl.types import Episode, PreferenceBatch, Transitions

ROOT = Path(__file__).parent.parent
SHAPES = {  # flags, observation and action sizes, segment length
    "iql": (["algo=iql"], 17, 6, 0),
    "cpl": (["algo=cpl"], 39, 4, 64),
    "cpl_paper": (["algo=cpl", "algo.batch_size=96", "policy.hidden=[512,512]", "policy.dropout=0.25"], 39, 4, 64),
    "ensemble": (["reward=ensemble", "reward.members=7", "reward.hidden=[256,256,256]", "reward.batch_size=64"],
                 39, 4, 64),
    "ensemble_128": (["reward=ensemble", "reward.members=7", "reward.hidden=[256,256,256]", "reward.batch_size=128"],
                     39, 4, 64),
    "pairs": (["reward=ensemble", "reward.members=1", "reward.hidden=[32,32]", "reward.batch_size=32"], 39, 4, 64),
    "dtr": (["algo=dtr", "reward=ensemble"], 17, 6, 0),
    "dtr_paper": (["experiment=dtr_paper"], 17, 6, 0),
}  # fmt: skip


def episodes(obs_dim: int, action_dim: int) -> list[Episode]:
    """Twenty episodes of a thousand steps of noise."""
    random = np.random.default_rng(0)
    return [
        Episode(i, random.standard_normal((1001, obs_dim), np.float32),
                random.uniform(-1, 1, (1000, action_dim)).astype(np.float32),
                random.standard_normal(1000).astype(np.float32), False)
        for i in range(20)
    ]  # fmt: skip


def made(name: str, where: torch.device) -> tuple[Any, Callable[[], Any], Table]:
    """A learner of that shape, and what draws its batches from a table of noise."""
    flags, obs_dim, action_dim, length = SHAPES[name]
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        config: Any = OmegaConf.to_container(compose("train", flags), resolve=True)
    table = Table(episodes(obs_dim, action_dim), where)
    spec = table.spec()
    is_reward = any(flag.startswith("reward=") for flag in flags) and "algo=dtr" not in flags
    learns = reward_model(config, spec).to(where) if is_reward else learner(config["algo"], config, spec, where)
    rows = table.rows[: -1000 - length]  # everywhere there is enough ahead

    def draw() -> Any:
        starts = rows[torch.randint(len(rows), (learns.batch_size,), device=where)]
        if learns.batch is Transitions:
            return table.transitions(starts)
        if learns.batch is PreferenceBatch:
            pair = torch.stack([starts, starts.flip(0)], 1)[..., None] + torch.arange(length, device=where)
            return PreferenceBatch(table.obs[pair], table.action[pair], torch.rand(len(starts), device=where).round())
        return table.windows(starts, learns.context)

    return learns, draw, table


def warmed(go: Callable[[], Any], settle: Callable[[], None]) -> int:
    """Runs an update until nothing more is compiled; returns how many fill a second."""
    for _ in range(5):
        go()
    settle()
    began = time.perf_counter()
    go()
    settle()
    return max(1, round(1 / (time.perf_counter() - began)))


def measure(name: str, threads: int, compile: bool, bf16: bool, device: str) -> dict[str, Any]:
    """One line of the results."""
    torch.set_num_threads(threads)
    sim.configs.register()
    where = torch.device(device)
    learns, draw, _ = made(name, where)

    def settle() -> None:
        if device != "cpu":
            torch.cuda.synchronize()

    update = Engine(where, compile=compile, bf16=bf16).prepare(learns.update)
    count = warmed(lambda: update(draw()), settle)
    rates, cpu_rates = [], []
    for _ in range(5):
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(count):
            update(draw())
        settle()
        rates.append(count / (time.perf_counter() - wall))
        cpu_rates.append(count / (time.process_time() - cpu))
    return {
        "name": name, "device": torch.cuda.get_device_name() if device != "cpu" else platform.processor() or "cpu",
        "threads": threads, "compile": compile, "bf16": bf16, "updates_per_second": float(np.median(rates)),
        "updates_per_cpu_second": float(np.median(cpu_rates)), "torch": torch.__version__,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(SHAPES)}; all by default")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    unknown = set(args.names) - set(SHAPES)
    if unknown:
        parser.error(f"no such shape: {', '.join(unknown)}; there are {', '.join(SHAPES)}")
    file = RESULTS / "speed.jsonl"
    known = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    lines = {tuple(line[k] for k in ("name", "device", "threads", "compile", "bf16")): line for line in known}
    for name in args.names or SHAPES:
        for compile in (False, True):
            for bf16 in (False, True):
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    line = pool.apply(measure, (name, args.threads, compile, bf16, args.device))
                lines[tuple(line[k] for k in ("name", "device", "threads", "compile", "bf16"))] = line
                how = f"{'compiled' if compile else 'eager'} {'bf16' if bf16 else 'fp32'}"
                rate, cpu_rate = line["updates_per_second"], line["updates_per_cpu_second"]
                print(f"{name:10s} {how:14s} {rate:9.2f} /s  {cpu_rate:9.2f} /CPU-second", flush=True)
                file.write_text("".join(json.dumps(line) + "\n" for line in lines.values()))


if __name__ == "__main__":
    main()

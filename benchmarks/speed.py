"""Updates per second and per CPU-second of every learner and reward model at fixed shapes, on random data of those.

    python -m benchmarks.speed                         # all of SHAPES
    python -m benchmarks.speed --threads 2 iql cpl
    python -m benchmarks.speed --device cuda --seeds 8 iql

Each is timed in a process of its own, eager and compiled, with float32 and with bfloat16 products, in turns: medians of
five turns of as many updates as fill a second, after a warm-up. Beside it stands the floor: what the update's matrix
products and convolutions alone would take at the rate of a large product. Writes `benchmarks/results/speed.jsonl`,
prints a table in Markdown and draws a picture.
"""

import argparse
import json
import multiprocessing
import os
import platform
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import FlopCounterMode

import sim.configs
from benchmarks.report import RESULTS
from pbrl.data.table import Table
from pbrl.run.build import learner, reward_model
from pbrl.training.batches import Preferences
from pbrl.training.engine import AT_ONCE, WARM_UP, Engine
from pbrl.training.log import Log
from pbrl.training.replica import Seed
from pbrl.training.vmap import Together
from pbrl.types import Episode

ROOT = Path(__file__).parent.parent
D4RL, META_WORLD = (17, 6), (39, 4)  # sizes of observations and actions
MEMBERS = ["reward.members=7", "reward.hidden=[256,256,256]"]
SHAPES = {  # what learns, its flags, and sizes of observations and actions
    "bc": ("algo", ["algo=bc"], META_WORLD),
    "cpl": ("algo", ["algo=cpl"], META_WORLD),
    "cpl_paper": ("algo", ["algo=cpl", "algo.batch_size=96", "policy.hidden=[512,512]", "policy.dropout=0.25"],
                  META_WORLD),
    "iql": ("algo", ["algo=iql"], D4RL),
    "awac": ("algo", ["algo=awac"], D4RL),
    "td3bc": ("algo", ["algo=td3bc", "policy.std=0"], D4RL),
    "ipl": ("algo", ["algo=ipl"], D4RL),
    "dt": ("algo", ["algo=dt"], D4RL),
    "qt": ("algo", ["algo=qt"], D4RL),
    "dtr": ("algo", ["algo=dtr"], D4RL),
    "dtr_paper": ("algo", ["experiment=dtr_paper"], D4RL),
    "ensemble": ("reward", ["reward=ensemble", *MEMBERS, "reward.batch_size=64"], META_WORLD),
    "ensemble_128": ("reward", ["reward=ensemble", *MEMBERS, "reward.batch_size=128"], META_WORLD),
    "pairs": ("reward", ["reward=ensemble", "reward.members=1", "reward.hidden=[32,32]", "reward.batch_size=32"],
              META_WORLD),
    "linear": ("reward", ["reward=linear"], META_WORLD),
    "surf": ("reward", ["reward=surf"], META_WORLD),
    "lstm": ("reward", ["reward=lstm"], META_WORLD),
    "transformer": ("reward", ["reward=transformer"], META_WORLD),
}  # fmt: skip
VARIANTS = {  # whether compiled, and with bfloat16 products
    "eager, float32": (False, False), "compiled": (True, False), "bfloat16": (False, True), "both": (True, True),
}  # fmt: skip
LENGTH = 64  # steps of a segment
KEY = ("name", "device", "threads", "seeds", "compile", "bf16")


def episodes(obs_dim: int, action_dim: int) -> list[Episode]:
    """Twenty episodes of a thousand steps of noise."""
    random = np.random.default_rng(0)
    return [
        Episode(i, random.standard_normal((1001, obs_dim), np.float32),
                random.uniform(-1, 1, (1000, action_dim)).astype(np.float32),
                random.standard_normal(1000).astype(np.float32), False)
        for i in range(20)
    ]  # fmt: skip


def made(name: str, where: torch.device, number: int = 0) -> tuple[Any, Callable[[], Any], Seed]:
    """A learner of that shape, what draws its batches from a table of noise with 500 answers, and their seed."""
    part, flags, sizes = SHAPES[name]
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        config: Any = OmegaConf.to_container(compose("train", [*flags, f"seed={number}"]), resolve=True)
    table = Table(episodes(*sizes), where)
    torch.manual_seed(number)
    reward = reward_model(config, table.spec()).to(where) if part == "reward" else None
    algo = learner(config["algo"], config, table.spec(), where)
    preferences = Preferences(table, kind="pair", length=LENGTH, held_out=0.0, seed=0)
    places = table.segment_starts(LENGTH).cpu().numpy()
    random = np.random.default_rng(0)
    preferences.add(random.choice(places, (500, 2)), random.integers(2, size=500).astype(np.float64))
    seed = Seed(number, Path(), table, algo, reward, log=cast(Log, None))
    learns = algo if reward is None else reward
    return learns, lambda: seed.draw(learns, preferences), seed


def warmed(go: Callable[[], Any], settle: Callable[[], None]) -> int:
    """Runs an update until nothing more is compiled; returns how many fill a second."""
    for _ in range(5):
        go()
    settle()
    began = time.perf_counter()
    go()
    settle()
    return max(1, round(1 / (time.perf_counter() - began)))


def products(dtype: torch.dtype, where: torch.device) -> float:
    """GFLOP a second (on a CPU: a CPU-second) of matrix products of 1024 × 1024."""
    a, b = (torch.randn(1024, 1024, device=where).to(dtype) for _ in range(2))
    clock = time.process_time if where.type == "cpu" else time.perf_counter
    rates = []
    for _ in range(8):
        began = clock()
        for _ in range(10):
            torch.mm(a, b)
        settle(where)
        rates.append(10 * 2 * 1024**3 / (clock() - began) / 1e9)
    return float(np.median(rates))


def settle(where: torch.device) -> None:
    """Waits until all is done."""
    if where.type == "cuda":
        torch.cuda.synchronize()


def repeated(name: str, seeds: int, compile: bool, bf16: bool, where: torch.device) -> Callable[[int], None]:
    """What makes so many updates of each seed."""
    learners, draws, owners = zip(*(made(name, where, number) for number in range(seeds)), strict=True)
    engine = Engine(where, compile=compile, bf16=bf16)
    if seeds == 1:
        draw, update = draws[0], engine.prepare(learners[0].update)
    else:
        draw = lambda: tree_map(lambda *parts: torch.stack(parts), *(one() for one in draws))  # noqa: E731
        update = engine.prepare_together(Together(learners), "update", draw())
    running = engine.repeat(draw, update, [owner.sampling for owner in owners])

    def go(count: int) -> None:
        while count:
            count -= running.run(count)
        settle(where)

    return go


def measure(name: str, threads: int, seeds: int, device: str) -> list[dict[str, Any]]:
    """The lines of one learner; updates count once for each seed."""
    torch.set_num_threads(threads)
    sim.configs.register()
    where = torch.device(device)
    learns, draw, _ = made(name, where)
    with FlopCounterMode(display=False) as counter:
        learns.update(draw())
    gflop = None if getattr(learns, "eager", False) else counter.get_total_flops() / 1e9  # a fused LSTM is not counted
    sides = {(compile, bf16): repeated(name, seeds, compile, bf16, where) for compile, bf16 in VARIANTS.values()}
    counts, rates, cpu_rates = {}, {side: [] for side in sides}, {side: [] for side in sides}
    for side, go in sides.items():
        go(WARM_UP + AT_ONCE if where.type == "cuda" else 1)
        counts[side] = warmed(lambda go=go: go(1), lambda: None)
    for _ in range(5):
        for side, go in sides.items():
            wall, cpu = time.perf_counter(), time.process_time()
            go(counts[side])
            rates[side].append(seeds * counts[side] / (time.perf_counter() - wall))
            cpu_rates[side].append(seeds * counts[side] / (time.process_time() - cpu))
    title = torch.cuda.get_device_name() if where.type == "cuda" else platform.processor() or "cpu"
    return [{
        "name": name, "device": title, "threads": threads, "seeds": seeds, "compile": compile, "bf16": bf16,
        "updates_per_second": float(np.median(rates[compile, bf16])),
        "updates_per_cpu_second": float(np.median(cpu_rates[compile, bf16])),
        "gflop": gflop, "floor": gflop and products(torch.bfloat16 if bf16 else torch.float32, where) / gflop,
        "torch": torch.__version__, "load": [round(x, 1) for x in os.getloadavg()],
    } for compile, bf16 in sides]  # fmt: skip


def show(lines: list[dict[str, Any]]) -> None:
    """Prints, and draws, how many times the updates of eager float32 each variant makes, on one thread of a CPU."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    lines = [k for k in lines if k["threads"] == 1 and k["seeds"] == 1 and "updates_per_cpu_second" in k]
    found: dict[str, dict[tuple[bool, bool], dict[str, Any]]] = {}
    for line in lines:
        found.setdefault(line["name"], {})[line["compile"], line["bf16"]] = line
    names = [name for name in SHAPES if len(found.get(name, {})) == 4]
    variants = {title: variant for title, variant in VARIANTS.items() if any(variant)}
    print("| | eager, float32: updates per CPU-second | " + " | ".join(variants) + " | floor, bfloat16 |")
    print("|---" * (len(variants) + 3) + "|")
    figure, axis = plt.subplots(figsize=(7, 0.36 * len(names) + 0.9), layout="constrained")
    for y, name in enumerate(names):
        base = found[name][False, False]["updates_per_cpu_second"]
        ratios = [found[name][variant]["updates_per_cpu_second"] / base for variant in variants.values()]
        floor = found[name][True, True]["floor"]
        cell = f"{floor / base:.1f} ×" if floor else ""
        print(f"| {name} | {base:.3g} | " + " | ".join(f"{ratio:.1f} ×" for ratio in ratios) + f" | {cell} |")
        for i, (title, ratio) in enumerate(zip(variants, ratios, strict=True)):
            axis.barh(y + 0.25 * (i - 1), ratio, 0.25, color=f"C{i}", label=None if y else title)
        if floor:
            axis.plot(floor / base, y, "|", color="k", markersize=14, label=None if y else "products alone, bfloat16")
    axis.axvline(1, color="0.4", linestyle=":")
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel("updates per CPU-second, as a ratio to eager float32; one thread")
    axis.legend(fontsize=8)
    figure.savefig(RESULTS / "speed.png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(SHAPES)}; all by default")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=1, help="so many at once")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    unknown = set(args.names) - set(SHAPES)
    if unknown:
        parser.error(f"no such shape: {', '.join(unknown)}; there are {', '.join(SHAPES)}")
    file = RESULTS / "speed.jsonl"
    known = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    lines = {tuple(line[k] for k in KEY): line for line in known}
    for name in args.names or SHAPES:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            new = pool.submit(measure, name, args.threads, args.seeds, args.device).result()
        lines.update({tuple(line[k] for k in KEY): line for line in new})
        for title, line in zip(VARIANTS, new, strict=True):
            rate, cpu_rate = line["updates_per_second"], line["updates_per_cpu_second"]
            print(f"{name:12s} {title:16s} {rate:9.2f} /s  {cpu_rate:9.2f} /CPU-second", flush=True)
        file.write_text("".join(json.dumps(line) + "\n" for line in lines.values()))
    show(list(lines.values()))


if __name__ == "__main__":
    main()

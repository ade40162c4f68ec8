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
from typing import Any, NamedTuple

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import FlopCounterMode

import sim.configs
from benchmarks.report import RESULTS
from pbrl.data.table import Table
from pbrl.feedback.labels import Labels
from pbrl.files import to_json
from pbrl.processes import end_with_parent
from pbrl.processor import processor_name
from pbrl.run.build import build_algorithm, build_reward
from pbrl.settings import RunSettings
from pbrl.training.batches import Data
from pbrl.training.engine import AT_ONCE, WARM_UP, Engine
from pbrl.training.vmap import LearnerStack
from pbrl.types import Episode, Phase

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


def make_episodes(obs_dim: int, action_dim: int) -> list[Episode]:
    """Twenty episodes of a thousand steps of noise."""
    random = np.random.default_rng(0)
    return [
        Episode(i, random.standard_normal((1001, obs_dim), np.float32),
                random.uniform(-1, 1, (1000, action_dim)).astype(np.float32),
                random.standard_normal(1000).astype(np.float32), False)
        for i in range(20)
    ]  # fmt: skip


class Bench(NamedTuple):
    """A learner of one seed: the last phase of its training, and what that draws from."""

    phase: Phase
    data: Data

    def draw(self) -> Any:
        return self.phase.draw(self.data)


def make_bench(name: str, device: torch.device, seed: int = 0) -> Bench:
    """The learner of that shape in SHAPES, on a table of noise with 500 comparisons."""
    part, flags, sizes = SHAPES[name]
    settings = compose_settings(*flags, f"seed={seed}")
    table = Table(make_episodes(*sizes), device)
    torch.manual_seed(seed)
    if part == "reward":
        phase = build_reward(settings, table.spec()).to(device).phases()[-1]
    else:
        phase = build_algorithm(settings.algo, settings, seed, table.spec(), device).phases(settings.schedule.steps)[-1]
    data = Data(table, torch.Generator(device).manual_seed(seed), length=LENGTH)
    data.set_labels(make_labels(table))
    return Bench(phase, data)


def compose_settings(*flags: str) -> RunSettings:
    """The settings that `train.py` would have with these flags."""
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        config: Any = OmegaConf.to_container(compose("train", list(flags)), resolve=True)
    return RunSettings.parse(config)


def make_labels(table: Table) -> Labels:
    """500 comparisons of random segments, answered at random."""
    random, n = np.random.default_rng(0), 500
    starts = random.choice(table.segment_starts(LENGTH).cpu().numpy(), (n, 2))
    value, zeros = random.integers(2, size=n).astype(np.float64), np.zeros(n, np.int64)
    return Labels(starts, value, zeros, zeros, np.ones(n), np.full(n, "f" * 32, object), ("coin",), LENGTH, "pair")


def warm_up(run: Callable[[], Any]) -> int:
    """Runs an update until nothing more is compiled; returns how many fill a second."""
    for _ in range(5):
        run()
    began = time.perf_counter()
    run()
    return max(1, round(1 / (time.perf_counter() - began)))


def measure_products(dtype: torch.dtype, device: torch.device) -> float:
    """GFLOP a second (on a CPU: a CPU-second) of matrix products of 1024 × 1024."""
    a, b = (torch.randn(1024, 1024, device=device).to(dtype) for _ in range(2))
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    rates = []
    for _ in range(8):
        began = clock()
        for _ in range(10):
            torch.mm(a, b)
        synchronize(device)
        rates.append(10 * 2 * 1024**3 / (clock() - began) / 1e9)
    return float(np.median(rates))


def synchronize(device: torch.device) -> None:
    """Waits until a GPU has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def make_run(name: str, seeds: int, compile: bool, bf16: bool, device: torch.device) -> Callable[[int], None]:
    """A function that makes so many updates of each seed, batches drawn as in training."""
    benches = [make_bench(name, device, seed) for seed in range(seeds)]
    engine, phase = Engine(device, compile=compile, bf16=bf16), benches[0].phase
    if seeds == 1:
        draw, update = benches[0].draw, engine.prepare(phase)
    else:
        draw = lambda: tree_map(lambda *parts: torch.stack(parts), *(bench.draw() for bench in benches))  # noqa: E731
        stack = LearnerStack([bench.phase.update.__self__ for bench in benches])  # type: ignore[attr-defined]
        update = engine.prepare_stack(stack, phase, draw())
    updates = engine.repeat(draw, update, [bench.data.generator for bench in benches])

    def run(count: int) -> None:
        while count:
            count -= updates.run(count)
        synchronize(device)

    return run


def count_gflop(bench: Bench) -> float | None:
    """GFLOP of one update; None where a fused operation hides them, as an LSTM's does."""
    if not bench.phase.compiles:
        return None
    with FlopCounterMode(display=False) as counter:
        bench.phase.update(bench.draw())
    return counter.get_total_flops() / 1e9


def measure(name: str, threads: int, seeds: int, device_name: str) -> list[dict[str, Any]]:
    """The lines of one learner; updates count once for each seed."""
    torch.set_num_threads(threads)
    sim.configs.register()
    device = torch.device(device_name)
    gflop = count_gflop(make_bench(name, device))
    sides = {(compile, bf16): make_run(name, seeds, compile, bf16, device) for compile, bf16 in VARIANTS.values()}
    counts, rates, cpu_rates = {}, {side: [] for side in sides}, {side: [] for side in sides}
    for side, run in sides.items():
        run(WARM_UP + AT_ONCE if device.type == "cuda" else 1)
        counts[side] = warm_up(lambda run=run: run(1))
    for _ in range(5):
        for side, run in sides.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run(counts[side])
            rates[side].append(seeds * counts[side] / (time.perf_counter() - wall))
            cpu_rates[side].append(seeds * counts[side] / (time.process_time() - cpu))
    title = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or "cpu"
    return [{
        "name": name, "device": title, "threads": threads, "seeds": seeds, "compile": compile, "bf16": bf16,
        "updates_per_second": float(np.median(rates[compile, bf16])),
        "updates_per_cpu_second": float(np.median(cpu_rates[compile, bf16])),
        "gflop": gflop,
        "floor": gflop and measure_products(torch.bfloat16 if bf16 else torch.float32, device) / gflop,
        "processor": processor_name(), "torch": torch.__version__, "load": [round(x, 1) for x in os.getloadavg()],
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
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), end_with_parent, (True,)) as pool:
            new = pool.submit(measure, name, args.threads, args.seeds, args.device).result()
        lines.update({tuple(line[k] for k in KEY): line for line in new})
        for title, line in zip(VARIANTS, new, strict=True):
            rate, cpu_rate = line["updates_per_second"], line["updates_per_cpu_second"]
            print(f"{name:12s} {title:16s} {rate:9.2f} /s  {cpu_rate:9.2f} /CPU-second", flush=True)
        file.write_text("".join(to_json(line) + "\n" for line in lines.values()))
    show(list(lines.values()))


if __name__ == "__main__":
    main()

"""Whether `bf16: auto` is as fast as the better of `true` and `false`, for every learner and reward model.

    python -m benchmarks.precision                       # all of benchmarks/speed.py's shapes, and small ones
    python -m benchmarks.precision --isa avx2 iql cpl    # as on a processor without AVX512 and bfloat16
    python -m benchmarks.precision --eager toy_bc pairs

Each is timed in a process of its own, the three settings in turns: updates per CPU-second, medians of fifteen turns.
`--isa` holds oneDNN and PyTorch's kernels to older instructions; Inductor's own loops keep the processor's. Writes
`benchmarks/results/precision.jsonl`, and prints a table in Markdown.
"""

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import torch

import sim.configs
from benchmarks import speed
from benchmarks.report import RESULTS
from pbrl.processor import processor_name
from pbrl.training.engine import learner_of
from pbrl.training.precision import bf16_gain, choose_precision, largest_product

FILE = RESULTS / "precision.jsonl"
KEY = ("name", "processor", "isa", "threads", "compile")
SMALL = {  # whose casts may cost more than bfloat16 gains
    "toy_bc": ("algo", ["algo=bc", "policy.hidden=[16]"], speed.META_WORLD),
    "bc_32": ("algo", ["algo=bc", "policy.hidden=[32,32]"], speed.META_WORLD),
    "bc_64": ("algo", ["algo=bc", "policy.hidden=[64,64]"], speed.META_WORLD),
    "bc_128": ("algo", ["algo=bc", "policy.hidden=[128,128]"], speed.META_WORLD),
    "toy_cpl": ("algo", ["algo=cpl", "policy.hidden=[16]"], speed.META_WORLD),
    "cpl_64": ("algo", ["algo=cpl", "policy.hidden=[64,64]"], speed.META_WORLD),
    "toy_iql": ("algo", ["algo=iql", "algo.hidden=[16]", "policy.hidden=[16]"], speed.D4RL),
    "iql_64": ("algo", ["algo=iql", "algo.hidden=[64,64]", "policy.hidden=[64,64]"], speed.D4RL),
    "toy_ensemble": ("reward", ["reward=ensemble", "reward.hidden=[16]"], speed.META_WORLD),
    "ensemble_64": ("reward", ["reward=ensemble", "reward.hidden=[64,64]"], speed.META_WORLD),
    "dppo": ("algo", ["algo=dppo", "reward=transformer"], speed.META_WORLD),
    "iswbc": ("algo", ["algo=iswbc"], speed.META_WORLD),
}
ISAS = {"": {}, "avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"},
        "avx512": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}}  # fmt: skip
SETTINGS: dict[str, bool | str] = {"auto": "auto", "true": True, "false": False}
TURNS, TURN_S, PATIENCE_S = 15, 0.3, 8.0


def measure(name: str, isa: str, threads: int, compile: bool) -> dict[str, Any]:
    """A line of the results; `ratio` is `auto`'s rate to the better one of `true` and `false`."""
    torch.set_num_threads(threads)
    sim.configs.register()
    speed.SHAPES.update(SMALL)
    cpu = torch.device("cpu")
    bench = speed.make_bench(name, cpu)
    phase, batch = bench.phase, bench.draw()
    compile = compile and phase.compiles
    chosen = {
        title: choose_precision(setting, cpu).suits(learner_of(phase), batch) for title, setting in SETTINGS.items()
    }
    runs = {title: speed.make_run(name, 1, compile, bf16, cpu) for title, bf16 in chosen.items()}
    rates = take_turns(runs)
    middle = {title: float(np.median(found)) for title, found in rates.items()}
    return {
        "name": name, "processor": processor_name(), "isa": isa, "threads": threads, "compile": compile,
        "auto_is": "bfloat16" if chosen["auto"] else "float32", "ratio": middle["auto"] / max(middle.values()),
        "updates_per_cpu_second": middle, "mflop": round(largest_product(learner_of(phase), batch), 2),
        "bf16_gain": round(bf16_gain(), 2), "torch": torch.__version__, "load": [round(x, 1) for x in os.getloadavg()],
    }  # fmt: skip


def take_turns(runs: dict[str, Callable[[int], None]]) -> dict[str, list[float]]:
    """Updates a CPU-second of each turn; fewer turns of what is very slow."""
    counts, rates = {}, {title: [] for title in runs}
    for title, run in runs.items():
        run(2)
        began = time.perf_counter()
        run(1)
        counts[title] = max(1, round(TURN_S / (time.perf_counter() - began)))
    spent = dict.fromkeys(runs, 0.0)
    for _ in range(TURNS):
        for title, run in runs.items():
            if spent[title] > PATIENCE_S:
                continue
            began = time.process_time()
            run(counts[title])
            seconds = time.process_time() - began
            spent[title] += seconds
            rates[title].append(counts[title] / seconds)
    return rates


def show(lines: list[dict[str, Any]]) -> None:
    """Prints the results."""
    print("| | processor | | true | false | auto | auto : the better |\n|---|---|---|---|---|---|---|")
    for line in lines:
        rate = line["updates_per_cpu_second"]
        where = line["processor"] + (f", held to {line['isa']}" if line["isa"] else "")
        print(
            f"| {line['name']} | {where} | {'compiled' if line['compile'] else 'eager'} | {rate['true']:.3g} | "
            f"{rate['false']:.3g} | {rate['auto']:.3g} ({line['auto_is']}) | {line['ratio']:.2f} |",
            flush=True,
        )


def main() -> None:
    shapes = {**speed.SHAPES, **SMALL}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[[], *shapes])
    parser.add_argument("--isa", choices=list(ISAS), default="", help="the instructions that oneDNN may use")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--eager", action="store_true", help="as short runs train, which are not compiled")
    args = parser.parse_args()
    os.environ.update(ISAS[args.isa])  # read when the process of a measurement starts
    known = [json.loads(line) for line in FILE.read_text().splitlines()] if FILE.exists() else []
    lines = {tuple(line[k] for k in KEY): line for line in known}
    for name in args.names or shapes:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            line = pool.submit(measure, name, args.isa, args.threads, not args.eager).result()
        lines[tuple(line[k] for k in KEY)] = line
        show([line])
        FILE.write_text("".join(json.dumps(k) + "\n" for k in lines.values()))
    show(list(lines.values()))


if __name__ == "__main__":
    main()

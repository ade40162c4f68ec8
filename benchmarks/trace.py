"""Where the time of an update goes: matrix products, sampling, random numbers, everything else that computes, the rest.

    python -m benchmarks.trace                         # four shapes of benchmarks/speed.py
    python -m benchmarks.trace dtr_paper --device cuda

Twenty updates of each are traced, eager with float32 and compiled with the precision that runs choose by themselves,
batches drawn as in training. The rest is Python, dispatch and, on a GPU, waiting. Writes traces for chrome://tracing or
Perfetto into `runs/trace/`, shares into `benchmarks/results/trace.jsonl`, and draws a picture.
"""

import argparse
import json
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

import sim.configs
from benchmarks.report import RESULTS
from benchmarks.speed import SHAPES, make_bench, synchronize
from pbrl.files import to_json
from pbrl.processes import end_with_parent
from pbrl.processor import processor_name
from pbrl.training.engine import Engine, learner_of
from pbrl.training.precision import choose_precision

UPDATES = 20
KINDS = {  # how the operators of each are called; the first that fits
    "products": ("mm", "linear", "convolution", "gemm", "nvjet", "cutlass"),
    "random numbers": ("rand", "bernoulli", "dropout", "normal_", "uniform_"),
    "sampling": ("index", "gather"),
    "other kernels": ("",),
}


def kind_of(operator: str) -> str:
    """The kind of KINDS that an operator of this name is of."""
    return next(kind for kind, words in KINDS.items() if any(word in operator for word in words))


def measure(name: str, fast: bool, device: str) -> dict[str, Any]:
    """A line of the results: shares of the time of one update."""
    torch.set_num_threads(1)
    sim.configs.register()
    from torch._inductor import config as inductor

    inductor.cpp.enable_kernel_profile = True  # kernels that were compiled have names in the trace
    target = torch.device(device)
    bench = make_bench(name, target)
    bf16 = fast and choose_precision("auto", target).suits(learner_of(bench.phase), bench.draw())
    engine = Engine(target, compile=fast, bf16=bf16)
    updates = engine.repeat(bench.draw, engine.prepare(bench.phase), [bench.data.generator])
    for _ in range(5):
        updates.run(1)
    synchronize(target)
    on_gpu = target.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as traced:
        began, made_updates = time.perf_counter(), 0
        while made_updates < UPDATES:
            made_updates += updates.run(UPDATES - made_updates)
        synchronize(target)
        seconds = time.perf_counter() - began
    folder = Path("runs/trace")
    folder.mkdir(parents=True, exist_ok=True)
    traced.export_chrome_trace(str(folder / f"{name}-{'fast' if fast else 'eager'}-{target.type}.json.gz"))
    spent = dict.fromkeys(KINDS, 0.0)
    for event in traced.key_averages():
        own = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        spent[kind_of(event.key)] += own / 1e6 / seconds
    spent["the rest"] = max(0.0, 1 - sum(spent.values()))
    return {
        "name": name, "device": torch.cuda.get_device_name() if on_gpu else "cpu", "compile": fast, "bf16": bf16,
        "ms": 1000 * seconds / UPDATES, "shares": {k: round(v, 4) for k, v in spent.items()},
        "operators": len([e for e in traced.events() or [] if not e.cpu_parent]) / UPDATES,
        "processor": processor_name(), "torch": torch.__version__, "load": [round(x, 1) for x in os.getloadavg()],
    }  # fmt: skip


def show(lines: list[dict[str, Any]]) -> None:
    """Draws the shares, a bar a variant."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 0.34 * len(lines) + 1), layout="constrained")
    kinds = [("compiled" if k["compile"] else "eager", "bfloat16" if k["bf16"] else "float32") for k in lines]
    titles = [f"{k['name']}, {how}, {precision}" for k, (how, precision) in zip(lines, kinds, strict=True)]
    left = [0.0] * len(lines)
    for i, part in enumerate([*KINDS, "the rest"]):
        shares = [100 * line["shares"][part] for line in lines]
        axis.barh(titles, shares, left=left, color=f"C{i}", label=part)
        left = [a + b for a, b in zip(left, shares, strict=True)]
    axis.invert_yaxis()
    axis.set_xlabel("share of an update's time, per cent")
    axis.tick_params(labelsize=8)
    figure.legend(loc="outside upper center", ncols=5, fontsize=8, frameon=False)
    figure.savefig(RESULTS / "trace.png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[[], *SHAPES])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    file = RESULTS / "trace.jsonl"
    known = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    lines = {(k["name"], k["device"], k["compile"]): k for k in known}
    for name in args.names or ("iql", "cpl_paper", "ensemble_128", "dtr_paper"):
        for fast in (False, True):
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), end_with_parent, (True,)) as pool:
                line = pool.submit(measure, name, fast, args.device).result()
            lines[line["name"], line["device"], fast] = line
            shares = ", ".join(f"{part} {100 * share:.0f} %" for part, share in line["shares"].items())
            how = f"{'compiled' if fast else 'eager'} {'bf16' if line['bf16'] else 'fp32'}"
            print(f"{name:12s} {how:14s} {line['ms']:8.1f} ms  {shares}", flush=True)
            file.write_text("".join(to_json(k) + "\n" for k in lines.values()))
    show(list(lines.values()))


if __name__ == "__main__":
    main()

"""What a change did to the speed of updates: the shapes of benchmarks/speed.py in two versions of the code, in turns.

    git worktree add ../before <commit>
    python -m benchmarks.before_after ../before                    # all shapes, eager and compiled
    python -m benchmarks.before_after ../before iql --launches 1
    python -m benchmarks.before_after . iql                        # this version and itself: how wide the noise is

Two processes live side by side, one for each version, each with the packages of its own checkout; one computes while
the other waits. Short blocks of updates alternate between them, and so does which goes first. Timed are whole updates
as in training (the batch drawn, the update, its metrics summed), updates alone, on batches drawn before, and drawing
alone: CPU time, or with `--device cuda` time until the GPU is done. The ratio is that of medians of blocks, after over
before. Processes differ by where their memory lies, so there are several launches of both; the interval (95 %) is of a
bootstrap of launches and of pairs of blocks within each. Writes `benchmarks/results/before_after.jsonl`, and prints a
table.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import sim.configs
from benchmarks import speed  # of the checkout whose process this is

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "benchmarks" / "results" / "before_after.jsonl"
VARIANTS = {  # whether compiled, and with bfloat16 products; the first two by default
    "eager": (False, False), "compiled": (True, True), "eager, bfloat16": (False, True),
    "compiled, float32": (True, False),
}  # fmt: skip
PARTS = ("whole", "update", "draw")
KEY = ("name", "variant", "part", "device", "before", "after")
BATCHES = 8  # drawn before, for updates alone
BLOCK_S, LEAST_BLOCKS = 0.15, 8
RESAMPLES = 2000
CLOSE = 0.03  # within which both are as fast
Run = Callable[[int], None]
Line = dict[str, Any]


# In the process of each version


def serve(device: torch.device) -> None:
    """Answers requests, a line of JSON each, until there are none."""
    answers, sys.stdout = sys.stdout, sys.stderr
    torch.set_num_threads(1)
    sim.configs.register()
    runs: dict[str, Run] = {}
    for name, *arguments in map(json.loads, sys.stdin):
        if name == "make":
            runs = make_runs(device, *arguments)
        answer = measure_block(runs[arguments[0]], arguments[1], device) if name == "measure" else None
        print(json.dumps(answer), file=answers, flush=True)


def make_runs(device: torch.device, name: str, shape: Any, compile: bool, bf16: bool) -> dict[str, Run]:
    """By part of PARTS, a function that makes so many updates of that shape; all is compiled."""
    speed.SHAPES[name] = shape  # both versions run that of the one which asks
    draw, source, generator = make_source(name, device)
    engine = speed.Engine(device, compile=compile, bf16=bf16)
    update = engine.prepare(source)
    updates = engine.repeat(draw, update, [generator])
    batches = [draw() for _ in range(BATCHES)]

    def run_whole(count: int) -> None:
        while count:
            count -= updates.run(count)

    def run_update(count: int) -> None:
        for i in range(count):
            update(batches[i % BATCHES])

    def run_draw(count: int) -> None:
        for _ in range(count):
            draw()

    run_update(2)
    run_whole(speed.WARM_UP + speed.AT_ONCE if device.type == "cuda" else 2)
    return {"whole": run_whole, "update": run_update, "draw": run_draw}


def make_source(name: str, device: torch.device) -> tuple[Callable[[], Any], Any, torch.Generator]:
    """What draws a learner's batches, what its engine prepares, and the generator that chooses the batches."""
    if "make_bench" in vars(speed):
        bench = speed.make_bench(name, device)
        return bench.draw, bench.phase, bench.data.generator
    learner, draw, seed = vars(speed)["made"](name, device)  # older: learners name the type of their batch
    return draw, learner.update, seed.sampling


def measure_block(run: Run, count: int, device: torch.device) -> float:
    """Seconds of an update, the mean of so many."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    began = clock()
    run(count)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (clock() - began) / count


# In the process that compares them


class Version:
    """A process that runs the updates of a checkout."""

    def __init__(self, checkout: Path, device: str):
        self.checkout = checkout.resolve()
        environment = {**os.environ, "PYTHONPATH": str(self.checkout), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-P", str(Path(__file__).resolve()), "--serve", "--device", device]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=self.checkout, env=environment
        )

    def __enter__(self) -> "Version":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()

    def call(self, *request: Any) -> Any:
        """Sends a request and waits for its answer. Raises RuntimeError if the process fails."""
        assert self.process.stdin is not None and self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(request), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self.checkout} failed at {request[0]} {request[1]}; its message is above")
        return json.loads(answer)


def measure_launch(checkouts: list[Path], name: str, variant: str, args: argparse.Namespace) -> dict[str, np.ndarray]:
    """By part, seconds of an update in each block [N, 2], before and after, of two fresh processes."""
    with Version(checkouts[0], args.device) as before, Version(checkouts[1], args.device) as after:
        for version in (before, after):
            version.call("make", name, speed.SHAPES[name], *VARIANTS[variant])
        return {part: measure_part(before, after, part, args.seconds) for part in args.parts}


def measure_part(before: Version, after: Version, part: str, seconds: float) -> np.ndarray:
    """Blocks of both in turns, for so many seconds but at least LEAST_BLOCKS: [N, 2]."""
    update_s = min(before.call("measure", part, 1) for _ in range(3))
    count = max(1, round(BLOCK_S / update_s))
    blocks = []
    for i in range(max(LEAST_BLOCKS, round(seconds / (2 * count * update_s)))):
        sides = (before, after) if i % 2 == 0 else (after, before)
        found = [side.call("measure", part, count) for side in sides]
        blocks.append(found if i % 2 == 0 else found[::-1])
    return np.array(blocks)


def summarize(launches: list[np.ndarray]) -> Line:
    """Of blocks [N, 2] of each launch: medians in ms, their ratio, its interval and that of each launch."""
    random = np.random.default_rng(0)

    def resample() -> np.ndarray:
        picked = [launches[i] for i in random.integers(len(launches), size=len(launches))]
        return np.concatenate([blocks[random.integers(len(blocks), size=len(blocks))] for blocks in picked])

    low, high = np.percentile([ratio_of(resample()) for _ in range(RESAMPLES)], [2.5, 97.5]).tolist()
    every = np.concatenate(launches)
    before, after = (1000 * np.median(every, 0)).tolist()
    return {
        "before_ms": round(before, 4), "after_ms": round(after, 4), "ratio": round(ratio_of(every), 4),
        "interval": [round(low, 4), round(high, 4)], "ratios": [round(ratio_of(blocks), 4) for blocks in launches],
        "blocks": len(every),
    }  # fmt: skip


def ratio_of(blocks: np.ndarray) -> float:
    before, after = np.median(blocks, 0)
    return float(after / before)


def compare(checkouts: list[Path], name: str, variant: str, args: argparse.Namespace) -> list[Line]:
    """The lines of one shape and variant, one for each part."""
    from pbrl.processor import processor_name  # which an older checkout has not

    launches = [measure_launch(checkouts, name, variant, args) for _ in range(args.launches)]
    commits = [commit_of(checkout) for checkout in checkouts]
    title = torch.cuda.get_device_name() if args.device == "cuda" else "cpu"
    return [{
        "name": name, "variant": variant, "part": part, "device": title, "before": commits[0], "after": commits[1],
        **summarize([found[part] for found in launches]), "torch": torch.__version__,
        "processor": processor_name(), "load": [round(x, 1) for x in os.getloadavg()],
    } for part in args.parts]  # fmt: skip


def commit_of(checkout: Path) -> str:
    """Its commit, with a + where the package differs from it."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], capture_output=True, text=True, cwd=checkout).stdout.strip()

    return git("rev-parse", "--short=10", "HEAD") + ("+" if git("status", "--porcelain", "pbrl", "configs") else "")


def verdict(line: Line) -> str:
    low, high = line["interval"]
    if low > 1 + CLOSE:
        return "slower"
    if high < 1 - CLOSE:
        return "faster"
    return "as fast" if high <= 1 + CLOSE else "not clear"


def show(lines: list[Line]) -> None:
    """Prints a table."""
    print("| | | | before, ms | after, ms | ratio | |\n|---|---|---|---|---|---|---|")
    for line in lines:
        low, high = line["interval"]
        print(f"| {line['name']} | {line['variant']} | {line['part']} | {line['before_ms']:.3g} | "
              f"{line['after_ms']:.3g} | {line['ratio']:.3f} [{low:.3f}, {high:.3f}] | {verdict(line)} |")  # fmt: skip
    mean = np.exp(np.mean([np.log(line["ratio"]) for line in lines]))
    print(f"\ngeometric mean of the ratios: {mean:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, nargs="?", help="a checkout of the older version")
    parser.add_argument("names", nargs="*", help=f"of {', '.join(speed.SHAPES)}; all by default")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS)[:2])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--launches", type=int, default=2, help="of both processes")
    parser.add_argument("--seconds", type=float, default=15.0, help="of both versions, for each part of a launch")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        return serve(torch.device(args.device))
    if args.before is None or not (args.before / "pbrl").is_dir():
        parser.error(f"{args.before} is no checkout: git worktree add ../before <commit>, and give ../before")
    if unknown := set(args.names) - set(speed.SHAPES):
        parser.error(f"no such shape: {', '.join(unknown)}; there are {', '.join(speed.SHAPES)}")
    known = [json.loads(line) for line in FILE.read_text().splitlines()] if FILE.exists() else []
    lines, new = {tuple(line[k] for k in KEY): line for line in known}, []
    for name in args.names or list(speed.SHAPES):
        for variant in args.variants:
            found = compare([args.before, ROOT], name, variant, args)
            new += found
            lines.update({tuple(line[k] for k in KEY): line for line in found})
            FILE.write_text("".join(json.dumps(line) + "\n" for line in lines.values()))
            for line in found:
                print(f"{name:12s} {variant:10s} {line['part']:7s} {line['ratio']:.3f} {line['interval']}", flush=True)
    show(new)


if __name__ == "__main__":
    main()

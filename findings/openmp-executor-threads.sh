#!/usr/bin/env bash
# torch 2.13.0, multiprocessing: a model handed to a ProcessPoolExecutor makes the parent's own small operations ten times
# slower, for as long as the executor lives.
#
# A good guess: `submit(evaluate, model)` costs the parent the pickling, and nothing once the workers are idle again.
# Seen on two cores: 30 µs for three operations on [256, 256] before, 250 to 340 µs afterwards, until the executor ends.
# It pickles in a thread of its own; there a tensor of more than 32,768 numbers is copied in parallel, so this thread gets
# OpenMP threads too. libgomp then counts more threads than cores, and from now on all of them sleep in a futex between
# parallel regions instead of spinning. `pickle.dumps` in the main thread, and its bytes submitted, cost nothing later.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.3.5 2> "$folder/log" || { cat "$folder/log"; exit 1; }
cat > "$folder/executor.py" <<'PYTHON'
import pickle
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch


def count(model):
    return sum(p.numel() for p in (pickle.loads(model) if isinstance(model, bytes) else model).parameters())


def microseconds(x, times=2000):
    began = time.perf_counter()
    for _ in range(times):
        torch.relu(x) * 2 + 1
    return 1e6 * (time.perf_counter() - began) / times


def median(x):
    return statistics.median(microseconds(x) for _ in range(7))


if __name__ == "__main__":
    torch.set_num_threads(2)
    x, model = torch.randn(256, 256), torch.nn.Linear(256, 256)
    with ProcessPoolExecutor(1, get_context("forkserver")) as pool:
        pool.submit(count, pickle.dumps(model)).result()
        before = median(x)
        pool.submit(count, model).result()
        after = median(x)
    ended = median(x)
    print(f"bytes submitted: {before:.0f} µs, model submitted: {after:.0f} µs, executor ended: {ended:.0f} µs")
    assert after > 2 * before and after > 2 * ended
PYTHON
"$folder/venv/bin/python" "$folder/executor.py"

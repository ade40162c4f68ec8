"""What the convolutions of an image reward's update must cost: their arithmetic, and PyTorch's own calls for them."""

import time
from collections.abc import Callable
from typing import Any

import torch

PAIRS, MEMBERS = 64, 3
LAYERS = (5, 3, 16), (3, 2, 32), (3, 2, 64), (3, 2, 128)  # kernel, stride and channels
AT_ONCE = 16  # pictures of a call: what they are made of stays in a processor's caches


def update_gflop(size: int) -> float:
    """The convolutions' arithmetic in an update: forwards, and gradients of weights and of all inputs but pictures."""
    total, inputs, side = 0.0, 3, size
    for i, (kernel, stride, outputs) in enumerate(LAYERS):
        side = (side - kernel) // stride + 1
        products = 2 if i == 0 else 3
        total += products * 2e-9 * side**2 * outputs * inputs * kernel**2
        inputs = outputs
    return total * 2 * PAIRS * MEMBERS


def product_gflops() -> dict[str, float]:
    """GFLOP per CPU-second of this processor's matrix products of 1,024, the best of a few, by precision."""
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        a, b = torch.ones(1024, 1024, dtype=dtype), torch.ones(1024, 1024, dtype=dtype)
        seconds = take_turns({"product": lambda a=a, b=b: torch.mm(a, b)}, 7)["product"]
        found[str(dtype).removeprefix("torch.")] = 2e-9 * 1024**3 / min(seconds)
    return found


def kernel_seconds(size: int, dtype: torch.dtype) -> float:
    """CPU-seconds of an update's convolutions alone, each the best of a few calls with nothing around it.

    Forwards, and gradients of weights and of all inputs but pictures, of all members and pictures, channels last.
    """
    total, inputs, side = 0.0, 3, size
    for i, (kernel, stride, outputs) in enumerate(LAYERS):
        x = torch.rand(AT_ONCE, inputs, side, side).to(dtype, memory_format=torch.channels_last)
        weight, bias = torch.rand(outputs, inputs, kernel, kernel).to(dtype), torch.rand(outputs).to(dtype)
        grad = torch.rand_like(torch.conv2d(x, weight, bias, stride))
        about = [outputs], [stride, stride], [0, 0], [1, 1], False, [0, 0], 1
        calls: dict[str, Callable[[], Any]] = {
            "forwards": lambda x=x, w=weight, b=bias, s=stride: torch.conv2d(x, w, b, s)
        }
        for name, wanted in {"weights": [False, True, True], "inputs": [True, False, False]}.items():
            if i or name == "weights":
                calls[name] = lambda g=grad, x=x, w=weight, a=about, m=wanted: torch.ops.aten.convolution_backward(
                    g, x, w, *a, m
                )
        total += sum(min(found) for found in take_turns(calls, 5).values())
        inputs, side = outputs, (side - kernel) // stride + 1
    return total * 2 * PAIRS / AT_ONCE * MEMBERS


def take_turns(runs: dict[str, Callable[[], Any]], turns: int) -> dict[str, list[float]]:
    """CPU-seconds of an update of each in turns, after one that warms up."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(turns + 1):
        for name, run in runs.items():
            began = time.process_time()
            run()
            if turn:
                found[name].append(time.process_time() - began)
    return found

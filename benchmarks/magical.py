"""How often the experts of env=magical/… succeed, in each style, and what pictures cost.

    python -m benchmarks.magical                                     # 20 seeds, all tasks and embodiments
    python -m benchmarks.magical --picture docs/magical.png          # nothing but the picture

Speed is in CPU time of one process, the least of several turns with the same random actions: a step of the state alone,
and one that is drawn. Writes `benchmarks/results/magical.jsonl`, a line for each task and embodiment, anew.
"""

import argparse
import os
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.report import RESULTS
from pbrl.files import to_json
from pbrl.processor import processor_name
from sim.magical import TASKS, Magical
from sim.magical.world import EMBODIMENTS

FILE = RESULTS / "magical.jsonl"
STYLES = {"sweep-to-top": ({},), "avoiding": ({}, {"wide": 0.05}, {"wide": 0.25}), "grouping": ({}, {"together": 0.0})}
SIZES = (64, 384)  # pixels; X-Magical draws 384 at every step
TURNS, STEPS = 3, 100
SIZE, TITLE = 132, 16  # pixels


def make_env(task: str, embodiment: str) -> Magical:
    return Magical(task, embodiment=embodiment, horizon=None, style={})


def measure(task: str, embodiment: str, seeds: int) -> dict[str, Any]:
    """A line: success and what is measured of each style, and how many times as long a drawn step takes."""
    env = make_env(task, embodiment)
    styles = [{"style": style, **play(env, style, seeds)} for style in STYLES[task]]
    step, *drawn = (cost(env, size) for size in (None, *SIZES))
    return {
        "task": task, "embodiment": embodiment, "seeds": seeds, "styles": styles, "steps_per_cpu_s": round(1 / step),
        "times_as_long_drawn": {str(size): round(own / step, 2) for size, own in zip(SIZES, drawn, strict=True)},
        "processor": processor_name(), "load": os.getloadavg()[0],
    }  # fmt: skip


def play(env: Magical, style: dict[str, float], seeds: int) -> dict[str, float]:
    """Means over episodes of the expert: success, the step of the first one, return, and attributes."""
    found = []
    for seed in range(seeds):
        env.reset(seed=seed)
        expert, states, steps = env.expert(**style), [env.save_state()], []
        for _ in range(env.horizon):
            _, reward, _, _, info = env.step(expert.act(env.full_obs))
            steps.append((info["success"], reward))
            states.append(env.save_state())
        success, reward = np.array(steps).T
        first = float(np.argmax(success)) + 1 if success.any() else np.nan
        measured = {name: values.mean() for name, values in env.measure(seed, np.stack(states)).items()}
        found.append({"success": success.any(), "first_success": first, "return": reward.sum(), **measured})
    return {name: round(float(np.nanmean([one[name] for one in found])), 4) for name in found[0]}


def cost(env: Magical, size: int | None) -> float:
    """CPU seconds of a step, which is drawn if there is a size."""
    actions = np.random.default_rng(0).uniform(-1, 1, (STEPS, *(env.action_space.shape or ())))
    found = []
    for _ in range(TURNS):
        env.reset(seed=0)
        begun = time.process_time()
        for action in actions:
            env.step(action)
            if size:
                env.render(size, size)
        found.append((time.process_time() - begun) / STEPS)
    return min(found)


def draw(task: str, embodiment: str) -> np.ndarray:
    """The expert half way to success: [H, W, 3] uint8."""
    env = make_env(task, embodiment)
    frames = []
    env.reset(seed=1)
    expert, done = env.expert(), False
    while not done:
        _, _, _, truncated, info = env.step(expert.act(env.full_obs))
        frames.append(env.render(SIZE, SIZE))
        done = info["success"] or truncated
    title = Image.new("RGB", (SIZE, TITLE), "white")
    ImageDraw.Draw(title).text((4, 2), f"{task}, {embodiment.removesuffix('-stick')}", fill="black")
    return np.vstack([np.asarray(title), frames[len(frames) // 2]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--picture", type=Path)
    args = parser.parse_args()
    if args.picture:
        rows = [np.hstack([draw(task, embodiment) for embodiment in EMBODIMENTS]) for task in TASKS]
        Image.fromarray(np.vstack(rows)).quantize(64, dither=Image.Dither.NONE).save(args.picture, optimize=True)
        return
    lines = []
    for task, embodiment in product(TASKS, EMBODIMENTS):
        lines.append(measure(task, embodiment, args.seeds))
        print(to_json(lines[-1]), flush=True)
        FILE.write_text("".join(to_json(line) + "\n" for line in lines))


if __name__ == "__main__":
    main()

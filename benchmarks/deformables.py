"""How often the experts of rope and cloth succeed on each arm, and what an episode costs.

    python -m benchmarks.deformables                                          # 20 seeds, all arms
    python -m benchmarks.deformables --seeds 5 --robots ur5
    python -m benchmarks.deformables --picture docs/deformable.png            # nothing but the picture

One episode at a time in one process; CPU time is of whole episodes, expert included, without rendering. Success is that
of the last step. Writes `benchmarks/results/deformables.jsonl`, a line for each arm and task, anew.
"""

import argparse
import os
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.report import RESULTS
from pbrl.files import to_json
from pbrl.processor import processor_name
from robots import arm
from sim.tabletop import Tabletop

TASKS = ("rope", "cloth")
HORIZON = 160  # steps
FILE = RESULTS / "deformables.jsonl"
SHOWN = {"rope": (0, 55, 159), "cloth": (0, 61, 159)}  # steps: start, middle, end
SIZE = 224  # pixels


def make_env(task: str, robot: str) -> Tabletop:
    return Tabletop(task, robot=robot, control="cartesian", horizon=HORIZON, style={}, preference={})


def measure(task: str, robot: str, seeds: int) -> dict[str, Any]:
    """Plays the expert; returns a line of the results."""
    env, ends, ever, seconds, returns = make_env(task, robot), [], [], [], []
    for seed in range(seeds):
        begun = time.process_time()
        env.reset(seed=seed)
        expert, steps = env.expert(), []
        for _ in range(HORIZON):
            _, reward, _, _, info = env.step(expert.act(env.full_obs))
            steps.append((info["success"], reward))
        seconds.append(time.process_time() - begun)
        success, reward = np.array(steps).T
        ends.append(bool(success[-1]))
        ever.append(bool(success.any()))
        returns.append(float(reward.sum()))
    return {
        "task": task, "robot": robot, "seeds": seeds, "success_at_end": float(np.mean(ends)),
        "success": float(np.mean(ever)), "return": float(np.mean(returns)), "cpu_s": float(np.mean(seconds)),
        "cpu_s_std": float(np.std(seconds)), "cpu_s_max": max(seconds), "timestep_s": env.model.opt.timestep,
        "degrees_of_freedom": env.model.nv, "processor": processor_name(), "load": os.getloadavg()[0],
    }  # fmt: skip


def draw(task: str, robot: str = "panda", seed: int = 4) -> np.ndarray:
    """Start, middle and end of an episode of the expert, side by side: [H, 3 W, 3] uint8."""
    env = make_env(task, robot)
    env.reset(seed=seed)
    expert, frames = env.expert(), []
    for step in range(HORIZON):
        if step in SHOWN[task]:
            frames.append(env.render(SIZE, SIZE, camera="front"))
        env.step(expert.act(env.full_obs))
    env.close()
    return np.hstack(frames)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--robots", nargs="+", choices=arm.NAMES, default=["panda", "fr3", "ur5"])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--picture", type=Path)
    args = parser.parse_args()
    if args.picture:
        picture = Image.fromarray(np.vstack([draw(task) for task in TASKS]))
        picture.save(args.picture, optimize=True)
        return
    lines = [measure(task, robot, args.seeds) for task, robot in product(TASKS, args.robots)]
    FILE.write_text("".join(to_json(line) + "\n" for line in lines))
    print("| task | arm | success at the end | CPU s an episode, mean ± std |\n|---|---|---|---|")
    for line in lines:
        cost = f"{line['cpu_s']:.2f} ± {line['cpu_s_std']:.2f}"
        print(f"| {line['task']} | {line['robot']} | {100 * line['success_at_end']:.0f} % | {cost} |")


if __name__ == "__main__":
    main()

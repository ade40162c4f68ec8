"""The picture in docs/environments.md: the first and the last frame of an expert's episode, as a judge sees them.

python -m benchmarks.views docs/views.png
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from sim.metaworld import MetaWorld

TASKS = ("drawer-open", "soccer", "sweep-into", "door-open")
SIZE, TITLE, SEED = 160, 18, 3  # pixels; of the episode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    picture = Image.fromarray(np.hstack([column(task) for task in TASKS]))
    picture.quantize(256, kmeans=2, dither=Image.Dither.NONE).save(out, optimize=True)
    print(f"{out}: {out.stat().st_size / 1000:.0f} kB")


def column(task: str) -> np.ndarray:
    """Its instruction, where its episode begins, and where it succeeds."""
    env = MetaWorld(task, horizon=250, goal_visible=True, see_through=True, camera="closeup")
    env.reset(seed=SEED)
    expert, frames = env.expert(), [env.render(SIZE, SIZE)]
    while not env.step(expert.act(env.full_obs))[4]["success"]:
        assert env.t < env.horizon
    frames.append(env.render(SIZE, SIZE))
    title = Image.new("RGB", (SIZE, TITLE), "white")
    ImageDraw.Draw(title).text((4, 3), env.instruction, fill="black")
    env.close()
    return np.vstack([np.asarray(title), *frames])


if __name__ == "__main__":
    main()

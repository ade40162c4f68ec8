"""An animation of runs side by side on the same episodes, as in the README.

python -m benchmarks.animate out.gif runs/a runs/b …
"""

import argparse
from pathlib import Path

import numpy as np
import yaml
from hydra.utils import instantiate
from PIL import Image, ImageDraw

import sim  # noqa: F401  chooses how MuJoCo renders
from pbrl.data.rollout import PolicyActor, rollout
from pbrl.data.video import frames, write_gif
from pbrl.models.policy import load_policy
from pbrl.training.evaluate import evaluation_seeds

SIZE, EVERY = 208, 5  # pixels, and steps between frames


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--titles", nargs="*", default=[])
    parser.add_argument("--episodes", type=int, default=2)
    parser.add_argument("--steps", type=int, default=150, help="shown of each episode")
    args = parser.parse_args()
    columns = []
    for run, title in zip(args.runs, args.titles or [run.name for run in args.runs], strict=True):
        config = yaml.safe_load((run / "config.yaml").read_text())
        env = instantiate(config["env"])
        strip = []
        for episode in rollout(
            [env], PolicyActor(load_policy(run)), evaluation_seeds(args.episodes, config["eval_seed"])
        ):
            assert episode.state is not None
            shown = episode._replace(state=episode.state[: args.steps])
            for image in frames(env, shown, width=SIZE, height=SIZE, every=EVERY):
                picture = Image.fromarray(image)
                ImageDraw.Draw(picture).text((8, 8), title, fill="white", font_size=16)
                strip.append(np.array(picture))
        columns.append(strip)
        env.close()
    write_gif(args.out, [np.hstack(row) for row in zip(*columns, strict=False)], fps=12)


if __name__ == "__main__":
    main()

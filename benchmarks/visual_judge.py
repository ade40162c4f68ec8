"""Are rewards of pictures any good? Four of them on episodes that no answer was about, by `python -m pbrl.judge`.

    python -m benchmarks.visual_judge --seeds 0 1 2
    python -m benchmarks.visual_judge --seeds 0 --figure docs/judge_visual.webp

On magical/grouping: likeness to the three best videos after 150 triplets (rapl), the same with the released code's
transport (released), without any answers (frozen), and a reward of single frames after 150 comparisons (rlhf), all on
features of EfficientNet-Lite0. Answers are about 40 episodes, and the judge sees 30 others: as they are, in reversed
order, from a camera turned by 10 degrees, and in a dim and warm light. A seed is of answers and training. A line of
each seed goes to `benchmarks/results/visual_judge.jsonl`; what is there is not measured again.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.report import RESULTS
from pbrl.configs import compose_config
from pbrl.judge import charts, episodes
from pbrl.judge.command import measure_sources, read_material
from pbrl.judge.judging import OF_PICTURES
from pbrl.run.train import train

FILE = RESULTS / "visual_judge.jsonl"
LEARNT, JUDGED, HORIZON, ANSWERS = 40, 30, 64, 150
DATA = ["env=magical/grouping", f"env.horizon={HORIZON}", "data=styles", "data.behaviour.noise=0.3",
        "data.behaviour.styles=[{together:1},{together:0}]"]  # fmt: skip
LIKENESS = ["reward=rapl", "query.kind=triplet"]
METHODS = {
    "rapl": LIKENESS,
    "released": [*LIKENESS, "reward.metric=cosine", "reward.gamma=1", "reward.band=1"],
    "frozen": [*LIKENESS, "reward.align=false"],
    "rlhf": ["reward=image", "reward.encoder=lite0", "query.kind=pair"],
}
SHORT = ["algo=iql", "steps=1", "log_every=1", "eval_every=1", "checkpoint_every=1", "eval_episodes=1",
         "final_episodes=1", "compare=false", "video=false"]  # fmt: skip
KEPT = ("pair_accuracy", "reward_correlation", "spearman", "failure_auc", *OF_PICTURES)
PATCHES, FRAMES = 7, 8


def train_reward(method: str, seed: int, place: list[str], folder: Path) -> Path:
    """The folder of a run that has learnt a reward; its policy does not matter."""
    path, flags = folder / f"{method}-{seed}", METHODS[method]
    if not (path / "result.json").exists():
        learnt = [*DATA, f"data.episodes={LEARNT}", *place]
        if flags[0] == "reward=rapl":
            returns = read_material(compose_config(*learnt, name="judge")).truth.returns
            assert returns is not None
            flags = [*flags, f"reward.preferred={np.argsort(-returns)[:3].tolist()}"]
        ask = [f"query.count={ANSWERS}", f"query.length={HORIZON}", "query.held_out=0", "feedback=perfect"]
        train(compose_config(*learnt, *SHORT, *ask, *flags, f"seed={seed}", "threads=1", f"run={path}"))
    return path


def judge_seed(seed: int, place: list[str], folder: Path, figure: Path | None) -> dict[str, Any]:
    """A line: the measures of all methods. With a `figure` it is drawn of an episode that fails."""
    runs = {name: str(train_reward(name, seed, place, folder)) for name in METHODS}
    flags = [
        f"data.episodes={JUDGED}",
        "data_seed=1",
        "changes=[camera,light]",
        f"query.length={HORIZON}",
        "device=cpu",
    ]
    judged = measure_sources({**compose_config(*DATA, *flags, *place, name="judge"), "sources": runs})
    if figure:
        draw(judged, figure)
    measures = {name: own["measures"] for name, own in judged.result["sources"].items()}
    kept = {
        name: {key: {part: own[key][part] for part in ("value", "low", "high", "why")} for key in KEPT}
        for name, own in measures.items()
    }
    return {"seed": seed, "successes": judged.result["data"]["successes"], "measures": kept}


def draw(judged: Any, path: Path) -> None:
    """The failure that rlhf scores highest, as rapl, released and rlhf see it."""
    truth, shown = judged.truth, {name: judged.sources[name] for name in ("rapl", "released", "rlhf")}
    chosen = episodes.choose_episodes(truth, {"rlhf": shown["rlhf"]})
    place = next(place for place, why in chosen.items() if "failure" in why)
    films = episodes.read_films(judged.material, {place: chosen[place]}, shown, count=FRAMES, size=112)
    (film,) = episodes.hide_patches(films, {name: shown[name] for name in ("rapl", "rlhf")}, PATCHES)
    figure = episodes.draw(film, truth, shown, list(shown), charts.INK, episodes.title_of(film, truth))
    Image.fromarray(episodes.to_pixels(figure, dpi=90)).save(path, quality=85)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--figure", type=Path, help="where a picture of an episode goes")
    parser.add_argument("--folder", type=Path, default=Path("runs/visual_judge"))
    parser.add_argument("--data", type=Path, default=Path("datasets"), help="where episodes and features are kept")
    args = parser.parse_args()
    place = [f"data_dir={args.data}", "workers=0"]
    for seed in args.seeds:
        known = [json.loads(line) for line in FILE.read_text().splitlines()] if FILE.exists() else []
        if args.figure or all(line["seed"] != seed for line in known):
            line = judge_seed(seed, place, args.folder, args.figure)
            others = [own for own in known if own["seed"] != seed]
            lines = sorted([*others, line], key=lambda own: own["seed"])
            FILE.write_text("".join(json.dumps(own) + "\n" for own in lines))
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()

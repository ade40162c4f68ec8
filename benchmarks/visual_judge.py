"""Are rewards of pictures any good? Some of them on videos that no answer was about, by the measures of `pbrl.judge`.

    python -m benchmarks.visual_judge --seeds 0 1 2
    python -m benchmarks.visual_judge --seeds 0 --figure docs/judge_visual.webp

On magical/grouping, with the videos and features of `benchmarks.rapl`: likeness to the three best videos after 150
triplets (rapl), the same with the released code's transport (released) and without any answers (frozen), the first and
the last also with `reward.least_spread=1` (least spread), and a reward of single frames after 150 comparisons (rlhf).
Answers are about 100 videos, and 30 others are judged: as they are, in reversed order, from a camera turned by 10
degrees, and in a dim and warm light. A seed is of answers and training. A line of each goes to
`benchmarks/results/visual_judge.jsonl`; what is there is not measured again.
"""

import argparse
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks import rapl
from benchmarks.rapl_videos import EPISODES, SIDE, TRAIN, load_features, make_table, make_videos, weights
from benchmarks.rapl_videos import FRAMES as VIDEO_FRAMES
from benchmarks.report import RESULTS
from pbrl import api
from pbrl.data.table import Table
from pbrl.judge import Source, charts, draw_pairs, episodes, measure
from pbrl.judge.from_run import compare
from pbrl.judge.judging import OF_PICTURES
from pbrl.judge.material import Material
from pbrl.judge.visual import Visual
from pbrl.models.frozen import encode_images
from pbrl.types import Episode

FILE, TASK = RESULTS / "visual_judge.jsonl", "grouping"
ANSWERS, JUDGED = 150, 30
METHODS = {
    "rapl": "rapl, least spread 0",
    "least spread": "rapl",
    "released": "rapl, released transport, least spread 0",
    "frozen": "frozen transport, least spread 0",
    "frozen, least spread": "frozen transport",
    "rlhf": "rlhf",
}
CHANGES: dict[str, dict[str, Any]] = {"camera": {"turn_deg": 10.0}, "light": {"light": [0.8, 0.6, 0.45]}}
KEPT = ("pair_accuracy", "reward_correlation", "spearman", *OF_PICTURES)
PATCHES, FRAMES = 7, 8
ENCODER = {"encoder": "lite0", "weights": weights()}


def split() -> tuple[np.ndarray, np.ndarray]:
    """The videos that answers are about, and those that are judged."""
    shuffled = np.random.default_rng(0).permutation(EPISODES)
    return shuffled[:TRAIN], shuffled[TRAIN : TRAIN + JUDGED]


@cache
def changed_features(change: str, folder: Path) -> torch.Tensor:
    """Features [R, F] of the judged videos, played again with the camera or the light changed."""
    path = folder / f"visual-judge-{TASK}-{JUDGED}-{change}.npy"
    if not path.exists():
        np.save(
            path,
            make_videos(TASK, split()[1], CHANGES[change]).pictures.reshape(-1, SIDE, SIDE, 3),
        )
    return torch.from_numpy(encode_images(np.load(path), "lite0", weights(), folder=folder))


def judge(method: str, seed: int, folder: Path) -> tuple[Source, Table]:
    """A reward that has learnt, as it scores the judged videos, and these."""
    kind, reward, changes, *_ = rapl.METHODS[METHODS[method]]
    features, videos = load_features(TASK, folder, "lite0", weights())
    train, test = (make_table(features, videos, which) for which in split())
    labels = api.ask(train, kind=kind, count=ANSWERS, length=VIDEO_FRAMES, seed=seed, held_out=0)
    best = {"preferred": np.argsort(-train.returns)[:3].tolist()} if reward == "rapl" else {}
    changes = {**ENCODER, **best, **changes}
    model: Any = api.train_reward(train, labels, reward, seed=seed, **changes)
    test.relabel(model)
    shown = videos.pictures[split()[1]].reshape(-1, SIDE, SIDE, 3)
    liked = list(videos.pictures[split()[0][np.argsort(-train.returns)[:3]]]) if reward == "rapl" else None
    visual = Visual(model, test, material_of(test), {}, {"encoder": "lite0", "weights": weights()}, shown, liked)
    source = Source(
        reward=test.labels["reward"][test.rows].double().numpy(),
        probability=lambda clips: compare(model, test, clips),
        reversed_reward=visual.score_reversed(),
        changed_reward={change: visual.score(changed_features(change, folder)) for change in CHANGES},
        visual=visual,
    )
    return source, test


def material_of(table: Table) -> Material:
    """The judged videos as episodes."""
    rows = [np.arange(f, f + n + 1) for f, n in zip(table.first, table.steps, strict=True)]
    obs, reward, action = table.obs.numpy(), table.reward.numpy(), table.action.numpy()
    found = [Episode(i, obs[own], action[own[:-1]], reward[own[:-1]], False) for i, own in enumerate(rows)]
    return Material(found, "", {}, Path(), 0)


def measure_seed(seed: int, folder: Path, figure: Path | None) -> dict[str, Any]:
    """A line: the measures of all methods. With a `figure` it is drawn of a video."""
    sources = {name: judge(name, seed, folder)[0] for name in METHODS}
    visual = next(iter(sources.values())).visual
    assert visual is not None
    truth = visual.material.truth
    pairs = draw_pairs(truth, length=VIDEO_FRAMES, count=1000, seed=0)
    if figure:
        draw(sources, visual.material, figure)
    found = {name: measure(truth, source, pairs=pairs).measures for name, source in sources.items()}
    kept = {name: {key: keep(own[key]._asdict()) for key in KEPT} for name, own in found.items()}
    return {
        "seed": seed,
        "answers": ANSWERS,
        "videos": JUDGED,
        "real_weights": weights() is None,
        "measures": kept,
    }


def keep(one: dict[str, Any]) -> dict[str, Any]:
    return {part: round(one[part], 4) if isinstance(one[part], float) else one[part] for part in
            ("value", "low", "high", "why")}  # fmt: skip


def draw(sources: dict[str, Source], material: Material, path: Path) -> None:
    """The worse half's video that rlhf scores highest, as rapl, released and rlhf see it."""
    truth, shown = material.truth, {name: sources[name] for name in ("rapl", "released", "rlhf")}
    chosen = episodes.choose_episodes(truth, {"rlhf": shown["rlhf"]})
    place = next(place for place, why in chosen.items() if "scores highest" in why)
    films = episodes.read_films(material, {place: chosen[place]}, shown, count=FRAMES, size=SIDE)
    (film,) = episodes.hide_patches(films, {name: shown[name] for name in ("rapl", "rlhf")}, PATCHES)
    figure = episodes.draw(film, truth, shown, list(shown), charts.INK)
    Image.fromarray(episodes.to_pixels(figure, dpi=90)).save(path, quality=85)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--figure", type=Path, help="where a picture of a video goes")
    parser.add_argument("--folder", type=Path, default=Path("datasets"), help="where pictures and features are kept")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.folder.mkdir(parents=True, exist_ok=True)
    for seed in args.seeds:
        known = [json.loads(line) for line in FILE.read_text().splitlines()] if FILE.exists() else []
        if args.figure or all(line["seed"] != seed for line in known):
            line = measure_seed(seed, args.folder, args.figure)
            lines = sorted([*(own for own in known if own["seed"] != seed), line], key=lambda own: own["seed"])
            FILE.write_text("".join(json.dumps(own) + "\n" for own in lines))
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()

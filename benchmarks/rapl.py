"""RAPL beside other rewards of pictures: rank correlation with the true preference, and speed.

    python -m benchmarks.rapl --parts speed
    python -m benchmarks.rapl --parts spearman --seeds 0 1 2

Four tasks, whose true rewards are ours, in the manner of RAPL's (Tian et al. 2023, arXiv:2310.07932). Of
`franka/group` it is how far the cubes are from the line and how far from each other along x; of `franka/clutter`, how
far the cube is from its goal, and contacts with the glasses; those of `magical/…` are their own. Episodes are of
scripted experts in several styles, with action noise, and in clutter of experts who see the goal displaced. Videos are
compared as wholes.
"""

import argparse
import itertools
import json
import math
import os
import time
from collections.abc import Callable, Iterable
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.report import RESULTS
from pbrl import api, files
from pbrl.configs import compose_config
from pbrl.data.rollout import make_environment
from pbrl.data.table import Table
from pbrl.models.frozen import encode_images, load_encoder
from pbrl.models.transport import Transport
from pbrl.processor import processor_name
from pbrl.rewards import pretraining
from pbrl.run.build import build, build_reward
from pbrl.settings import RunSettings
from pbrl.training.batches import Data
from pbrl.training.held_out import rank_correlation
from pbrl.types import Episode, UserError

FILE = RESULTS / "rapl.jsonl"
EPISODES, TRAIN, FRAMES, SIDE = 150, 100, 32, 112  # episodes, of which answers are about; frames of a video; pixels
VIEW, CUT = 192, (slice(72, 72 + SIDE), slice(40, 40 + SIDE))  # pixels; of them, where the objects are
NOISE = (0.05, 0.2, 0.4)  # of actions, an episode with one of them
RELEASED = 0.605  # triplets a CPU-second of the released code, which runs its encoder in each update
CONTACT = 0.02  # m that a contact with a glass counts as


class Task(NamedTuple):
    env: str
    horizon: int
    styles: list[dict[str, float]]
    displaced: float  # m along x, at most: where the expert sees the goal


TASKS = {
    "group": Task(
        "franka/group", 4 * FRAMES, [{"together": 1.0}, {"together": 0.0}, {"together": 0.0, "height": 0.2}], 0
    ),
    "clutter": Task(
        "franka/clutter", 5 * FRAMES, [{"height": 0.05}, {"height": 0.15}, {"height": 0.1, "speed": 0.6}], 0.09
    ),
    "grouping": Task("magical/grouping", 3 * FRAMES, [{"together": 1.0}, {"together": 0.0}], 0.0),
    "avoiding": Task("magical/avoiding", 3 * FRAMES, [{"wide": 0.05}, {"wide": 0.25}, {"speed": 0.6}], 0.0),
}


class Videos(NamedTuple):
    """Pictures [N, M + 1, H, W, 3], observations [N, M + 1, O] and true rewards [N, M] of N episodes."""

    pictures: np.ndarray
    obs: np.ndarray
    reward: np.ndarray


def load_videos(name: str, folder: Path) -> Videos:
    """The videos of a task, made once."""
    path = folder / f"rapl-{name}-{EPISODES}-{FRAMES}-{SIDE}.npz"
    if not path.exists():
        with files.replacing(path) as partial, partial.open("wb") as file:
            np.savez(file, **make_videos(name)._asdict())
    return Videos(**np.load(path))


def make_videos(name: str, seeds: Iterable[int] = range(EPISODES), change: dict[str, Any] | None = None) -> Videos:
    """The videos of these seeds, perhaps with pictures that are changed (`Environment.change_view`)."""
    task = TASKS[name]
    env: Any = make_environment({**compose_config(f"env={task.env}")["env"], "horizon": task.horizon})
    env.change_view(**(change or {}))
    size, pictures, obs, rewards = env.action_space.shape, [], [], []
    for seed in map(int, seeds):
        random = np.random.default_rng([seed, 31])
        env.reset(seed=seed)
        expert, noise = env.expert(**task.styles[random.integers(len(task.styles))]), random.choice(NOISE)
        shift = np.zeros(len(env.full_obs))
        shift[-3] = random.uniform(-task.displaced, task.displaced)
        shown, seen, found = [show(env)], [env.full_obs.copy()], []
        for t in range(1, task.horizon + 1):
            action = np.clip(expert.act(env.full_obs + shift), -1, 1) + noise * random.standard_normal(size)
            _, reward, _, _, info = env.step(np.clip(action, -1, 1).astype(np.float32))
            found.append(true_reward(name, env.full_obs, info["collisions"]) if is_franka(env) else reward)
            if t % (task.horizon // FRAMES) == 0:
                shown.append(show(env))
                seen.append(env.full_obs.copy())
        pictures.append(np.stack(shown))
        obs.append(np.stack(seen))
        rewards.append(np.reshape(found, (FRAMES, -1)).mean(1))
    env.close()
    return Videos(np.stack(pictures), np.stack(obs).astype(np.float32), np.stack(rewards).astype(np.float32))


def is_franka(env: Any) -> bool:
    return env.name.startswith("franka/")


def show(env: Any) -> np.ndarray:
    """A picture [SIDE, SIDE, 3]: of a table where the objects are, of an arena all."""
    return env.render(VIEW, VIEW)[CUT] if is_franka(env) else env.render(SIDE, SIDE)


def true_reward(name: str, obs: np.ndarray, contacts: float) -> float:
    if name == "group":
        left, right, line = obs[7], obs[14], obs[-3]
        return -float(max(line - min(left, right), 0) + abs(left - right))
    return -float(np.linalg.norm(obs[7:10] - obs[-3:]) + CONTACT * contacts)


def weights() -> str | None:
    """The real weights, or random ones where their package is missing."""
    try:
        load_encoder("lite0", None)
    except UserError:
        return "none"
    return None


@cache
def load_features(name: str, folder: Path, encoder: str, weights: str | None) -> tuple[np.ndarray, Videos]:
    """Features [N, M + 1, F] of a task's videos, and the videos; of `simulation` the encoder saw all of these."""
    videos = load_videos(name, folder)
    flat = videos.pictures.reshape(-1, SIDE, SIDE, 3)
    if weights == "simulation":
        recipe = build(compose_config("reward=rapl")["reward"]["pretraining"])
        weights = str(recipe.find(pretraining.Videos(flat, [FRAMES + 1] * EPISODES), encoder, folder))
    return encode_images(flat, encoder, weights, folder=folder).reshape(EPISODES, FRAMES + 1, -1), videos


def make_table(features: np.ndarray, videos: Videos, which: np.ndarray) -> Table:
    """The episodes at places `which`, with their features as pictures."""
    steps = np.zeros((FRAMES, 1), np.float32)
    episodes = [Episode(int(i), videos.obs[i], steps, videos.reward[i], False) for i in which]
    return Table(episodes, pictures=features[which].reshape(-1, features.shape[-1]))


RANDOM = {"encoder": "resnet18", "weights": "none"}
SIMULATION = {"encoder": "resnet18", "weights": "simulation"}
METHODS: dict[str, tuple[str, str, dict[str, Any]]] = {  # name: kind of question, reward model, changes of its settings
    "rapl": ("triplet", "rapl", {}),
    "rapl, comparisons": ("pair", "rapl", {"preferred": None}),
    "rapl, released transport": ("triplet", "rapl", {"metric": "cosine", "gamma": 1, "band": 1}),
    "frozen transport": ("triplet", "rapl", {"align": False}),
    "rapl, least spread 1": ("triplet", "rapl", {"least_spread": 1}),
    "frozen transport, least spread 1": ("triplet", "rapl", {"align": False, "least_spread": 1}),
    "frozen goal distance": ("triplet", "rapl", {"align": False, "matching": "goal"}),
    "rlhf": ("pair", "image", {"image_size": SIDE}),
    "rapl, resnet18 random": ("triplet", "rapl", RANDOM),
    "rapl, resnet18 simulation": ("triplet", "rapl", SIMULATION),
    "rapl, comparisons, resnet18 random": ("pair", "rapl", {"preferred": None, **RANDOM}),
    "rapl, comparisons, resnet18 simulation": ("pair", "rapl", {"preferred": None, **SIMULATION}),
}


def measure_spearman(name: str, folder: Path, seed: int, count: int, method: str) -> dict[str, Any]:
    """A line: rank correlation of predicted and true returns over episodes that no answer was about."""
    kind, reward, changes = METHODS[method]
    changes = {"encoder": "lite0", "weights": weights(), **changes}
    features, videos = load_features(name, folder, changes["encoder"], changes["weights"])
    shuffled = np.random.default_rng(seed).permutation(EPISODES)
    train, test = (make_table(features, videos, which) for which in (shuffled[:TRAIN], shuffled[TRAIN:]))
    labels = api.ask(train, kind=kind, count=count, length=FRAMES, seed=seed, held_out=0)
    best = np.argsort(-train.returns)[:3].tolist()
    given = {"preferred": best, **changes} if reward == "rapl" else changes
    began = time.process_time()
    model = api.train_reward(train, labels, reward, seed=seed, **given)
    seconds = time.process_time() - began
    predicted = model.label(test).mean(0)
    predicted[test.closing] = 0
    returns = predicted.reshape(-1, FRAMES + 1).sum(1).numpy()
    return {
        "part": "spearman", "task": TASKS[name].env, "method": method, "answers": count, "seed": seed,
        "spearman": round(rank_correlation(torch.from_numpy(returns), torch.from_numpy(test.returns)), 4),
        "cpu_seconds": round(seconds, 2),
    }  # fmt: skip


def measure_transport() -> dict[str, Any]:
    """A line: plans of two videos of 45 frames a CPU-second."""
    random = torch.Generator().manual_seed(0)
    a, b = (torch.randn(512, 45, 32, generator=random).cumsum(1) / 45 for _ in range(2))
    found = {}
    for name, transport in {"band 0.2": Transport(), "no band": Transport(band=1.0)}.items():
        cost = transport.cost(a, b)
        cost = cost / cost.mean()
        found[name] = len(a) / fastest(lambda cost=cost, transport=transport: transport.plan(cost))
    cost = Transport().cost(a, b)
    exact = Transport(gamma=math.inf, band=1.0)
    found["exact"] = 128 / fastest(lambda: exact.plan(cost[:128]))
    return {"part": "speed", "what": "transport", "frames": 45, "threads": 1,
            "pairs_per_cpu_second": {name: round(rate) for name, rate in found.items()}}  # fmt: skip


def measure_alignment(frames: int) -> dict[str, Any]:
    """A line: triplets a CPU-second of alignment on cached features, and the seconds of all of it and of labels."""
    random = np.random.default_rng(0)
    features = random.normal(size=(EPISODES, FRAMES + 1, 1280)).astype(np.float32)
    obs, reward = np.zeros((EPISODES, FRAMES + 1, 1), np.float32), random.normal(size=(EPISODES, FRAMES))
    table = make_table(features, Videos(features, obs, reward.astype(np.float32)), np.arange(EPISODES))
    labels = api.ask(table, kind="triplet", count=150, length=FRAMES, held_out=0)
    settings = RunSettings.parse(compose_config("reward=rapl", f"reward.frames={frames}", "reward.preferred=[0,1,2]"))
    model = build_reward(settings, table.spec())
    data = Data(table, torch.Generator().manual_seed(0))
    data.set_labels(labels)
    model.measure(data)
    each = fastest(lambda: model.update(model.draw(data)), 30)
    model.choose(data)
    label = fastest(lambda: model.label(table), 2)
    rate = model.batch_size / each
    return {
        "part": "speed", "what": "alignment", "frames": frames, "threads": 1, "triplets_per_cpu_second": round(rate),
        "of_released": round(rate / RELEASED), "seconds_of_training": round(each * model.steps, 2),
        "seconds_of_labels_of_10000_frames": round(label * 1e4 / table.row_count, 2),
    }  # fmt: skip


def fastest(run: Callable[[], Any], turns: int = 5) -> float:
    """CPU-seconds of a call, the least of several after one that warms up: others use the processor too."""
    found = []
    for _ in range(turns + 1):
        began = time.process_time()
        run()
        found.append(time.process_time() - began)
    return min(found[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=["speed", "spearman"], default=["speed"])
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--answers", nargs="+", type=int, default=[25, 50, 100, 150])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=Path("datasets"), help="where pictures and features are kept")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.folder.mkdir(parents=True, exist_ok=True)
    if "speed" in args.parts:
        keep([line for line in known() if line["part"] != "speed"])
        for measure in (measure_transport, partial(measure_alignment, 16), partial(measure_alignment, 32)):
            add(measure())
    if "spearman" in args.parts:
        for seed, count, name, method in itertools.product(args.seeds, args.answers, args.tasks, args.methods):
            key = {"task": TASKS[name].env, "method": method, "answers": count, "seed": seed}
            if not any(key.items() <= line.items() for line in known()):  # a run that was stopped goes on
                add(measure_spearman(name, args.folder, seed, count, method))


def known() -> list[dict[str, Any]]:
    return [json.loads(line) for line in FILE.read_text().splitlines()] if FILE.exists() else []


def keep(lines: list[dict[str, Any]]) -> None:
    FILE.write_text("".join(json.dumps(line) + "\n" for line in lines))


def add(line: dict[str, Any]) -> None:
    about = {"processor": processor_name(), "torch": torch.__version__, "load": round(os.getloadavg()[0], 1),
             "real_weights": weights() is None}  # fmt: skip
    print(json.dumps(line), flush=True)
    keep([*known(), {**line, **about}])


if __name__ == "__main__":
    main()

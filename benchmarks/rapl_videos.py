"""The videos that rewards of pictures are compared on: scripted experts in several styles, in tasks like RAPL's.

The true rewards are ours, in the manner of Tian et al. 2023, arXiv:2310.07932. Of `franka/group` it is how far the
cubes are from the line and how far from each other along x; of `franka/clutter`, how far the cube is from its goal, and
contacts with the glasses; those of `magical/…` are their own. Episodes are of scripted experts, with action noise, and
in clutter of experts who see the goal displaced.
"""

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pbrl import files
from pbrl.configs import compose_config
from pbrl.data.rollout import make_environment
from pbrl.data.table import Table
from pbrl.models.frozen import encode_images, load_encoder
from pbrl.rewards import pretraining
from pbrl.run.build import build
from pbrl.types import Episode, UserError

EPISODES, TRAIN, FRAMES, SIDE = 150, 100, 32, 112  # episodes, of which answers are about; frames of a video; pixels
VIEW, CUT = 192, (slice(72, 72 + SIDE), slice(40, 40 + SIDE))  # pixels; of them, where the objects are
NOISE = (0.05, 0.2, 0.4)  # of actions, an episode with one of them
CONTACT = 0.02  # m that a contact with a glass counts as
GRIPPER = "-gripper"  # ends the name of a task with that embodiment


class Task(NamedTuple):
    env: str
    horizon: int
    styles: list[dict[str, float]]
    displaced: float = 0.0  # m along x, at most: where the expert sees the goal
    embodiment: str | None = None  # None: the environment's own

    @property
    def title(self) -> str:
        """The environment's name, and the embodiment where it is another than its own."""
        return " ".join(filter(None, (self.env, self.embodiment)))


GROUPING = [{"together": 1.0}, {"together": 0.0}]
AVOIDING = [{"wide": 0.05}, {"wide": 0.25}, {"speed": 0.6}]
TASKS = {
    "group": Task("franka/group", 4 * FRAMES, [{"together": 1.0}, {"together": 0.0}, {"together": 0.0, "height": 0.2}]),
    "clutter": Task(
        "franka/clutter", 5 * FRAMES, [{"height": 0.05}, {"height": 0.15}, {"height": 0.1, "speed": 0.6}], 0.09
    ),
    "grouping": Task("magical/grouping", 3 * FRAMES, GROUPING),
    "grouping-gripper": Task("magical/grouping", 3 * FRAMES, GROUPING, embodiment="gripper"),
    "avoiding": Task("magical/avoiding", 3 * FRAMES, AVOIDING),
    "avoiding-gripper": Task("magical/avoiding", 3 * FRAMES, AVOIDING, embodiment="gripper"),
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
    flags = [f"env={task.env}", f"env.horizon={task.horizon}"]
    flags += [f"env.embodiment={task.embodiment}"] if task.embodiment else []
    env: Any = make_environment(compose_config(*flags)["env"])
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
def load_features(
    name: str, folder: Path, encoder: str, weights: str | None, unfreeze: bool = False, every: int = 1
) -> tuple[np.ndarray, Videos]:
    """Features [N, M + 1, F] of a task's videos, or what the last block sees of them, and the videos; of `simulation`
    and `tcc` the encoder saw all of these, of `tcc` in `magical/…` also those of the other embodiment. Of frames there
    is one in `every`."""
    videos = load_videos(name, folder)
    reward = videos.reward.reshape(EPISODES, -1, every).mean(2)
    videos = Videos(videos.pictures[:, ::every], videos.obs[:, ::every], reward)
    if weights in ("simulation", "tcc"):
        both = weights == "tcc" and f"{name.removesuffix(GRIPPER)}{GRIPPER}" in TASKS
        names = [name.removesuffix(GRIPPER), name.removesuffix(GRIPPER) + GRIPPER] if both else [name]
        weights = pretrain(names, folder, encoder, [] if weights == "simulation" else ["reward.pretraining.vicreg=0"])
    flat = videos.pictures.reshape(-1, SIDE, SIDE, 3)
    found = encode_images(flat, encoder, weights, folder=folder, unfreeze=unfreeze)
    return found.reshape(*videos.pictures.shape[:2], *found.shape[1:]), videos


def pretrain(names: list[str], folder: Path, encoder: str, changes: list[str]) -> str:
    """The file with an encoder that saw all videos of these tasks, without answers."""
    frames = np.concatenate([load_videos(name, folder).pictures.reshape(-1, SIDE, SIDE, 3) for name in names])
    recipe = build(compose_config("reward=rapl", *changes)["reward"]["pretraining"])
    return str(recipe.find(pretraining.Videos(frames, [FRAMES + 1] * EPISODES * len(names)), encoder, folder))


def make_table(features: np.ndarray, videos: Videos, which: np.ndarray, beside: Table | None = None) -> Table:
    """The episodes at places `which`, with their features as pictures, and another data set to name videos in."""
    steps = np.zeros((videos.reward.shape[1], 1), np.float32)
    episodes = [Episode(int(i), videos.obs[i], steps, videos.reward[i], False) for i in which]
    return Table(episodes, pictures=features[which].reshape(-1, *features.shape[2:]), beside=beside)

"""A trained run's reward model as the reward of new episodes, with its run's numbers of normalization."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pbrl.data import collect, frames
from pbrl.data.rollout import make_environment, worker_count
from pbrl.data.table import Table, standardize
from pbrl.judge.from_run import load_reward, own_data, read_run
from pbrl.models.frozen import load_encoder
from pbrl.online.environment import LearnedRewardEnv
from pbrl.rewards.pictures import find_camera, load_beside, load_pictures
from pbrl.run.folder import env_name
from pbrl.types import Environment, Episode, RewardModel, UserError

Encode = Callable[[Tensor], Tensor]  # pictures [n, H, W, 3] uint8 → features [n, …]
BATCH = 32  # pictures that are encoded at once


class Sizes(NamedTuple):
    """Numbers of an observation, and of an action."""

    obs: int
    action: int


class EpisodePictures:
    """What a reward of pictures looks at, of new episodes: rendered from simulator states, and encoded.

    Every `every` steps a frame is rendered, and the last; each row has the nearest of these.
    """

    def __init__(
        self, env: dict[str, Any], camera: str, size: int, encoder: Callable[[Tensor], Tensor] | None, *, every: int = 1
    ):
        """Raises UserError where the environment has no such camera, or cannot show its states."""
        self.env: Environment = make_environment({**env, "images": [], "image_size": size})
        self.camera, self.size, self.encoder, self.every = camera, size, encoder, every
        if camera not in self.env.cameras:
            raise UserError(
                f"the reward looks through {camera}, and {env_name(env)} has {', '.join(self.env.cameras) or 'none'}"
            )
        if not self.env.can_restore:
            raise UserError(
                f"{env_name(env)} cannot show its states, so a reward of pictures has nothing to look at here"
            )
        self.env.close()
        self.env = make_environment({**env, "images": [camera], "image_size": size})

    @torch.no_grad()
    def __call__(self, episodes: Sequence[Episode]) -> np.ndarray:
        """[R, H, W, 3] uint8, features [R, F] or an encoder's maps [R, …], of the T + 1 rows of each episode."""
        return np.concatenate([self._show(episode) for episode in episodes])

    def _show(self, episode: Episode) -> np.ndarray:
        assert episode.state is not None
        shown = np.unique([*range(0, len(episode.obs), self.every), len(episode.obs) - 1])
        pictures = np.stack([self._render(episode, int(t)) for t in shown])
        if self.encoder is not None:
            parts = torch.from_numpy(pictures).split(BATCH)
            pictures = torch.cat([self.encoder(part).float() for part in parts]).numpy()
        rows = np.arange(len(episode.obs))
        return pictures[np.abs(rows[:, None] - shown).argmin(1)]

    def _render(self, episode: Episode, t: int) -> np.ndarray:
        assert episode.state is not None
        return self.env.restore(episode.seed, episode.state[t], t)["images"][self.camera]

    def close(self) -> None:
        """Frees the simulator."""
        self.env.close()


class LearnedReward:
    """The reward of new episodes' steps, as a run's learner saw it in its data: the members' mean, each normalized.

    `normalize` is one of `Table`'s ways, by the members' rewards [E, M] of the run's data.
    """

    def __init__(
        self,
        model: RewardModel,
        of_data: Tensor,
        normalize: str,
        *,
        sizes: Sizes | None,
        pictures: EpisodePictures | None = None,
    ):
        self.model, self.of_data, self.normalize, self.sizes, self.pictures = model, of_data, normalize, sizes, pictures

    @torch.no_grad()
    def __call__(self, episodes: Sequence[Episode]) -> list[np.ndarray]:
        """The reward of each step of episodes: [T] float32 each. Raises UserError where their sizes do not fit."""
        for episode in episodes:
            self.check(Sizes(episode.obs.shape[1], episode.action.shape[1]))
        shown = None if self.pictures is None else self.pictures(episodes)
        table = Table(episodes, self.of_data.device, pictures=shown)
        reward = standardize(self.model.label(table), self.of_data, self.normalize).mean(0).cpu().numpy()
        return [reward[first : first + steps] for first, steps in zip(table.first, table.steps, strict=True)]

    def check(self, sizes: Sizes) -> None:
        """Raises UserError where a reward of states learnt from observations or actions of other sizes."""
        if self.sizes not in (None, sizes):
            raise UserError(
                f"the reward learnt from {self.sizes.obs} numbers per observation and {self.sizes.action} per action, "
                f"and here are {sizes.obs} and {sizes.action}: a reward of pictures serves another robot, one of "
                "states does not"
            )


class RewardRun(NamedTuple):
    """A run's reward, its environment, and its data set."""

    reward: LearnedReward
    env: dict[str, Any]
    episodes: list[Episode]
    table: Table  # which the reward model labels

    def rewards_of_data(self) -> list[np.ndarray]:
        """The reward of each step of the data set's episodes: [T] each."""
        own = self.reward
        reward = standardize(own.of_data, own.of_data, own.normalize).mean(0).cpu().numpy()
        return np.split(reward, np.cumsum(self.table.steps)[:-1])

    def vector_env(self, n: int = 1) -> LearnedRewardEnv:
        """n of the environments with this reward, for Stable-Baselines3; they observe states alone."""
        config = frames.without_images(self.env)
        return LearnedRewardEnv.of([partial(make_environment, config)] * n, self.reward)


def load_learned_reward(
    run: str | Path,
    *,
    env: dict[str, Any] | None = None,
    every: int = 1,
    data_dir: str | Path | None = None,
    device: str | torch.device = "cpu",
    workers: int = 0,
) -> RewardRun:
    """The reward model of a run folder, or of one of its seeds (`runs/a/seed3`), for episodes of `env`, a config.

    `env` is the run's own by default; for a reward of pictures it may be another robot's that has the same camera.
    `every`: see `EpisodePictures`. The run's data set is read from `data_dir` (its own by default), or made again.
    Raises UserError where the folder holds no reward, or it does not fit the environment.
    """
    folder, place = Path(run).expanduser(), torch.device(device)
    settings, *_ = read_run(folder, place)
    own = own_data(folder)
    beside = {"folder": Path(data_dir or own["data_dir"]), "workers": worker_count(workers)}
    episodes, dataset = collect.load_dataset(own["env"], own["data"], seed=own["data_seed"], **beside)
    pictures = load_pictures(own["env"], settings.reward, episodes, dataset, **beside)
    images = frames.load_images(own["env"], episodes, dataset, **beside)
    other = load_beside(settings.reward, **beside)
    table = Table(episodes, place, images=images, pictures=pictures.values, beside=other)
    model = load_reward(folder, table)
    with torch.no_grad():
        of_data = model.label(table)[:, table.rows]
    normalize = model.normalize if model.normalize != "auto" else "minmax" if table.done.any() else "none"
    is_seen = pictures.values is not None
    shows, chosen = None, env or own["env"]
    if is_seen:
        encoder = None
        if pictures.encoder is not None:
            network, _ = load_encoder(pictures.encoder, pictures.file)
            encoder = network.trunk if settings.reward["unfreeze"] else network
        camera = settings.reward["camera"] or find_camera(own["env"])
        shows = EpisodePictures(
            frames.without_images(chosen), camera, settings.reward["image_size"], encoder, every=every
        )
    elif every > 1:
        raise UserError(f"every={every} is of a reward of pictures, and that of {folder} sees states: every=1")
    sizes = None if is_seen else Sizes(table.obs.shape[1], table.action.shape[1])
    return RewardRun(LearnedReward(model, of_data, normalize, sizes=sizes, pictures=shows), chosen, episodes, table)

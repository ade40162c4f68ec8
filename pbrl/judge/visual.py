"""A run's reward of pictures as more than a list of numbers: it can be shown other pictures of the same steps.

In reversed order, of a moved camera, in another light (`ViewChanges`), or with a patch greyed; and a reward of likeness
says which frame of which preferred video it has matched a frame with.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from pbrl.data.frames import without_images
from pbrl.data.table import Table
from pbrl.judge.material import Material
from pbrl.models.frozen import Encoder, load_encoder
from pbrl.rewards.image import ImageReward
from pbrl.rewards.pictures import load_camera, load_pictures
from pbrl.rewards.rapl import RAPL, Match
from pbrl.types import RewardModel, UserError

GREY = 128  # of a patch that is hidden
KINDS = (ImageReward, RAPL)


@dataclass(frozen=True)
class Visual:
    """A reward model of pictures, the data set as a table whose reward is the model's, and how its pictures are made.

    `reward` are the run's settings of it, whose weights are a file where the run has trained an encoder. `shown` are
    the camera's pictures of all rows [R, H, W, 3] uint8, where they need not be rendered, and `preferred` those of each
    preferred video [V] [M, H, W, 3], where they are known.
    """

    model: ImageReward | RAPL
    table: Table
    material: Material
    env: dict[str, Any]
    reward: Mapping[str, Any]
    shown: np.ndarray | None = None
    preferred: Sequence[np.ndarray] | None = None

    @property
    def reads_order(self) -> bool:
        """Whether frames of other steps change a step's reward: not where it is of single frames."""
        return self.is_matched if isinstance(self.model, RAPL) else self.model.shown.stack > 1

    def score_reversed(self) -> np.ndarray | None:
        """The reward of the frames of an episode's steps in reversed order: [M]; None where the order changes nothing.

        The frame in which an episode ends holds no step, and stays.
        """
        if not self.reads_order:
            return None
        order = torch.arange(self.table.row_count)
        for first, steps in zip(self.table.first, self.table.steps, strict=True):
            order[first : first + steps] = order[first : first + steps].flip(0)
        assert self.table.pictures is not None
        return self.score(self.table.pictures[order.to(self.table.device)])

    def score_changed(self, change: Mapping[str, Any]) -> np.ndarray:
        """The reward of the same states as `Environment.change_view` shows them: [M]. Raises UserError."""
        episodes = self.material.episodes
        if any(episode.state is None for episode in episodes):
            raise UserError("changes=… renders simulator states once more, and this data set has none: changes=[]")
        env = {**without_images(self.env), "view_change": dict(change)}
        beside = {"folder": self.material.data_dir, "workers": self.material.workers}
        shown = load_pictures(env, self.reward, episodes, self.material.content_hash, **beside).values
        assert shown is not None
        return self.score(torch.from_numpy(shown).to(self.table.device))

    def score(self, pictures: Tensor) -> np.ndarray:
        """The reward of each step [M] by other pictures of all rows, or features, normalized as by the table's own."""
        other = self.table.view()
        other.pictures = pictures
        other.relabel_like(self.table, cast(RewardModel, self.model))
        return other.labels["reward"][other.rows].double().cpu().numpy()

    # One episode

    @property
    def is_matched(self) -> bool:
        """Whether episodes are matched frame by frame with preferred videos."""
        return isinstance(self.model, RAPL) and self.model.matching == "transport"

    def match(self, episode: int) -> Match | None:
        """How the episode at a place is matched with preferred videos; None where it is with none."""
        return self.model.match(self.table, episode) if isinstance(self.model, RAPL) and self.is_matched else None

    def occlude(self, episode: int, step: int, patches: int) -> np.ndarray:
        """What the reward of a step loses when a patch of its picture is greyed, of `patches` x `patches` [P, P].

        In standard deviations of the reward over the data set.
        """
        row = int(self.table.first[episode]) + step
        hidden = torch.from_numpy(np.concatenate([self.images[row][None], grey_patches(self.images[row], patches)]))
        pictures = hidden if self.reward["encoder"] is None else encode_once(
            self.reward["encoder"], self.reward["weights"], hidden.numpy().tobytes(), tuple(hidden.shape),
            unfreeze=self.model.block is not None,
        )  # fmt: skip
        score = self.model.score_pictures(self.table, row, pictures.to(self.table.target)).double().cpu().numpy()
        return ((score[0] - score[1:]) / self.spread).reshape(patches, patches)

    @cached_property
    def images(self) -> np.ndarray:
        """The camera's pictures of all rows [R, H, W, 3] uint8."""
        if self.shown is not None:
            return self.shown
        beside = {"folder": self.material.data_dir, "workers": self.material.workers}
        env = without_images(self.env)
        return load_camera(env, self.reward, self.material.episodes, self.material.content_hash, **beside)

    @cached_property
    def spread(self) -> float:
        """The standard deviation of the model's reward over all steps, before it is normalized; 1 where it has none."""
        return float(self.model.label(self.table).mean(0)[self.table.rows].std()) or 1.0


@lru_cache(maxsize=256)
def encode_once(encoder: str, weights: str | None, images: bytes, shape: tuple[int, ...], unfreeze: bool) -> Tensor:
    """Features [n, F] of images [n, H, W, 3] uint8, or what its last block sees; judges may share them."""
    network, pictures = load_once(encoder, weights), torch.from_numpy(np.frombuffer(images, np.uint8).copy())
    with torch.no_grad():
        return (network.trunk if unfreeze else network)(pictures.reshape(shape))


@cache
def load_once(encoder: str, weights: str | None) -> Encoder:
    """The encoder, read once."""
    return load_encoder(encoder, weights)[0]


def grey_patches(image: np.ndarray, patches: int) -> np.ndarray:
    """An image [H, W, 3] uint8, so many times a side with another patch of it greyed: [patches², H, W, 3]."""
    height, width = image.shape[:2]
    rows, columns = (np.linspace(0, side, patches + 1).round().astype(int) for side in (height, width))
    found = np.repeat(image[None], patches * patches, 0)
    for i, own in enumerate(found):
        r, c = divmod(i, patches)
        own[rows[r] : rows[r + 1], columns[c] : columns[c + 1]] = GREY
    return found


def find_trained(reward: Mapping[str, Any], versions: Mapping[str, Any], folders: Sequence[Path]) -> Mapping[str, Any]:
    """The settings with the file of the encoder that a run has trained itself, where `weights` is simulation.

    It would else be trained anew, on other pictures. Raises UserError where the file is gone.
    """
    if reward.get("weights") != "simulation":
        return reward
    wanted = versions.get("encoder", {}).get("weights")
    for path in (path for folder in folders for path in sorted(folder.glob(f"encoder-{reward['encoder']}-*.pt"))):
        if hashlib.sha256(path.read_bytes()).hexdigest() == wanted:
            return {**reward, "weights": str(path)}
    raise UserError(
        f"the encoder that the run has trained (reward.weights=simulation) is in none of "
        f"{', '.join(map(str, folders))}: name the folder that holds it with data_dir=…"
    )

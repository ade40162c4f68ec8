"""The data set that judges are held against: its episodes, and what is known of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pbrl.data import frames
from pbrl.data.episodes import episode_id
from pbrl.data.table import Table
from pbrl.judge.evidence import Truth
from pbrl.rewards.pictures import load_beside, load_pictures
from pbrl.types import Clip, Episode, UserError


@dataclass(frozen=True)
class Material:
    """Episodes, how they came about, and where data sets lie."""

    episodes: list[Episode]
    content_hash: str
    env: dict[str, Any]
    data_dir: Path
    workers: int
    demonstrations: bool = False  # every episode counts as a success where none is known to be one

    @cached_property
    def ids(self) -> list[str]:
        """The id of each episode."""
        return [episode_id(episode) for episode in self.episodes]

    @cached_property
    def place(self) -> dict[str, int]:
        """The place of each episode by its id: the first, where there are two of the same content."""
        return {own: i for i, own in reversed(list(enumerate(self.ids)))}

    @cached_property
    def truth(self) -> Truth:
        """What is known: rewards that are the same in every step say nothing, as those of videos, which are 0.

        Raises UserError where nothing is known.
        """
        steps = np.array([len(episode.action) for episode in self.episodes])
        reward = np.concatenate([episode.reward for episode in self.episodes]).astype(np.float64)
        success = [find_success(episode) for episode in self.episodes]
        at = None if None in success else np.array(success)
        if at is None and self.demonstrations:
            at = steps
        is_known = bool((reward != reward[0]).any())
        if not is_known and at is None:
            raise UserError(
                "nothing is known to judge by: the rewards of this data set are the same everywhere and it has no "
                "success; take one with rewards, or, where its episodes show the task done, demonstrations=true"
            )
        return Truth(steps, reward if is_known else None, at)

    @property
    def frame_count(self) -> int:
        """R, the rows of the data set as a table: an episode's steps and where it ended."""
        return sum(len(episode.obs) for episode in self.episodes)

    def table(self, device: Any, env: dict[str, Any], reward: Mapping[str, Any]) -> Table:
        """The same as a table, with the images that `env` observes and the pictures that the `reward` looks at."""
        beside = {"folder": self.data_dir, "workers": self.workers}
        images = frames.load_images(env, self.episodes, self.content_hash, **beside)  # empty where it observes none
        pictures = load_pictures(env, reward, self.episodes, self.content_hash, **beside)
        other = load_beside(reward, **beside)
        return Table(self.episodes, device, images=images, pictures=pictures.values, beside=other)

    def has_clip(self, clip: Clip) -> bool:
        """Whether a clip's episode is there and long enough."""
        i = self.place.get(clip.episode)
        return i is not None and clip.first >= 0 and clip.first + clip.length <= len(self.episodes[i].action)


def find_success(episode: Episode) -> int | None:
    """The frame of an episode's first success, -1 where it fails; None where that is unknown."""
    if episode.success is None:
        return None
    return int(np.argmax(episode.success)) if episode.success.any() else -1

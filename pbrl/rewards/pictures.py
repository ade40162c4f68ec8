"""What an image reward looks at, for a whole data set: a camera's pictures, or an encoder's features of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from hydra.utils import instantiate

from pbrl.data.frames import fill_from_video, find_videos, load_images, without_images
from pbrl.data.recordings import camera_files
from pbrl.data.rollout import make_environment
from pbrl.models.frozen import encode_images, hash_weights
from pbrl.rewards.pretraining import Pretraining, Videos
from pbrl.types import Episode, UserError


class Pictures(NamedTuple):
    """What a reward model looks at: [R, H, W, 3] uint8, or features [R, F]; None where it sees states.

    `encoder` is the name of what made features, and `weights` the SHA-256 of its file, or "random".
    """

    values: np.ndarray | None = None
    encoder: str | None = None
    weights: str | None = None

    def provenance(self) -> dict[str, Any]:
        """What a run notes of the encoder, if there is one."""
        return {} if self.encoder is None else {"encoder": {"name": self.encoder, "weights": self.weights}}


def load_pictures(
    env: dict[str, Any],
    reward: Mapping[str, Any],
    episodes: Sequence[Episode],
    dataset: str,
    *,
    folder: Path,
    workers: int,
) -> Pictures:
    """The pictures or features for the reward model of these settings.

    They are made once and kept in `folder`; so is an encoder with `weights: simulation`, which is pre-trained on the
    pictures. Raises UserError where the data set has neither states nor videos, or weights are not the encoder's.
    """
    if "image_size" not in reward:
        return Pictures()
    images = load_camera(env, reward, episodes, dataset, folder=folder, workers=workers)
    encoder, weights = reward["encoder"], reward["weights"]
    if encoder is None:
        return Pictures(images)
    if weights == "simulation":
        recipe: Pretraining = instantiate(reward["pretraining"], _convert_="all")
        weights = str(recipe.find(Videos.of(images, episodes), encoder, folder))
    features = encode_images(images, encoder, weights, folder=folder)
    return Pictures(features, encoder, hash_weights(encoder, weights))


def load_camera(
    env: dict[str, Any],
    reward: Mapping[str, Any],
    episodes: Sequence[Episode],
    dataset: str,
    *,
    folder: Path,
    workers: int,
) -> np.ndarray:
    """The pictures [R, H, W, 3] uint8 of the reward's camera. Raises UserError."""
    camera = reward["camera"] or find_camera(env)
    shown = {**env, "images": [camera], "image_size": reward["image_size"]}
    return load_images(shown, episodes, dataset, folder=folder, workers=workers)[camera]


def find_camera(env: dict[str, Any]) -> str:
    """The environment's first camera. Raises UserError where it has none."""
    made = make_environment(without_images(env))
    made.close()
    if not made.cameras:
        raise UserError(f"{made.name} has no camera for a reward of pictures: choose another, or give it a camera")
    return made.cameras[0]


def read_pictures(episodes: Sequence[Episode], camera: str, image_size: int) -> np.ndarray:
    """A camera's pictures in the videos of recordings, cut to squares: [R, H, W, 3] uint8.

    Raises UserError where an episode has no video of this camera.
    """
    files = []
    for episode in episodes:
        if episode.video is None or not camera_files(episode.video):
            raise UserError(
                f"camera={camera}: this data set has no videos; its pictures, rendered or made elsewhere, go into "
                "Table(episodes, pictures=…)"
            )
        files.append(find_videos(episode.video, [camera])[camera])
    parts = [np.empty((len(episode.obs), image_size, image_size, 3), np.uint8) for episode in episodes]
    for part, file in zip(parts, files, strict=True):
        fill_from_video(part, file, image_size)
    return np.concatenate(parts)

"""What an image reward looks at, for a whole data set: a camera's pictures, or an encoder's features of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pbrl.data.frames import fill_from_video, find_videos, load_images, without_images
from pbrl.data.recordings import camera_files
from pbrl.data.rollout import make_environment
from pbrl.models.frozen import encode_images
from pbrl.types import Episode, UserError


def load_pictures(
    env: dict[str, Any],
    reward: Mapping[str, Any],
    episodes: Sequence[Episode],
    dataset: str,
    *,
    folder: Path,
    workers: int,
) -> np.ndarray | None:
    """[R, H, W, 3] uint8, or features [R, F], for the reward model of these settings; None where it sees states.

    They are made once and kept in `folder`. Raises UserError where the data set has neither states nor videos.
    """
    if "image_size" not in reward:
        return None
    camera = reward["camera"] or find_camera(env)
    shown = {**env, "images": [camera], "image_size": reward["image_size"]}
    images = load_images(shown, episodes, dataset, folder=folder, workers=workers)[camera]
    if reward["encoder"] is None:
        return images
    return encode_images(images, reward["encoder"], reward["weights"], folder=folder)


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

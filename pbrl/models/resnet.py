"""ResNet-18 of He et al. 2015, arXiv:1512.03385, with the parameter names of torchvision, whose files it loads."""

from typing import cast

import torch
from torch import Tensor, nn

from pbrl.models.lite0 import MeanOfMap

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's colors in [0, 1], with which it was trained


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, added to their input; where the shape changes, to a 1x1 convolution of it."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.downsample: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class ResNet18(nn.Module):
    """Pictures [N, H, W, 3] of 0 to 255 → features [N, 512]: the mean over the last map. Any size from 32 pixels on.

    They are `last` of `trunk`: the last residual block of maps [N, 512, H / 32, W / 32]. Random weights are drawn as in
    He et al. 2015, arXiv:1502.01852.
    """

    SIZE, CLASSIFIER, MAP = 512, "fc.", (512, None, None)
    LAYOUT = "torchvision's resnet18"

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        inputs = 64
        for i, outputs in enumerate((64, 128, 256, 512), 1):
            first = BasicBlock(inputs, outputs, 1 if i == 1 else 2)
            self.add_module(f"layer{i}", nn.Sequential(first, BasicBlock(outputs, outputs, 1)))
            inputs = outputs
        self.fc = nn.Linear(512, 1000)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, pictures: Tensor) -> Tensor:
        return self.last()(self.trunk(pictures))

    def trunk(self, pictures: Tensor) -> Tensor:
        """What the last block sees."""
        x = nn.functional.max_pool2d(torch.relu(self.bn1(self.conv1(normalize(pictures)))), 3, 2, 1)
        for stage in self._stages()[:-1]:
            x = stage(x)
        return self._stages()[-1][0](x)

    def last(self) -> nn.Sequential:
        """The last block and what follows it, with this network's own parameters."""
        return nn.Sequential(self._stages()[-1][1], MeanOfMap())

    def _stages(self) -> list[nn.Sequential]:
        """Each has two blocks."""
        return [cast(nn.Sequential, getattr(self, f"layer{i}")) for i in range(1, 5)]


def normalize(pictures: Tensor) -> Tensor:
    """[N, H, W, 3] of 0 to 255 → [N, 3, H, W] with ImageNet's mean and spread taken out, channels last in memory."""
    mean, std = (255 * torch.tensor(x, device=pictures.device) for x in (MEAN, STD))
    return ((pictures.float() - mean) / std).movedim(-1, 1)

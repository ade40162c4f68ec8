"""An exponential moving average of a network's parameters: what diffusion models sample with.

The decay rises to its value, as in the first steps there is little to average (Diffusion Policy's `power` schedule has
the same end; ours is TensorFlow's: min(decay, (1 + n) / (10 + n))).
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn


class Average(nn.Module):
    """A copy of a module whose tensors are buffers: they are saved with the rest, and no optimiser sees them."""

    count: Tensor

    def __init__(self, module: nn.Module, decay: float):
        super().__init__()
        self.decay = decay
        self.module: Any = copy.deepcopy(module)
        for part in self.module.modules():
            for name, value in list(part.named_parameters(recurse=False)):
                delattr(part, name)
                part.register_buffer(name, value.detach().clone())
        self.register_buffer("count", torch.zeros(()))

    def update(self, module: nn.Module) -> None:
        """Moves towards the module's present parameters, in place."""
        with torch.no_grad():
            self.count.add_(1)
            share = 1 - ((1 + self.count) / (10 + self.count)).clamp(max=self.decay)
            ours = dict(self.module.named_buffers())
            for name, value in module.named_parameters():
                ours[name].add_(share * (value - ours[name]))

    def give(self, module: nn.Module) -> None:
        """Sets the module's parameters to the average, in place."""
        ours = dict(self.module.named_buffers())
        with torch.no_grad():
            for name, value in module.named_parameters():
                value.copy_(ours[name])

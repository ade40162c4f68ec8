"""A network, its process and the conditions it is told: what policies and planners train and sample."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pbrl.models.diffusion.conditions import Conditions
from pbrl.models.diffusion.dit import DiT
from pbrl.models.diffusion.known import Known
from pbrl.models.diffusion.process import Network, Process
from pbrl.models.diffusion.unet import UNet
from pbrl.types import UserError


class Denoiser(nn.Module):
    """Expects clean arrays [..., horizon, size] from noisy ones; told of conditions of `sizes` numbers.

    `network` is unet or dit (`heads` is of the latter). Raises UserError.
    """

    def __init__(
        self,
        process: Process,
        size: int,
        sizes: Sequence[int],
        *,
        network: str,
        horizon: int,
        width: int,
        layers: int,
        heads: int,
    ):
        super().__init__()
        if network not in ("unet", "dit"):
            raise UserError(f"network={network}: it is unet or dit")
        self.process = process
        self.conditions = Conditions(sizes, width)
        if network == "unet":
            self.network: nn.Module = UNet(size, horizon=horizon, width=width, layers=layers)
        else:
            self.network = DiT(size, horizon=horizon, width=width, layers=layers, heads=heads)

    def forward(
        self, x: Tensor, time: Tensor, condition: Sequence[Tensor] | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Noisy x [..., H, D] at time [...], told N conditions [..., C_i], mask [..., N] → clean x [..., H, D]."""
        return self.process.denoise(self._told(condition, mask), x, time)

    def loss(
        self,
        x: Tensor,
        condition: Sequence[Tensor] | None = None,
        mask: Tensor | None = None,
        *,
        time: Tensor | None = None,
        eps: Tensor | None = None,
        known: Known | None = None,
    ) -> Tensor:
        """Clean x [..., H, D] → the squared error of each number, not reduced: [..., H, D].

        `time` [...] and `eps` [..., H, D] are drawn where they are not given; given, they are shared by broadcasting.
        """
        time = self.process.draw(x.shape[:-2], x.device) if time is None else time
        eps = torch.randn_like(x) if eps is None else eps
        return self.process.loss(self._told(condition, mask), x, time, eps, known)

    def _told(self, condition: Sequence[Tensor] | None, mask: Tensor | None) -> Network:
        return lambda x, told: self.network(x, self.conditions(told, condition, mask))

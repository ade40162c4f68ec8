"""The last block of an image encoder, which learns; what the rest makes of a picture stays as it is, and is kept."""

from typing import cast

import torch
from torch import Tensor, nn

from pbrl.models.frozen import load_encoder
from pbrl.models.optim import Adam
from pbrl.types import UserError

AT_ONCE = 1.2e6  # numbers of maps that go through the block together; it makes a hundred times as many


class LastBlock(nn.Module):
    """Maps [..., C, H, W] or tokens [..., T, D] of an encoder's other layers → features [..., F].

    It begins with the encoder's weights, and has an optimizer of its own with the rate `lr`. Batch normalization takes
    the statistics of the encoder's training throughout, so that a picture's features depend on no other picture. Raises
    UserError where the weights are not there.
    """

    def __init__(self, encoder: str, weights: str | None, lr: float):
        super().__init__()
        if weights == "simulation":
            raise UserError(
                "reward.unfreeze=true begins with an encoder's own weights, and reward.weights=simulation is trained "
                "later: python -m pbrl.pretrain with the same flags trains it, and reward.weights=… names its file"
            )
        network, _ = load_encoder(encoder, weights)
        self.encoder, self.shape = encoder, tuple(network.MAP)
        self.block = network.last()
        self.optim = Adam(self.block.parameters(), lr)
        self.eval()

    def train(self, mode: bool = True) -> "LastBlock":
        return super().train(False)

    def forward(self, maps: Tensor) -> Tensor:
        flat = maps.reshape(-1, *maps.shape[-len(self.shape) :])
        with torch.autocast(flat.device.type, enabled=False):  # as exact as features that are kept
            if torch.is_grad_enabled():
                found = self.block(flat)
            else:
                found = torch.cat([self.block(part) for part in flat.split(pass_size(flat))])
        return found.reshape(*maps.shape[: -len(self.shape)], -1)

    def check(self, pictures: Tensor) -> None:
        """Raises UserError where the pictures [R, …] of a table are no such maps."""
        shape = pictures.shape[1:]
        if len(shape) != len(self.shape) or any(own not in (None, n) for own, n in zip(self.shape, shape, strict=True)):
            words = " x ".join("any" if n is None else str(n) for n in self.shape)
            raise UserError(
                f"reward.unfreeze=true reads what {self.encoder} makes before its last block, {words} numbers of a "
                f"picture, and the table's pictures have {tuple(shape)}: pbrl.models.frozen.encode_images with "
                "unfreeze=True makes them"
            )


def make_last_block(
    unfreeze: bool, encoder: str | None, weights: str | None, features: int | None, lr: float
) -> LastBlock | None:
    """The last block of an encoder, where it is to learn. Raises UserError where there is none."""
    if not unfreeze:
        return None
    if encoder is None:
        raise UserError(
            "reward.unfreeze=true lets the last block of an encoder learn, and reward.encoder=null has none: all of a "
            "network on pixels learns already. Name an encoder, or leave it false"
        )
    if features is not None:
        raise UserError(
            f"reward.features={features} is of features made elsewhere, whose encoder is not known: "
            "reward.unfreeze=true needs reward.features=null"
        )
    return LastBlock(encoder, weights, lr)


@torch.no_grad()
def features_of(block: LastBlock | None, pictures: Tensor, target: torch.device) -> Tensor:
    """Features [R, F] of a table's pictures [R, …], where these lie; without a block they are features already."""
    if block is None:
        return pictures
    parts = [block(part.to(target)).to(pictures.device) for part in pictures.split(pass_size(pictures))]
    return cast(Tensor, torch.cat(parts))


def pass_size(maps: Tensor) -> int:
    """How many of these go through the block together."""
    return max(1, int(AT_ONCE / maps[0].numel())) if len(maps) else 1

"""Small vision transformers (Dosovitskiy et al. 2020, arXiv:2010.11929) with 384 numbers a token and 12 layers.

ViT-S/16 of DeiT (Touvron et al. 2020, arXiv:2012.12877), which DINO has too, and that of MVP (Radosavovic et al. 2022,
arXiv:2203.06173). Parameters are called as in their files, in which the two look the same.
"""

import torch
from torch import Tensor, nn

from pbrl.models.resnet import normalize

WIDTH, LAYERS, PATCH, GRID = 384, 12, 16, 14  # patches of 16 pixels; weights know a place in 14 x 14 of them


class Attention(nn.Module):
    """Each token attends to all: [N, T, D] → [N, T, D]."""

    def __init__(self, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # [N, H, T, d]
        found = nn.functional.scaled_dot_product_attention(query, key, value)
        return self.proj(found.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Two layers with a GELU between them."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(nn.functional.gelu(self.fc1(x)))


class Block(nn.Module):
    """Attention and two layers, each on normalized tokens and added to them."""

    def __init__(self, heads: int):
        super().__init__()
        self.norm1, self.attn = layer_norm(), Attention(heads)
        self.norm2, self.mlp = layer_norm(), FeedForward()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    """Pictures [N, 3, H, W] → patches [N, H / 16, W / 16, D]."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, WIDTH, PATCH, PATCH)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).movedim(1, -1)


class ClassToken(nn.Module):
    """Tokens [N, T, D] → the first of them [N, D]."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0]


class ViTSmall(nn.Module):
    """Pictures [N, H, W, 3] of 0 to 255 → features [N, 384]: the class token, normalized.

    They are `last` of `trunk`: the last of twelve blocks of tokens [N, 1 + H / 16 * W / 16, 384].
    Sides that are no multiple of 16 pixels are scaled to the nearest one. Places of 14 x 14 patches, 224 pixels, are
    interpolated for other sizes. Random weights are drawn from a normal distribution with a spread of 0.02, as in ViT.
    """

    SIZE, CLASSIFIER, MAP, HEADS = WIDTH, "head.", (None, WIDTH), 6
    LAYOUT = "DeiT's or DINO's ViT-S/16"

    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + GRID**2, WIDTH))
        self.patch_embed = PatchEmbed()
        self.blocks = nn.Sequential(*(Block(self.HEADS) for _ in range(LAYERS)))
        self.norm, self.head = layer_norm(), nn.Linear(WIDTH, 1000)
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1 and "patch" not in name:
                nn.init.trunc_normal_(parameter, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.last()(self.trunk(pictures))

    def trunk(self, pictures: Tensor) -> Tensor:
        """What the last block sees."""
        patches = self.patch_embed(fit(normalize(pictures)))
        places = self.place(*patches.shape[1:3])
        patches = (patches + places).flatten(1, 2)
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(patches), -1, -1)
        return self.blocks[:-1](torch.cat([first, patches], 1))

    def last(self) -> nn.Sequential:
        """The last block and what follows it, with this network's own parameters."""
        return nn.Sequential(self.blocks[-1], ClassToken(), self.norm)

    def place(self, rows: int, columns: int) -> Tensor:
        """Embeddings of the places of patches: [1, rows, columns, D]."""
        known = self.pos_embed[:, 1:].unflatten(1, (GRID, GRID))
        if (rows, columns) == (GRID, GRID):
            return known
        known = nn.functional.interpolate(known.movedim(-1, 1), (rows, columns), mode="bicubic", align_corners=False)
        return known.movedim(1, -1)


class MVPSmall(ViTSmall):
    """The same with twelve heads, as in MVP: nothing in a file tells how many there are."""

    HEADS = 12
    LAYOUT = "MVP's ViT-S/16"


def layer_norm() -> nn.LayerNorm:
    return nn.LayerNorm(WIDTH, eps=1e-6)


def fit(x: Tensor) -> Tensor:
    """Pictures [N, 3, H, W] with sides of the nearest multiple of PATCH."""
    height, width = (PATCH * max(1, round(side / PATCH)) for side in x.shape[-2:])
    if (height, width) == tuple(x.shape[-2:]):
        return x
    return nn.functional.interpolate(x, (height, width), mode="bilinear", antialias=True, align_corners=False)

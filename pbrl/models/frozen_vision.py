"""The image encoder of a vision-language model, frozen: what it makes of an image is computed once and kept.

An image is known by its content, so training, playing and both episodes of a pair share what they see. In most models
the encoder is the dearest part of a short prompt.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pbrl.types import UserError

ENCODERS = ("vision_tower", "vision_model", "vision_backbone")  # what models of images and text call it


def find_encoder(model: nn.Module) -> tuple[str, nn.Module]:
    """The name and the module of a model's image encoder. Raises UserError where none has a usual name."""
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in ENCODERS:
            return name, module
    raise UserError(
        f"policy.freeze_vision=true: {type(model).__name__} has no image encoder with a name of "
        f"{', '.join(ENCODERS)}: set it to false"
    )


class FrozenVision:
    """Stands in for an encoder's `forward`; keeps the newest results of at most `megabytes`."""

    def __init__(self, encoder: nn.Module, megabytes: float):
        for p in encoder.parameters():
            p.requires_grad_(False)
        self.encoder, self.most = encoder, megabytes * 2**20
        self.kept: OrderedDict[bytes, dict[str, Any]] = OrderedDict()
        self.bytes = 0
        self.computed = 0  # images, since the beginning
        encoder.forward = self  # type: ignore[method-assign]

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "kept": OrderedDict(), "bytes": 0}

    def forget(self) -> None:
        """Forgets all."""
        self.kept.clear()
        self.bytes = 0

    @torch.no_grad()
    def __call__(self, pixel_values: Tensor, *given: Any, **named: Any) -> Any:
        """What the encoder makes of images [N, C, H, W]: a tensor, or an output of transformers."""
        keys = [_key(row, given, named, i) for i, row in enumerate(pixel_values)]
        missing = [i for i, key in enumerate(keys) if key not in self.kept and key not in keys[:i]]
        if missing:
            index = torch.tensor(missing, device=pixel_values.device)
            count = len(pixel_values)
            args = [_rows(x, index, count) for x in given]
            others = {name: _rows(x, index, count) for name, x in named.items()}
            found = type(self.encoder).forward(self.encoder, pixel_values[index], *args, **others)
            self.kind = None if isinstance(found, Tensor) else type(found)
            parts = {"": found} if isinstance(found, Tensor) else dict(found.items())
            for j, i in enumerate(missing):
                self._keep(keys[i], {name: _take(part, j) for name, part in parts.items()})
            self.computed += len(missing)
        rows = [self.kept[key] for key in keys]
        self._forget(set(keys))
        joined = {name: _join([row[name] for row in rows]) for name in rows[0]}
        return joined[""] if self.kind is None else self.kind(**joined)

    def _keep(self, key: bytes, row: dict[str, Any]) -> None:
        self.kept[key] = row
        self.bytes += _size(row)

    def _forget(self, needed: set[bytes]) -> None:
        """Forgets the oldest, but for those that are needed now."""
        for key in needed:
            self.kept.move_to_end(key)
        while self.bytes > self.most and len(self.kept) > len(needed):
            _, row = self.kept.popitem(last=False)
            self.bytes -= _size(row)


def _key(row: Tensor, given: Sequence[Any], named: dict[str, Any], i: int) -> bytes:
    """A hash of an image's content, and of what else its encoder is told."""
    content = hashlib.blake2b(digest_size=16)
    for part in (row, *given, *named.values()):
        own = part[i] if isinstance(part, Tensor) and part is not row and part.ndim else part
        if isinstance(own, Tensor):
            content.update(own.detach().contiguous().view(torch.uint8).cpu().numpy().tobytes())
        else:
            content.update(repr(own).encode())
    return content.digest()


def _rows(x: Any, index: Tensor, count: int) -> Any:
    return x[index] if isinstance(x, Tensor) and x.ndim and len(x) == count else x


def _take(part: Any, i: int) -> Any:
    """Row i of a tensor, or of each of several; None stays."""
    if isinstance(part, Tensor):
        return part[i].clone()
    return part if part is None else tuple(_take(own, i) for own in part)


def _join(rows: Sequence[Any]) -> Any:
    if isinstance(rows[0], Tensor):
        return torch.stack(list(rows))
    return None if rows[0] is None else tuple(_join(own) for own in zip(*rows, strict=True))


def _size(part: Any) -> int:
    if isinstance(part, Tensor):
        return part.nbytes
    parts = part.values() if isinstance(part, dict) else part or ()
    return sum(_size(own) for own in parts)

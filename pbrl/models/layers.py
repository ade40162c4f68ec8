"""Networks. An ensemble is a leading tensor axis, not a list of modules."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pbrl.types import UserError

ACTIVATIONS = {"relu": torch.relu, "tanh": torch.tanh, "leaky_relu": nn.functional.leaky_relu}


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Without dropout, as it was afterwards."""
    was_training = module.training
    module.eval()
    yield
    module.train(was_training)


class Linear(nn.Module):
    """A linear layer, or E independent ones: x [..., I] or [E, N, I] → [..., U] or [E, N, U]. Starts as PyTorch's."""

    def __init__(self, inputs: int, outputs: int, ensemble: int | None = None):
        super().__init__()
        lead = () if ensemble is None else (ensemble,)
        bound = 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(*lead, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(*lead, outputs).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        fused = not (torch.is_grad_enabled() or torch.compiler.is_compiling())  # a compiler fuses by itself
        if self.weight.ndim == 2:
            return nn.functional.linear(x, self.weight.T, self.bias) if fused else x @ self.weight + self.bias
        bias = self.bias[:, None]
        return torch.baddbmm(bias, x, self.weight) if fused else torch.bmm(x, self.weight) + bias


class Dropout(nn.Module):
    """nn.Dropout, but on a CPU `p` is met to the nearest 256th: four places share a random number of 32 bits.

    Random numbers took more than half of an update's time there otherwise. Raises UserError.
    """

    def __init__(self, p: float):
        super().__init__()
        if not 0 <= p < 1:
            raise UserError(f"dropout={p} is the share that is dropped: at least 0, and less than 1")
        self.p, self.dropped = p, min(round(256 * p), 255)

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu":
            return nn.functional.dropout(x, self.p, self.training)
        if not (self.dropped and self.training):
            return x
        words = torch.randint(-(2**31), 2**31, (-(-x.numel() // 4),), dtype=torch.int32, device=x.device)
        numbers = words.view(torch.int8)[: x.numel()].view(x.shape)
        # compared as floats: a compiled CPU kernel is several times as slow with masks of bytes
        return torch.where(numbers.float() >= self.dropped - 128, x * (256 / (256 - self.dropped)), 0)


class MLP(nn.Module):
    """A multilayer perceptron on [..., I] → [..., U]; with `ensemble=E`, E of them at once → [E, ..., U]."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        hidden: list[int],
        *,
        ensemble: int | None = None,
        activation: str = "relu",
        dropout: float = 0.0,
    ):
        super().__init__()
        sizes = [inputs, *hidden, outputs]
        self.layers = nn.ModuleList(Linear(i, o, ensemble) for i, o in zip(sizes, sizes[1:], strict=False))
        self.ensemble, self.activation, self.dropout = ensemble, ACTIVATIONS[activation], Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        shape = x.shape[:-1]
        if self.ensemble is not None:
            x = x.reshape(1, -1, x.shape[-1]).expand(self.ensemble, -1, -1)
        for layer in self.layers[:-1]:
            x = self.activation(self.dropout(layer(x)))
        x = self.layers[-1](x)
        return x if self.ensemble is None else x.reshape(self.ensemble, *shape, -1)


class Normalize(nn.Module):
    """(x - mean) / std, with the numbers kept in the module, so that they travel with what is saved."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class Block(nn.Module):
    """Causal self-attention and a two-layer MLP, each normalised before and added to its input, as in GPT-2."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, Dropout(dropout)
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(self.attention_norm(x)).chunk(3, -1)
        q, k, v = (p.unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in parts)  # [B, heads, T, width / heads]
        context = attend(q, k, v)
        x = x + self.dropout(self.out(context.transpose(1, 2).flatten(2)))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


def attend(q: Tensor, k: Tensor, v: Tensor, causal: bool = True) -> Tensor:
    """Attention; on a CPU by plain products, since the fused kernel is slow for short windows in bfloat16."""
    if q.device.type != "cpu":
        return nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
    logits = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    if not causal:
        return logits.float().softmax(-1).to(v.dtype) @ v
    later = torch.ones(logits.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
    return logits.float().masked_fill(later, -math.inf).softmax(-1) @ v


class Transformer(nn.Module):
    """x [B, T, W] → [B, T, W], where each place attends to itself and to what came before. Raises UserError."""

    def __init__(self, *, width: int, layers: int, heads: int, dropout: float):
        super().__init__()
        if width % heads:
            raise UserError(f"width={width} must be a multiple of heads={heads}")
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

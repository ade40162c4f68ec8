"""Diffusion policies and planners written the usual way: layers of torch.nn, schedulers and averages of `diffusers`.

`UNet` and `DiT` compute what ours do (pbrl/models/diffusion/), number for number, and `copy_weights` shows it
(tests/test_benchmarks.py). `ReleasedUNet` has the shape of Diffusion Policy's released network, and `DiT` at width 384
with 6 layers and 12 heads nearly that of AlignDiff's, whose attributes attend to each other besides.
"""

import importlib
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, interpolate, layer_norm, scaled_dot_product_attention, silu

from pbrl.models.diffusion.denoiser import Denoiser
from pbrl.models.diffusion.dit import DiT as OurDiT

diffusers: Any = importlib.import_module("diffusers")  # whose lazy names no type checker finds


class TimeAndConditions(nn.Module):
    """The time [B] and N conditions [B, C_i], of which `mask` [B, N] says which are given → [B, W]."""

    def __init__(self, sizes: tuple[int, ...], width: int):
        super().__init__()
        self.width = width
        self.time = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))
        self.given = nn.ModuleList(nn.Linear(size, width) for size in sizes)
        self.mix = nn.Linear(width, width)

    def forward(self, time: Tensor, conditions: tuple[Tensor, ...], mask: Tensor | None = None) -> Tensor:
        rate = torch.exp(torch.arange(self.width // 2) * (-math.log(10_000.0) / (self.width // 2)))
        angle = time[:, None].float() * rate
        parts = [layer(value) for layer, value in zip(self.given, conditions, strict=True)]
        if mask is not None:
            parts = [part * mask[:, i, None] for i, part in enumerate(parts)]
        return self.time(torch.cat([angle.sin(), angle.cos()], -1)) + self.mix(silu(torch.stack(parts).sum(0)))


class Block(nn.Module):
    """Two convolutions [B, I, H] → [B, U, H], the first of which a condition scales and shifts."""

    def __init__(self, inputs: int, outputs: int, width: int):
        super().__init__()
        self.first, self.second = nn.Conv1d(inputs, outputs, 3, padding=1), nn.Conv1d(outputs, outputs, 3, padding=1)
        self.norm, self.other_norm = nn.GroupNorm(8, outputs), nn.GroupNorm(8, outputs)
        self.film = nn.Linear(width, 2 * outputs)
        self.skip = nn.Identity() if inputs == outputs else nn.Conv1d(inputs, outputs, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        gain, shift = self.film(silu(embedding))[..., None].chunk(2, 1)
        y = silu(self.norm(self.first(x)) * (1 + gain) + shift)
        return self.skip(x) + silu(self.other_norm(self.second(y)))


class UNet(nn.Module):
    """x [B, H, D], time [B], conditions → [B, H, D]: pbrl.models.diffusion.unet with what it is told."""

    def __init__(self, size: int, sizes: tuple[int, ...], *, width: int, layers: int):
        super().__init__()
        widths = [width, *[2 * width] * (layers - 1)]
        inputs = [size, *widths]
        self.told = TimeAndConditions(sizes, width)
        self.down = nn.ModuleList(Block(i, o, width) for i, o in zip(inputs, widths, strict=False))
        self.shrink = nn.ModuleList(nn.Conv1d(w, w, 3, stride=2, padding=1) for w in widths[:-1])
        self.middle = Block(widths[-1], widths[-1], width)
        self.grow = nn.ModuleList(nn.Conv1d(w, w, 3, padding=1) for w in widths[1:])
        self.up = nn.ModuleList(Block(b + w, w, width) for b, w in zip(widths[1:], widths[:-1], strict=True))
        self.out = nn.Conv1d(width, size, 1)

    def forward(self, x: Tensor, time: Tensor, conditions: tuple[Tensor, ...]) -> Tensor:
        embedding, kept, x = self.told(time, conditions), list[Tensor](), x.transpose(1, 2)
        for block, shrink in zip(self.down, [*self.shrink, nn.Identity()], strict=True):
            kept.append(block(x, embedding))
            x = shrink(kept[-1])
        x = self.middle(x, embedding)
        for block, grow, level in reversed(list(zip(self.up, self.grow, kept[:-1], strict=True))):
            x = block(torch.cat([grow(interpolate(x, scale_factor=2)), level], 1), embedding)
        return self.out(x).transpose(1, 2)


class DiTBlock(nn.Module):
    """Self-attention and an MLP over steps [B, H, W], scaled, shifted and gated by an embedding [B, W]."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.modulate = nn.Linear(width, 6 * width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        gain, shift, gate, *others = self.modulate(embedding)[:, None].chunk(6, -1)
        q, k, v = self.qkv(modulated(x, gain, shift)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + gate * self.out(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        gain, shift, gate = others
        return x + gate * self.narrow(gelu(self.wide(modulated(x, gain, shift)), approximate="tanh"))


class DiT(nn.Module):
    """x [B, H, D], time [B], conditions and which are given → [B, H, D]: pbrl.models.diffusion.dit."""

    def __init__(self, size: int, sizes: tuple[int, ...], *, horizon: int, width: int, layers: int, heads: int):
        super().__init__()
        self.told = TimeAndConditions(sizes, width)
        self.embed, self.position = nn.Linear(size, width), nn.Parameter(0.02 * torch.randn(horizon, width))
        self.blocks = nn.ModuleList(DiTBlock(width, heads) for _ in range(layers))
        self.modulate, self.out = nn.Linear(width, 2 * width), nn.Linear(width, size)

    def forward(self, x: Tensor, time: Tensor, conditions: tuple[Tensor, ...], mask: Tensor | None = None) -> Tensor:
        embedding = silu(self.told(time, conditions, mask))
        x = self.embed(x) + self.position
        for block in self.blocks:
            x = block(x, embedding)
        return self.out(modulated(x, *self.modulate(embedding)[:, None].chunk(2, -1)))


def modulated(x: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    return layer_norm(x, x.shape[-1:]) * (1 + gain) + shift


def copy_weights(ours: Denoiser, usual: UNet | DiT) -> None:
    """Gives a usual network the parameters of one of ours, which lie in the same order of layers."""
    parts = [ours.conditions.time, ours.conditions.given, ours.conditions.mix, ours.network]
    theirs = [usual.told.time, usual.told.given, usual.told.mix]
    rest = [child for name, child in usual.named_children() if name != "told"]
    pairs = [*zip(parts[:3], theirs, strict=True)]
    pairs += zip([child for child in ours.network.children()], rest, strict=True)
    with torch.no_grad():
        for own, other in pairs:
            for a, b in zip(own.parameters(), other.parameters(), strict=True):
                b.copy_(as_usual(a, b))
        if isinstance(ours.network, OurDiT) and isinstance(usual, DiT):
            usual.position.copy_(ours.network.position)


def as_usual(ours: Tensor, usual: Tensor) -> Tensor:
    """A weight [I, U] as nn.Linear has it, [U, I], or one of neighbouring steps [3 I, U] as nn.Conv1d has it."""
    if ours.shape == usual.shape and ours.ndim == 1:
        return ours
    if usual.ndim == 2:
        return ours.T
    outputs, inputs, kernel = usual.shape
    return ours.view(kernel, inputs, outputs).permute(2, 1, 0)


class ReleasedBlock(nn.Module):
    """Diffusion Policy's: two convolutions over five steps, a condition's scale and shift after the first."""

    def __init__(self, inputs: int, outputs: int, width: int):
        super().__init__()
        pair = (inputs, outputs), (outputs, outputs)
        self.parts = nn.ModuleList(
            nn.Sequential(nn.Conv1d(i, o, 5, padding=2), nn.GroupNorm(8, o), nn.Mish()) for i, o in pair
        )
        self.film = nn.Sequential(nn.Mish(), nn.Linear(width, 2 * outputs))
        self.skip = nn.Identity() if inputs == outputs else nn.Conv1d(inputs, outputs, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        gain, shift = self.film(embedding)[..., None].chunk(2, 1)
        return self.skip(x) + self.parts[1](gain * self.parts[0](x) + shift)


class ReleasedUNet(nn.Module):
    """The shape of Diffusion Policy's network for states: 256, 512 and 1,024 channels, two blocks a level."""

    def __init__(self, size: int, observed: int, widths: tuple[int, ...] = (256, 512, 1024), embed: int = 256):
        super().__init__()
        self.embed, width = embed, embed + observed
        self.time = nn.Sequential(nn.Linear(embed, 4 * embed), nn.Mish(), nn.Linear(4 * embed, embed))
        steps = list(zip((size, *widths), widths, strict=False))
        two = lambda i, o: nn.ModuleList([ReleasedBlock(i, o, width), ReleasedBlock(o, o, width)])  # noqa: E731
        self.down = nn.ModuleList(two(i, o) for i, o in steps)
        self.shrink = nn.ModuleList(nn.Conv1d(w, w, 3, 2, 1) for w in widths[:-1])
        self.middle = two(widths[-1], widths[-1])
        self.up = nn.ModuleList(two(2 * o, i) for i, o in reversed(steps[1:]))
        self.grow = nn.ModuleList(nn.ConvTranspose1d(w, w, 4, 2, 1) for w in reversed(widths[:-1]))
        last = widths[0]
        block = nn.Sequential(nn.Conv1d(last, last, 5, padding=2), nn.GroupNorm(8, last), nn.Mish())
        self.out = nn.Sequential(block, nn.Conv1d(last, size, 1))

    def forward(self, x: Tensor, time: Tensor, observed: Tensor) -> Tensor:
        """x [B, H, D], time [B], what is observed [B, C] → [B, H, D]."""
        half = self.embed // 2
        angle = time[:, None].float() * torch.exp(torch.arange(half) * (-math.log(10_000.0) / (half - 1)))
        embedding = torch.cat([self.time(torch.cat([angle.sin(), angle.cos()], -1)), observed], -1)
        kept, x = list[Tensor](), x.transpose(1, 2)
        for pair, shrink in zip(self.down, [*self.shrink, nn.Identity()], strict=True):
            for block in pair:  # type: ignore[attr-defined]
                x = block(x, embedding)
            kept.append(x)
            x = shrink(x)
        for block in self.middle:
            x = block(x, embedding)
        for pair, grow, level in zip(self.up, self.grow, reversed(kept[1:]), strict=True):
            x = torch.cat([x, level], 1)
            for block in pair:  # type: ignore[attr-defined]
                x = block(x, embedding)
            x = grow(x)
        return self.out(x).transpose(1, 2)


@torch.no_grad()
def draw_chunk(network: nn.Module, observed: Tensor, scheduler: Any, steps: int, shape: tuple) -> Tensor:
    """A chunk [B, H, D] by DDIM, as Diffusion Policy draws it."""
    scheduler.set_timesteps(steps)
    x = torch.randn(shape)
    for time in scheduler.timesteps:
        told = (observed,) if isinstance(network, UNet) else observed
        x = scheduler.step(network(x, time.expand(len(x)), told), time, x).prev_sample
    return x


@torch.no_grad()
def draw_plans(
    network: DiT,
    strengths: tuple[Tensor, ...],
    first: Tensor,
    scheduler: Any,
    *,
    steps: int,
    candidates: int,
    size: int,
    guidance: float,
) -> Tensor:
    """Plans [N, H, D] that begin in a state `first` [O], told strengths [1, C_i] by classifier-free guidance."""
    scheduler.set_timesteps(steps)
    x = scheduler.init_noise_sigma * torch.randn(candidates, len(network.position), size)
    told = tuple(value.expand(2 * candidates, -1) for value in strengths)
    mask = torch.ones(2 * candidates, len(strengths))
    mask[candidates:] = 0
    for time in scheduler.timesteps:
        x[:, 0, : len(first)] = first
        scaled = scheduler.scale_model_input(x, time)
        both = network(torch.cat([scaled, scaled]), time.expand(2 * candidates), told, mask)
        given, free = both.chunk(2)
        x = scheduler.step(free + guidance * (given - free), time, x).prev_sample
    x[:, 0, : len(first)] = first
    return x


class Reader(nn.Module):
    """States [N, H, O] → how strong M attributes are [N, M]: the mean of `members` transformers, one after another."""

    def __init__(self, inputs: int, outputs: int, *, members: int, width: int, layers: int, heads: int):
        super().__init__()
        layer = lambda: nn.TransformerEncoderLayer(  # noqa: E731
            width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.embed = nn.ModuleList(nn.Linear(inputs, width) for _ in range(members))
        self.body = nn.ModuleList(
            nn.TransformerEncoder(layer(), layers, enable_nested_tensor=False) for _ in range(members)
        )
        self.out = nn.ModuleList(nn.Linear(width, outputs) for _ in range(members))

    def forward(self, states: Tensor) -> Tensor:
        found = [
            out(body(embed(states))[:, -1]) for embed, body, out in zip(self.embed, self.body, self.out, strict=True)
        ]
        return torch.stack(found).mean(0)

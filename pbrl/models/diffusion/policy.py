"""Diffusion Policy: a chunk of actions is drawn by denoising, told what is observed.

Chi et al. 2023, arXiv:2303.04137. Its score is minus the denoising bound, a sum over the steps of a segment, so that
objectives on scores align it: Diffusion-DPO, Wallace et al. 2023, arXiv:2311.12908. Noise and time are shared by all
segments that are compared, and by policy and reference, so that what differs is the segments and the models alone.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pbrl.models.chunk_policy import ChunkPolicy
from pbrl.models.chunks import to_chunks
from pbrl.models.diffusion.average import Average
from pbrl.models.diffusion.denoiser import Denoiser
from pbrl.models.diffusion.process import make_process
from pbrl.models.diffusion.sampler import Draw, Sampler
from pbrl.models.encoders import Encoder
from pbrl.models.layers import Normalize
from pbrl.models.vla_context import GOOD, ContextReader, reads_instructions
from pbrl.ranges import NotNegative, OpenShare, Size, Whole
from pbrl.types import Observation, Segment, Spec, UserError


class Chance(NamedTuple):
    """What a score is drawn with: M times and noises of W chunks, shared by the segments that are compared."""

    time: Tensor  # [M, ..., W]
    eps: Tensor  # [M, ..., W, K, A]


class DiffusionPolicy(ChunkPolicy):
    """Plans `horizon` actions and carries out `execute` of them. Acts with an average of its parameters over updates.

    `process` is ddpm, edm or flow; `sampler` ancestral, ddim, dpm_solver, euler or heun. `times` is how many noises and
    times each chunk of a score is drawn at. With `quality` it is told how what is done shall turn out, and acts as if
    told that it will turn out well; `guidance` is the weight of that, by classifier-free guidance. With
    `context_layers` a transformer reads state, images and instruction together, which makes it a vision-language-action
    policy as pi0 (Black et al. 2024, arXiv:2410.24164) is: with `process=flow`, its head is a flow.
    `sentences` names the frozen encoder of its instructions (None: their words are learnt). Raises UserError.
    """

    is_exact = False

    def __init__(
        self,
        spec: Spec,
        *,
        horizon: Size,
        execute: Size,
        process: str,
        betas: str,
        train_steps: Size,
        sampler: str,
        sample_steps: Size,
        network: str,
        width: Size,
        layers: Size,
        heads: Size,
        times: Size,
        average: OpenShare,
        channels: Size = 32,
        features: Size = 64,
        context_layers: Whole = 0,
        quality: bool = False,
        guidance: NotNegative = 1.0,
        sentences: str | None = None,
    ):
        super().__init__()
        self.set_chunks(spec, horizon, execute)
        self.settings = {
            "horizon": horizon, "execute": execute, "process": process, "betas": betas, "train_steps": train_steps,
            "sampler": sampler, "sample_steps": sample_steps, "network": network, "width": width, "layers": layers,
            "heads": heads, "times": times, "average": average, "channels": channels, "features": features,
            "context_layers": context_layers, "quality": quality, "guidance": guidance, "sentences": sentences,
        }  # fmt: skip
        if guidance != 1 and not quality:
            raise UserError(f"policy.guidance={guidance} is towards what turns out well: add policy.quality=true")
        self.times, self.guidance = times, guidance
        if sentences and not context_layers:
            raise UserError(f"policy.sentences={sentences} needs policy.context_layers: choose policy=vla_flow")
        self.reads_words = bool(context_layers) and reads_instructions(spec, sentences)
        self.model = ActionDenoiser(spec, self.settings)
        self.average = Average(self.model, average)
        self.sampler = Sampler(self.model.denoiser.process, method=sampler, steps=sample_steps, clip=1.0)

    # Acting

    @torch.no_grad()
    def act(self, obs: Observation, explore: bool | Tensor = False) -> Tensor:
        """Actions are always drawn; an episode's noise follows from its first observation, so that it can be redone."""
        return self.queue.next(lambda: self.plan(obs))

    @torch.no_grad()
    def plan(self, obs: Observation) -> Tensor:
        return self.draw_chunks(obs, 1)[0]

    def draw_chunks(self, obs: Observation, count: int) -> Tensor:
        """obs [B, O] → so many chunks [N, B, K, A] each, of noise that follows from the episode's first observation."""
        self.noise.begin(obs.state)
        return self.sample(obs, count, draw=lambda shape: self.noise.draw(shape, obs.state.device))

    def sample(self, obs: Observation, *count: int, draw: Draw | None = None) -> Tensor:
        """obs [..., O] → `count` chunks of each [N, ..., K, A] by the average; `draw` makes noise (torch.randn)."""
        model, shape = self.average.module, (*count, *obs.state.shape[:-1], self.horizon, self.spec.action_dim)
        (told, *quality), given = model.condition(obs)

        def denoise(x: Tensor, time: Tensor, condition: Any, mask: Any) -> Tensor:
            """Guidance leaves out the quality alone: what is observed is always told."""
            seen = None if mask is None else torch.cat([torch.ones_like(mask), mask], -1)
            return model.denoiser(x, time, (told, *(condition or ())), seen)

        mask = None if given is None else given[..., 1:]
        return self.sampler(denoise, shape, quality or None, mask, self.guidance, draw=draw)

    # Learning

    def after_step(self) -> None:
        self.average.update(self.model)

    def log_prob(self, obs: Observation, action: Tensor) -> Tensor:
        """obs [..., O], chunks [..., K, A] → minus the denoising bound [...]; single actions [..., A] if K is 1."""
        chunk = action if self.horizon > 1 else action[..., None, :]
        return -self.model.loss(obs, chunk, None).sum((-2, -1))

    def draw_chance(self, segment: Segment) -> Chance:
        """Noise and times for `score`: one for all segments of a list, which the last axis before the steps counts."""
        *lead, length = segment.mask.shape
        return self._draw_chance(lead, -(-length // self.horizon), segment.mask.device)

    def draw_chance_of_chunks(self, chunks: Segment) -> Chance:
        """The same for `score_chunks`: one for all episodes of a list [..., K, D, …]."""
        *lead, decisions, _ = chunks.mask.shape
        return self._draw_chance(lead, decisions, chunks.mask.device)

    def _draw_chance(self, lead: list[int], chunks: int, device: torch.device) -> Chance:
        shared = (self.times, *([*lead[:-1], 1] if len(lead) > 1 else lead), chunks)
        eps = torch.randn(*shared, self.horizon, self.spec.action_dim, device=device)
        return Chance(self.model.denoiser.process.draw(shared, device), eps)

    def score(self, segment: Segment, chance: Chance | None = None) -> Tensor:
        """Minus the denoising bound, summed over the numbers of all steps [..., L]: [...].

        Chunks follow each other without overlap from the first step on, each told what is observed at its own first
        step; beyond the segment's end the last one is padded, which counts nothing.
        """
        chance = self.draw_chance(segment) if chance is None else chance
        return self.score_chunks(to_chunks(segment, self.horizon), chance).sum(-1)

    def score_chunks(self, chunks: Segment, chance: Chance | None = None) -> Tensor:
        chance = self.draw_chance_of_chunks(chunks) if chance is None else chance
        errors = self.model.loss(chunks.obs, chunks.action[None], chance)
        return -(errors.sum(-1) * chunks.mask).sum(-1).mean(0)


class ActionDenoiser(nn.Module):
    """The denoiser of actions and what tells it of observations: their normaliser, and the image encoder."""

    def __init__(self, spec: Spec, settings: dict):
        super().__init__()
        s = settings
        self.context = None
        if s["context_layers"]:
            self.context = ContextReader(
                spec, width=s["features"], layers=s["context_layers"], heads=s["heads"], channels=s["channels"]
            )
        self.normalize = Normalize(spec.obs_mean, spec.obs_std)
        shown = {} if self.context else spec.images
        self.encoder = Encoder(shown, channels=s["channels"], features=s["features"]) if shown else None
        process = make_process(s["process"], betas=s["betas"], train_steps=s["train_steps"])
        sizes = (s["features"] if self.context else spec.obs_dim + s["features"] * bool(shown),)
        self.quality = s["quality"]
        sizes += (1,) * self.quality
        kind = {key: s[key] for key in ("network", "horizon", "width", "layers", "heads")}
        self.denoiser = Denoiser(process, spec.action_dim, sizes, **kind)

    def told(self, obs: Observation) -> Tensor:
        """obs [..., O] → the condition [..., C]: the normalised state, and what the encoder makes of the images.

        Or what a transformer makes of state, images and instruction.
        """
        if self.context is not None:
            return self.context(obs)
        state = self.normalize(obs.state)
        return state if self.encoder is None else torch.cat([state, self.encoder(obs.images)], -1)

    def loss(self, obs: Observation, chunk: Tensor, chance: Chance | None) -> Tensor:
        """obs [..., O], chunks [..., K, A] → the squared error of each number [..., K, A]."""
        time, eps = (None, None) if chance is None else chance
        return self.denoiser.loss(chunk, *self.condition(obs), time=time, eps=eps)

    def condition(self, obs: Observation) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """What the denoiser is told of obs [..., O], and which of it is given [..., N]; None: all.

        That is what is observed and, with `quality`, how what is done shall turn out; well, where obs says nothing.
        """
        told = self.told(obs)
        if not self.quality:
            return (told,), None
        quality = obs.text.get("quality", torch.full_like(told[..., 0], GOOD))
        given = torch.stack([torch.ones_like(quality), quality >= 0], -1).to(told.dtype)
        return (told, 2.0 * quality[..., None].to(told.dtype) - 1), given

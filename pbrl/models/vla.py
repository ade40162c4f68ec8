"""A small vision-language-action policy: images, an instruction and a state → a chunk of actions, as tokens.

Actions are words of 256 bins, as in RT-2 (Brohan et al. 2023, arXiv:2307.15818) and OpenVLA (Kim et al. 2024,
arXiv:2406.09246). `decode=autoregressive` draws the chunk number by number, each told of those before it; `parallel`
all at once from learnt queries, as OpenVLA-OFT (Kim et al. 2025, arXiv:2502.19645). Either has a likelihood in closed
form, so that any objective on scores trains it.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from pbrl.models.bins import ActionBins
from pbrl.models.chunk_policy import ChunkPolicy
from pbrl.models.chunks import to_chunks
from pbrl.models.prefix_transformer import Cache, PrefixTransformer
from pbrl.models.vla_context import ContextTokens, flatten, reads_instructions
from pbrl.ranges import NotNegative, Size
from pbrl.types import Observation, Segment, Spec, UserError

DECODE = ("parallel", "autoregressive")


class VLAPolicy(ChunkPolicy):
    """Plans `horizon` actions and carries out `execute` of them.

    It acts on the most likely bins, or, with `explore`, on bins drawn at the `temperature`. With `quality` it is told
    how well it shall do: algo.clone=conditioned trains it so. `sentences` names the frozen encoder of instructions, as
    pbrl/models/sentences.py does; None: their words are learnt. Raises UserError.
    """

    def __init__(
        self,
        spec: Spec,
        *,
        horizon: Size,
        execute: Size,
        decode: str,
        bins: Size,
        width: Size,
        layers: Size,
        heads: Size,
        channels: Size,
        temperature: NotNegative,
        quality: bool = False,
        sentences: str | None = None,
    ):
        super().__init__()
        if decode not in DECODE:
            raise UserError(f"policy.decode={decode}: it is {' or '.join(DECODE)}")
        self.set_chunks(spec, horizon, execute)
        self.settings = {
            "horizon": horizon, "execute": execute, "decode": decode, "bins": bins, "width": width, "layers": layers,
            "heads": heads, "channels": channels, "temperature": temperature, "quality": quality,
            "sentences": sentences,
        }  # fmt: skip
        self.temperature = temperature
        self.reads_words = reads_instructions(spec, sentences)
        self.bins, self.is_parallel = ActionBins(bins), decode == "parallel"
        self.context = ContextTokens(spec, width=width, channels=channels, quality=quality)
        self.trunk = PrefixTransformer(width=width, layers=layers, heads=heads)
        places, outputs = (horizon, spec.action_dim * bins) if self.is_parallel else (horizon * spec.action_dim, bins)
        self.place = nn.Parameter(0.02 * torch.randn(places, width))
        self.taken = None if self.is_parallel else nn.Embedding(bins, width)  # what a bin tells those after it
        self.out = nn.Linear(width, outputs)

    # Acting

    @torch.no_grad()
    def act(self, obs: Observation, explore: bool | Tensor = False) -> Tensor:
        """The next action; with `explore`, from a chunk that is drawn and that the first observation decides."""
        return self.queue.next(lambda: self.bins.decode(self.draw_bins(obs, self.draw_noise(obs, explore))))

    @torch.no_grad()
    def plan(self, obs: Observation) -> Tensor:
        return self.bins.decode(self.draw_bins(obs, None))

    def draw_bins(self, obs: Observation, normal: Tensor | None, cached: bool = True) -> Tensor:
        """obs [B, O] → the bins of a chunk [B, K, A], by standard normal numbers [B, K, A]; without, or where they are
        not a number, the likeliest.

        Without `cached`, all is computed anew for each token, which changes nothing but the time.
        """
        cache = self.read(obs)
        uniform = None if normal is None else torch.special.ndtr(normal)
        if self.is_parallel:
            return choose(self._decode_parallel(cache), self.temperature, uniform)
        size, drawn = self.spec.action_dim, []
        x = self.place[:1].expand(len(obs.state), -1, -1)
        tokens = x
        for i in range(self.horizon * size):
            if cached:
                hidden, cache = self.trunk.go_on(tokens, cache, causal=True)
            else:
                hidden, _ = self.trunk.go_on(x, self.read(obs), causal=True)
            own = None if uniform is None else uniform.flatten(1)[:, i]
            drawn.append(choose(self.out(hidden[:, -1]), self.temperature, own))
            if i + 1 < len(self.place):
                tokens = self.taken(drawn[-1])[:, None] + self.place[i + 1]  # type: ignore[misc]
                x = torch.cat([x, tokens], 1)
        return torch.stack(drawn, 1).unflatten(1, (self.horizon, size))

    # Likelihood

    def read(self, obs: Observation) -> Cache:
        """obs [B, O] → what actions read of it."""
        return self.trunk.read(*self.context(obs))

    def log_prob(self, obs: Observation, action: Tensor) -> Tensor:
        """obs [..., O], chunks [..., K, A] → log-likelihood [...]; single actions [..., A] if K is 1."""
        chunk = action if self.horizon > 1 else action[..., None, :]
        return self.log_prob_steps(obs, chunk).sum(-1)

    def log_prob_steps(self, obs: Observation, chunk: Tensor) -> Tensor:
        """obs [..., O], chunks [..., K, A] → the log-likelihood of each step, told those before it: [..., K]."""
        lead = chunk.shape[:-2]
        bins = self.bins.encode(chunk).flatten(0, -3) if lead else self.bins.encode(chunk)[None]  # [B, K, A]
        logits = self.logits(flatten(obs, len(lead)), bins).float()
        return -nn.functional.cross_entropy(
            logits.flatten(0, -2), bins.flatten(), reduction="none"
        ).view(bins.shape).sum(-1).view(*lead, -1)  # fmt: skip

    def logits(self, obs: Observation, bins: Tensor) -> Tensor:
        """obs [B, O], bins [B, K, A] that the later ones are told of → logits of each [B, K, A, bins]."""
        cache = self.read(obs)
        if self.is_parallel:
            return self._decode_parallel(cache)
        assert self.taken is not None
        before = self.taken(bins.flatten(1)[:, :-1])
        x = pad(before, (0, 0, 1, 0)) + self.place  # the first is told of none
        return self.out(self.trunk.go_on(x, cache, causal=True)[0]).unflatten(1, bins.shape[1:])

    def _decode_parallel(self, cache: Cache) -> Tensor:
        x = self.place.expand(len(cache.mask), -1, -1)
        hidden = self.trunk.go_on(x, cache, causal=False)[0]  # [B, K, W]
        return self.out(hidden).unflatten(-1, (self.spec.action_dim, -1))

    def score(self, segment: Segment, chance: object = None) -> Tensor:
        """The log-likelihood of a segment's actions as chunks that follow each other: [...]."""
        return self.score_chunks(to_chunks(segment, self.horizon)).sum(-1)

    def score_chunks(self, chunks: Segment, chance: None = None) -> Tensor:
        return (self.log_prob_steps(chunks.obs, chunks.action) * chunks.mask).sum(-1)


def choose(logits: Tensor, temperature: float, uniform: Tensor | None) -> Tensor:
    """logits [..., N] → the likeliest of N, or, by uniform numbers [...] and at a temperature, one drawn: [...]."""
    likeliest = logits.argmax(-1)
    if uniform is None or not temperature:
        return likeliest
    below = (logits.double() / temperature).softmax(-1).cumsum(-1)
    drawn = (below < uniform[..., None]).sum(-1).clamp(max=logits.shape[-1] - 1)
    return drawn.where(uniform.isfinite(), likeliest)

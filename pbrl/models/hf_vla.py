"""Vision-language-action policies from Hugging Face's vision-language models: images and an instruction → actions.

`TokenVLA` says a chunk's numbers as tokens, one after the other, as OpenVLA does (Kim et al. 2024, arXiv:2406.09246),
so that its likelihood is exact. `FlowVLA` hands what the model makes of its prompt to a flow-matching head, as pi0
(Black et al. 2024, arXiv:2410.24164) and SmolVLA (Shukor et al. 2025, arXiv:2506.01844) do, though here the head is
told the last token's features alone, and its times are drawn evenly; its score is minus the flow-matching bound.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pbrl.models.action_statistics import action_range
from pbrl.models.bins import TokenBins
from pbrl.models.chunk_policy import ChunkPolicy
from pbrl.models.chunks import to_chunks
from pbrl.models.diffusion.denoiser import Denoiser
from pbrl.models.diffusion.policy import Chance
from pbrl.models.diffusion.process import Flow
from pbrl.models.diffusion.sampler import Sampler
from pbrl.models.hf_backbone import Checkpoint, Inputs, VisionLanguageModel, hash_weights
from pbrl.models.layers import Normalize
from pbrl.models.text import FIRST
from pbrl.models.vla import choose
from pbrl.models.vla_context import flatten
from pbrl.ranges import Finite, NotNegative, Positive, Size, Whole
from pbrl.types import Observation, Segment, Spec, UserError


class HFPolicy(ChunkPolicy):
    """A chunk of `horizon` actions, of which `execute` are carried out, from the model saved in the folder `path`.

    `weights` is the sha256 that its weights must have; None: any. What is saved is the adapter, the head and that hash.
    `instruction` is what it is told where the data say nothing. Raises UserError.
    """

    eager = True
    says_words = True  # whether its actions are words of the model

    def __init__(
        self,
        spec: Spec,
        *,
        path: str | None,
        weights: str | None,
        dtype: str,
        lora_rank: Whole,
        lora_alpha: Positive,
        at_once: Size,
        freeze_vision: bool = False,
        vision_cache_mb: NotNegative = 0.0,
        prompt: str,
        image_token: str | None,
        instruction: str | None,
        horizon: Size,
        execute: Size,
    ):
        super().__init__()
        self.set_chunks(spec, horizon, execute)
        if not spec.images:
            raise UserError("policy=hf_vla sees through cameras: name some with env.images=[…]")
        self.files = Checkpoint(path, prompt=prompt, image_token=image_token)
        self.files.inputs([_blank(spec)], [instruction or "move"])  # whether prompt and processor suit each other
        found = hash_weights(self.files.folder)
        if weights not in (None, found):
            raise UserError(
                f"the weights in {self.files.folder} are not those that the policy was trained on (sha256 "
                f"{found[:16]}…, not {str(weights)[:16]}…): put those back, or train anew"
            )
        if spec.max_steps > 1 and not spec.vocabulary and not instruction:
            raise UserError(
                "the data say no instruction, and policy=hf_vla acts on one: give it with policy.instruction='…'"
            )
        self.settings = {
            "path": str(self.files.folder), "weights": found, "dtype": dtype, "lora_rank": lora_rank,
            "lora_alpha": lora_alpha, "at_once": at_once, "freeze_vision": freeze_vision,
            "vision_cache_mb": vision_cache_mb, "prompt": prompt, "image_token": image_token,
            "instruction": instruction, "horizon": horizon, "execute": execute,
        }  # fmt: skip
        self.instruction = instruction
        self.reads_words = bool(spec.vocabulary) and not instruction
        self.vlm = VisionLanguageModel(
            self.files, rank=lora_rank, alpha=lora_alpha, dtype=dtype, at_once=at_once, head=self.says_words,
            freeze_vision=freeze_vision, vision_cache_mb=vision_cache_mb, loads=spec.max_steps > 1,
        )  # fmt: skip

    def told(self, obs: Observation) -> tuple[list[list[Any]], list[str]]:
        """obs [B, O] → its images by row and camera, and the instructions. Raises UserError where one is missing."""
        if self.spec.max_steps == 1:
            raise UserError("policy=hf_vla acts in episodes of more than one step: choose another env=…")
        pictures = [obs.images[camera].cpu().numpy() for camera in self.spec.images]
        images = [[shown[i] for shown in pictures] for i in range(len(obs.state))]
        if self.instruction:
            return images, [self.instruction] * len(images)
        return images, instructions_of(obs.text["tokens"], self.spec.vocabulary)


class TokenVLA(HFPolicy):
    """Numbers of actions are the last `bins` ids of the first `vocabulary_size` (None: of the tokenizer, without words
    that were added to it).

    `statistics` says what they range over: "unit" is [-1, 1]; "checkpoint" are the 1st and 99th percentiles that the
    folder holds, of the data set `unnorm_key` (None: the only one); else it is a file of such. `action_low` and
    `action_high` are what -1 and 1 are in their units (None: the same numbers). It acts on the likeliest numbers, or,
    with `explore`, on numbers drawn at the `temperature`.
    """

    scale: Tensor
    offset: Tensor

    def __init__(
        self,
        spec: Spec,
        *,
        bins: Size,
        vocabulary_size: Size | None,
        statistics: str,
        unnorm_key: str | None,
        action_low: Sequence[Finite] | None,
        action_high: Sequence[Finite] | None,
        temperature: NotNegative,
        **shared: Any,
    ):
        super().__init__(spec, **shared)
        own = {
            "bins": bins, "vocabulary_size": vocabulary_size, "statistics": statistics, "unnorm_key": unnorm_key,
            "action_low": action_low, "action_high": action_high,
        }  # fmt: skip
        self.settings |= own | {"temperature": temperature}
        self.temperature = temperature
        self.bins = TokenBins(bins, vocabulary_size or self.files.tokenizer.vocab_size)
        check_ids(self.bins, self.files)
        scale, offset = action_range(
            self.files, statistics, unnorm_key, action_low, action_high, spec.action_dim if spec.max_steps > 1 else None
        )
        self.register_buffer("scale", scale)
        self.register_buffer("offset", offset)

    # Acting

    @torch.no_grad()
    def act(self, obs: Observation, explore: bool | Tensor = False) -> Tensor:
        """The next action; with `explore`, from a chunk that is drawn and that the first observation decides."""
        return self.queue.next(lambda: self.from_bins(self.draw_bins(obs, self.draw_noise(obs, explore))))

    @torch.no_grad()
    def plan(self, obs: Observation) -> Tensor:
        return self.from_bins(self.draw_bins(obs, None))

    def draw_bins(self, obs: Observation, normal: Tensor | None) -> Tensor:
        """obs [B, O] → the bins of a chunk [B, K, A], by standard normal numbers [B, K, A]; without, or where they are
        not a number, the likeliest."""
        uniform = None if normal is None else torch.special.ndtr(normal).flatten(1)
        count = self.horizon * self.spec.action_dim

        def draw(inputs: Inputs, rows: slice) -> Tensor:
            (logits, cache), drawn = self.vlm.read(inputs), []
            for i in range(count):
                own = None if uniform is None else uniform[rows, i]
                drawn.append(choose(self.bins.log_prob(logits[:, -1]), self.temperature, own))
                if i + 1 < count:
                    logits, cache = self.vlm.go_on(self.bins.ids(drawn[-1])[:, None], inputs, cache)
            return torch.stack(drawn, 1).unflatten(1, (self.horizon, -1))

        return self.vlm.in_parts(draw, *self.told(obs))

    def from_bins(self, bins: Tensor) -> Tensor:
        """Bins [..., A] → actions [..., A] in [-1, 1]."""
        return self.bins.decode(bins) * self.scale + self.offset

    def to_bins(self, action: Tensor) -> Tensor:
        """Actions [..., A] → bins [..., A]."""
        return self.bins.encode((action - self.offset) / self.scale)

    # Likelihood

    def log_prob(self, obs: Observation, action: Tensor) -> Tensor:
        """obs [..., O], chunks [..., K, A] → log-likelihood [...]; single actions [..., A] if K is 1."""
        chunk = action if self.horizon > 1 else action[..., None, :]
        return self.log_prob_steps(obs, chunk).sum(-1)

    def log_prob_steps(self, obs: Observation, chunk: Tensor) -> Tensor:
        """obs [..., O], chunks [..., K, A] → the log-likelihood of each step, told those before it: [..., K]."""
        *lead, steps, size = chunk.shape
        bins = self.to_bins(chunk).reshape(-1, steps * size)

        def score(inputs: Inputs, rows: slice) -> Tensor:
            first, cache = self.vlm.read(inputs)
            found = [self.bins.log_prob(first)]
            if bins.shape[1] > 1:
                logits, _ = self.vlm.go_on(self.bins.ids(bins[rows, :-1]), inputs, cache)
                found.append(self.bins.log_prob(logits))
            return torch.cat(found, 1).gather(-1, bins[rows, :, None])[..., 0]

        return self.vlm.in_parts(score, *self.told(flatten(obs, len(lead)))).view(*lead, steps, size).sum(-1)

    def score(self, segment: Segment, chance: object = None) -> Tensor:
        """The log-likelihood of a segment's actions as chunks that follow each other: [...]."""
        return self.score_chunks(to_chunks(segment, self.horizon)).sum(-1)

    def score_chunks(self, chunks: Segment, chance: Any = None) -> Tensor:
        """Chunks that are all padding are not read."""
        there = chunks.mask.any(-1)  # [..., D]
        steps = torch.zeros_like(chunks.mask)
        steps[there] = self.log_prob_steps(_where(chunks.obs, there), chunks.action[there])
        return (steps * chunks.mask).sum(-1)


class FlowVLA(HFPolicy):
    """A transformer of `width`, `layers` and `heads` draws chunks in `sample_steps` Euler steps, told the state and the
    model's features; `times` is how many noises and times each chunk of a score is drawn at."""

    says_words = is_exact = False

    def __init__(
        self, spec: Spec, *, sample_steps: Size, width: Size, layers: Size, heads: Size, times: Size, **shared: Any
    ):
        super().__init__(spec, **shared)
        own = {"width": width, "layers": layers, "heads": heads}
        self.settings |= own | {"sample_steps": sample_steps, "times": times}
        self.times, self.normalize = times, Normalize(spec.obs_mean, spec.obs_std)
        sizes = (spec.obs_dim + self.files.config.get_text_config().hidden_size,)
        self.denoiser = Denoiser(Flow(), spec.action_dim, sizes, network="dit", horizon=self.horizon, **own)
        self.sampler = Sampler(self.denoiser.process, method="euler", steps=sample_steps, clip=1.0)

    # Acting

    @torch.no_grad()
    def act(self, obs: Observation, explore: bool | Tensor = False) -> Tensor:
        """Actions are always drawn; an episode's noise follows from its first observation, so that it can be redone."""
        return self.queue.next(lambda: self.plan(obs))

    @torch.no_grad()
    def plan(self, obs: Observation) -> Tensor:
        condition = self.condition(obs)
        self.noise.begin(obs.state)
        shape = (len(obs.state), self.horizon, self.spec.action_dim)
        return self.sampler(
            self.denoiser, shape, (condition,), draw=lambda s: self.noise.draw(s, condition.device)
        )  # fmt: skip

    def condition(self, obs: Observation) -> Tensor:
        """obs [..., O] → the normalised state and the features of what is seen and told: [..., C]."""
        lead = obs.state.shape[:-1]
        features = self.vlm.in_parts(lambda inputs, _: self.vlm.features(inputs), *self.told(flatten(obs, len(lead))))
        return torch.cat([self.normalize(obs.state), features.view(*lead, -1)], -1)

    # Likelihood

    def log_prob(self, obs: Observation, action: Tensor) -> Tensor:
        """obs [..., O], chunks [..., K, A] → minus the bound [...]; single actions [..., A] if K is 1."""
        chunk = action if self.horizon > 1 else action[..., None, :]
        return -self.denoiser.loss(chunk, (self.condition(obs),)).sum((-2, -1))

    def draw_chance(self, segment: Segment) -> Chance:
        """Noise and times for `score`: one for all segments of a list, which the last axis before the steps counts."""
        *lead, length = segment.mask.shape
        lead = [*lead[:-1], 1] if len(lead) > 1 else lead
        shared = (self.times, *lead, -(-length // self.horizon))
        eps = torch.randn(*shared, self.horizon, self.spec.action_dim, device=segment.mask.device)
        return Chance(self.denoiser.process.draw(shared, segment.mask.device), eps)

    def score(self, segment: Segment, chance: Chance | None = None) -> Tensor:
        """Minus the bound, summed over the numbers of all steps, in chunks that follow each other: [...]."""
        chunks = to_chunks(segment, self.horizon)
        time, eps = self.draw_chance(segment) if chance is None else chance
        errors = self.denoiser.loss(chunks.action[None], (self.condition(chunks.obs),), time=time, eps=eps)
        return -(errors.sum(-1) * chunks.mask).sum((-2, -1)).mean(0)


def instructions_of(tokens: Tensor, vocabulary: Sequence[str]) -> list[str]:
    """Tokens [B, WORDS] → what they say, but for words that the data never had. Raises UserError if that is nothing."""
    found = [" ".join(str(vocabulary[i - FIRST]) for i in row if i >= FIRST) for row in tokens.tolist()]
    if not all(found):
        raise UserError(
            "an episode says no instruction with a word that the data had, and policy=hf_vla acts on one: give it with "
            "policy.instruction='…'"
        )
    return found


def check_ids(bins: TokenBins, files: Checkpoint) -> None:
    """Raises UserError where the ids of actions are none of the model's, or mean something else."""
    rows, first = files.config.get_text_config().vocab_size, bins.size - bins.count
    if bins.count < 3 or first < 0 or bins.size > rows:
        raise UserError(
            f"policy.bins={bins.count} of policy.vocabulary_size={bins.size} do not fit the {rows} words of "
            f"{files.folder}"
        )
    special = {files.tokenizer.convert_tokens_to_ids(files.image_token)} if files.image_token else set()
    taken = sorted(
        i for i in special | set(files.tokenizer.all_special_ids) if i is not None and first <= i < bins.size
    )
    if taken:
        word = files.tokenizer.convert_ids_to_tokens(taken[0])
        raise UserError(
            f"the last {bins.count} words below {bins.size} of {files.folder} are to be actions, and {taken[0]} is "
            f"{word}: say with policy.vocabulary_size=… where they end"
        )


def _where(obs: Observation, there: Tensor) -> Observation:
    """obs [..., O] → the rows that a mask [...] picks: [B, O]."""
    images, text = ({k: v[there] for k, v in part.items()} for part in (obs.images, obs.text))
    return Observation(obs.state[there], images, text)


def _blank(spec: Spec) -> list[Any]:
    """An image of zeros of each camera."""
    return [torch.zeros(*shape, dtype=torch.uint8).numpy() for shape in spec.images.values()]

"""What a vision-language-action policy observes, as tokens: state, patches of images, and words or a sentence."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pbrl.models.layers import Normalize
from pbrl.models.prefix_transformer import PrefixTransformer
from pbrl.models.sentences import find_encoder
from pbrl.models.text import FIRST, WORDS
from pbrl.types import Observation, Spec, UserError

BAD, GOOD, UNTOLD = 0, 1, -1  # qualities


class ContextTokens(nn.Module):
    """What is observed as tokens: the words of the instruction, patches of each camera's image, and the state.

    Where the data have embeddings of instructions, one of these is a token in place of the words.
    With `quality` it is told how what is done shall turn out, too: well, where nothing else is said.
    """

    def __init__(self, spec: Spec, *, width: int, channels: int, quality: bool = False):
        super().__init__()
        self.quality = nn.Embedding(2, width) if quality else None
        if self.quality is not None:
            nn.init.zeros_(self.quality.weight)  # bad is as good, until it is told apart
        self.normalize = Normalize(spec.obs_mean, spec.obs_std)
        self.state = nn.Linear(spec.obs_dim, width)
        self.cameras = tuple(spec.images)
        self.eyes = Patches(spec.images, width=width, channels=channels) if spec.images else None
        self.words = nn.Embedding(FIRST + len(spec.vocabulary), width) if spec.vocabulary else None
        self.word_place = nn.Parameter(0.02 * torch.randn(WORDS, width)) if spec.vocabulary else None
        self.sentence = nn.Linear(spec.sentences.size, width) if spec.sentences else None

    def forward(self, obs: Observation) -> tuple[Tensor, Tensor]:
        """obs [B, O] → tokens [B, C, W], and which of them are there [B, C] bool."""
        state = self.state(self.normalize(obs.state))[:, None]
        tokens, masks = [state], [torch.ones_like(state[..., 0], dtype=torch.bool)]
        if self.eyes is not None:
            seen = self.eyes(obs.images)
            tokens.append(seen)
            masks.append(torch.ones_like(seen[..., 0], dtype=torch.bool))
        if self.words is not None:
            words = obs.text["tokens"]
            tokens.append(self.words(words) + self.word_place)
            masks.append(words != 0)
        if self.sentence is not None:
            meant = obs.text["sentence"]
            tokens.append(self.sentence(meant)[:, None])
            masks.append((meant != 0).any(-1, keepdim=True))  # zeros: nothing was said
        if self.quality is not None:
            told = obs.text.get("quality", torch.full_like(masks[0][:, 0], GOOD, dtype=torch.long))
            tokens.append(self.quality(told)[:, None])
            masks.append(torch.ones_like(masks[0]))
        # in float32 under autocast too: vmap makes of a layer norm of bfloat16 another type than the traced update had
        return torch.cat([t.float() for t in tokens], 1), torch.cat(masks, 1)


class Patches(nn.Module):
    """Images {camera: [B, H, W, 3] uint8} → a token for each patch of 16 × 16 pixels of each: [B, P, width].

    Four convolutions that halve the image, as transformers see better behind a few of them (Xiao et al. 2021,
    arXiv:2106.14881). Raises UserError where cameras have images of several sizes.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], *, width: int, channels: int):
        super().__init__()
        sizes = {tuple(shape) for shape in shapes.values()}
        if len(sizes) != 1:
            raise UserError(f"the cameras {', '.join(shapes)} must have images of one size")
        height, wide, _ = sizes.pop()
        self.cameras, inputs = tuple(shapes), 3
        self.convolutions = nn.ModuleList()
        for outputs in (channels, 2 * channels, 2 * channels, width):
            self.convolutions.append(nn.Conv2d(inputs, outputs, 3, 2, 1))
            inputs, height, wide = outputs, (height + 1) // 2, (wide + 1) // 2
        self.place = nn.Parameter(0.02 * torch.randn(len(self.cameras), height * wide, width))

    def forward(self, images: dict[str, Tensor]) -> Tensor:
        x = torch.stack([images[camera] for camera in self.cameras], 1)  # [B, cameras, H, W, 3]
        count = len(x)
        x = x.flatten(0, 1).movedim(-1, 1).float() / 255 - 0.5
        for i, convolution in enumerate(self.convolutions):
            x = convolution(x) if i == 3 else nn.functional.gelu(convolution(x))
        x = x.flatten(2).transpose(1, 2).unflatten(0, (count, -1))  # [B, cameras, patches, width]
        return (x + self.place).flatten(1, 2)


class ContextReader(nn.Module):
    """obs [..., O] → what one learnt query reads of all tokens, through a transformer: [..., width]."""

    def __init__(self, spec: Spec, *, width: int, layers: int, heads: int, channels: int):
        super().__init__()
        self.context = ContextTokens(spec, width=width, channels=channels)
        self.trunk = PrefixTransformer(width=width, layers=layers, heads=heads)
        self.query = nn.Parameter(0.02 * torch.randn(1, 1, width))

    def forward(self, obs: Observation) -> Tensor:
        lead = obs.state.shape[:-1]
        cache = self.trunk.read(*self.context(flatten(obs, len(lead))))
        hidden, _ = self.trunk.go_on(self.query.expand(len(cache.mask), -1, -1), cache, causal=False)
        return hidden[:, 0].view(*lead, -1)


def reads_instructions(spec: Spec, sentences: str | None) -> bool:
    """Whether a policy is told instructions. Raises UserError where their encoder is named and cannot be used.

    A policy that was saved has its data's embeddings, and needs no encoder; a run is checked before it has data.
    """
    if sentences and spec.sentences is None:
        find_encoder(sentences)
        if spec.max_steps > 1:
            raise UserError(f"policy.sentences={sentences} reads instructions, and the data have none encoded by it")
    return bool(spec.vocabulary or spec.sentences)


def flatten(obs: Observation, dims: int) -> Observation:
    """obs [..., O] with `dims` leading axes → [B, O]; of none, one is added."""

    def flat(x: Tensor) -> Tensor:
        return x.flatten(0, dims - 1) if dims else x[None]

    images, text = ({k: flat(v) for k, v in part.items()} for part in (obs.images, obs.text))
    return Observation(flat(obs.state), images, text)

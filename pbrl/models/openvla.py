"""OpenVLA's network and processor, for transformers 5, which no longer has the auto class that its checkpoints name.

Kim et al. 2024, arXiv:2406.09246; the network is Prismatic's (Karamcheti et al. 2024, arXiv:2402.07865): patches that
DINOv2 (Oquab et al. 2023, arXiv:2304.07193; registers: Darcet et al. 2023, arXiv:2309.16588) and SigLIP (Zhai et al.
2023, arXiv:2303.15343) see, side by side, projected among the words of a Llama 2. Names of parameters are those of the
checkpoints, whose encoders are timm's. Imported where `pip install pbrl[vla]` is known to be there.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

SHAPES: dict[str, dict[str, Any]] = {  # of timm's encoders, by the name that a checkpoint's config says
    "vit_large_patch14_reg4_dinov2.lvd142m": {
        "side": 224, "patch": 14, "width": 1024, "layers": 24, "heads": 16, "hidden": 4096, "registers": 4,
    },
    "vit_so400m_patch14_siglip_224": {
        "side": 224, "patch": 14, "width": 1152, "layers": 27, "heads": 16, "hidden": 4304, "registers": None,
    },
}  # fmt: skip


class OpenVLAConfig(PreTrainedConfig):
    """What config.json says; `encoders` are the shapes of those that `timm_model_ids` name, unless it says them too."""

    model_type = "openvla"
    sub_configs = {"text_config": LlamaConfig}  # pyright: ignore[reportAssignmentType]
    text_config: Any = None
    timm_model_ids: Any = None
    encoders: Any = None
    norm_stats: Any = None

    def __post_init__(self, **kwargs: Any) -> None:
        given = self.text_config or {}
        self.text_config = given if isinstance(given, PreTrainedConfig) else LlamaConfig(**given)
        self.encoders = self.encoders or [SHAPES[name] for name in self.timm_model_ids or SHAPES]
        super().__post_init__(**kwargs)


class LayerScale(nn.Module):
    """A factor for each of `width` numbers."""

    def __init__(self, width: int):
        super().__init__()
        self.scale_factor = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale_factor


class Attention(nn.Module):
    """Every patch attends to all."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(x).chunk(3, -1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        return self.proj(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class TwoLayers(nn.Module):
    """width → hidden → width."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(nn.functional.gelu(self.fc1(x)))


class Block(nn.Module):
    """Attention and a two-layer MLP, each normalised before, and scaled after where the encoder does so."""

    def __init__(self, width: int, heads: int, hidden: int, scales: bool):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn, self.mlp = Attention(width, heads), TwoLayers(width, hidden)
        self.ls1, self.ls2 = (LayerScale(width) if scales else nn.Identity() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class Patches(nn.Module):
    """Pictures [B, 3, H, W] → [B, P, width] by a convolution that does not overlap."""

    def __init__(self, width: int, patch: int):
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, patch)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class Encoder(nn.Module):
    """Pictures [B, 3, H, W] → what the last block but one makes of their patches: [B, P, width], not normalised.

    With `registers` (DINOv2) there are a class token and so many more before the patches, which are left out, and
    blocks have scales.
    """

    def __init__(
        self, *, side: int, patch: int, width: int, layers: int, heads: int, hidden: int, registers: int | None
    ):
        super().__init__()
        self.patch_embed = Patches(width, patch)
        self.pos_embed = nn.Parameter(torch.zeros(1, (side // patch) ** 2, width))
        self.extra = 0
        if registers is not None:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
            self.reg_token = nn.Parameter(torch.zeros(1, registers, width))
            self.extra = 1 + registers
        self.blocks = nn.ModuleList(Block(width, heads, hidden, registers is not None) for _ in range(layers))

    def forward(self, pictures: Tensor) -> Tensor:
        x = self.patch_embed(pictures) + self.pos_embed
        if self.extra:
            before = [token.expand(len(x), -1, -1) for token in (self.cls_token, self.reg_token)]
            x = torch.cat([*before, x], 1)
        for block in self.blocks[:-1]:
            x = block(x)
        return x[:, self.extra :]


class Encoders(nn.Module):
    """Pictures [B, 3 N, H, W], as each of N encoders wants them → their patches side by side: [B, P, W]."""

    def __init__(self, shapes: Sequence[dict[str, Any]]):
        super().__init__()
        self.featurizer = Encoder(**shapes[0])
        self.fused_featurizer = Encoder(**shapes[1]) if len(shapes) > 1 else None
        self.width = sum(shape["width"] for shape in shapes)

    def forward(self, pictures: Tensor) -> Tensor:
        first = self.featurizer(pictures[:, :3])
        return first if self.fused_featurizer is None else torch.cat([first, self.fused_featurizer(pictures[:, 3:])], 2)


class Projector(nn.Module):
    """Patches [B, P, W] → words [B, P, width]; of two encoders by three layers, of one by two."""

    def __init__(self, inputs: int, width: int, fused: bool):
        super().__init__()
        hidden = 4 * inputs if fused else width
        self.fc1, self.fc2 = nn.Linear(inputs, hidden), nn.Linear(hidden, width)
        self.fc3 = nn.Linear(width, width) if fused else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc2(nn.functional.gelu(self.fc1(x)))
        return x if self.fc3 is None else self.fc3(nn.functional.gelu(x))


class OpenVLA(PreTrainedModel):
    """Reads a picture and words: the first word, the patches, the other words. Called as models of transformers are."""

    config_class = OpenVLAConfig
    _supports_sdpa = True
    _keys_to_ignore_on_load_unexpected = [r"featurizer\.(norm|attn_pool)\."]  # timm's, which nothing reads

    def __init__(self, config: OpenVLAConfig):
        super().__init__(config)
        self.vision_backbone = Encoders(config.encoders)
        self.projector = Projector(self.vision_backbone.width, config.text_config.hidden_size, len(config.encoders) > 1)
        self.language_model = LlamaForCausalLM(config.text_config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def get_output_embeddings(self) -> Any:
        return self.language_model.get_output_embeddings()

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, pixel_values: Tensor | None = None, **more: Any
    ) -> Any:
        """The Llama's output; without pictures, words go on from `cache`."""
        return self.language_model(**self.embed(input_ids, attention_mask, pixel_values), **more)

    def base_model_forward(self, input_ids: Tensor, attention_mask: Tensor, pixel_values: Tensor, **more: Any) -> Any:
        """The same without logits."""
        return self.language_model.model(**self.embed(input_ids, attention_mask, pixel_values), **more)

    @property
    def base_model(self) -> Any:
        return self.base_model_forward

    def embed(self, input_ids: Tensor, attention_mask: Tensor, pixel_values: Tensor | None) -> dict[str, Tensor]:
        """Words [B, N], padded on their left, and pictures → what the Llama reads, and its mask."""
        words = self.get_input_embeddings()(input_ids)
        if pixel_values is None:
            return {"inputs_embeds": words, "attention_mask": attention_mask}
        patches = self.projector(self.vision_backbone(pixel_values))
        count, length = patches.shape[1], words.shape[1]
        place = torch.arange(count + length, device=words.device)
        first = attention_mask.argmax(1, keepdim=True)  # the first word
        after = torch.where(place <= first + count, length + place - first - 1, place - count)
        index = torch.where(place <= first, place, after)  # [B, N + P] places in words and then patches
        both = torch.cat([words, patches], 1).gather(1, index[..., None].expand(-1, -1, words.shape[-1]))
        mask = torch.cat([attention_mask, attention_mask.new_ones(len(words), count)], 1).gather(1, index)
        return {"inputs_embeds": both, "attention_mask": mask}


class OpenVLAProcessor:
    """Its tokenizer, and pictures as its encoders want them: resized without their ratio, each with its colors."""

    def __init__(self, tokenizer: Any, *, sizes: Sequence[Sequence[int]], means: Sequence, stds: Sequence):
        self.tokenizer, self.sizes, self.means, self.stds = tokenizer, sizes, means, stds

    @classmethod
    def from_pretrained(cls, folder: Path, **_: Any) -> "OpenVLAProcessor":
        """From tokenizer.json and preprocessor_config.json."""
        given = json.loads((Path(folder) / "preprocessor_config.json").read_text())
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
        return cls(tokenizer, sizes=given["input_sizes"], means=given["means"], stds=given["stds"])

    def __call__(self, *, text: Sequence[str], images: Sequence[Sequence[Any]], **padding: Any) -> dict[str, Tensor]:
        if any(len(row) != 1 for row in images):
            raise ValueError(f"OpenVLA sees through one camera, and was given {len(images[0])}")
        found = self.tokenizer(list(text), **padding)
        pictures = torch.stack([self.picture(row[0]) for row in images])
        return {"input_ids": found["input_ids"], "attention_mask": found["attention_mask"], "pixel_values": pictures}

    def picture(self, image: Any) -> Tensor:
        """A PIL image → [3 N, H, W] for N encoders."""
        parts = []
        for (_, height, width), mean, std in zip(self.sizes, self.means, self.stds, strict=True):
            small = np.asarray(image.resize((width, height), resample=3), np.float32) / 255  # 3: bicubic
            colors = (small - np.array(mean, np.float32)) / np.array(std, np.float32)
            parts.append(torch.from_numpy(colors).movedim(-1, 0))
        return torch.cat(parts)

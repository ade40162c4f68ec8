"""Our OpenVLA against transformers' own encoders and Llama, and against what is published of its sizes and names."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

pytest.importorskip("peft", reason="needs peft: pip install -e '.[vla]'")

import transformers as hf
from safetensors.torch import load_file

from pbrl.models.hf_backbone import Checkpoint, VisionLanguageModel, add_lora
from pbrl.models.openvla import Encoder, OpenVLA, OpenVLAConfig, OpenVLAProcessor
from pbrl.models.policy import load_policy, save_policy
from pbrl.types import UserError
from tests.models.test_hf_vla import ONE, SPEC, STATISTICS, clone, observe, token_vla
from tests.models.vision_language import FAMILIES

PUBLISHED = {"text_config": {"model_type": "llama", "pad_token_id": 32000, "vocab_size": 32064},
             "timm_model_ids": ["vit_large_patch14_reg4_dinov2.lvd142m", "vit_so400m_patch14_siglip_224"]}  # fmt: skip
UNREAD = 2 * 1024 + 2 * 1152 + 15_238_352  # numbers of timm's last norms, and of SigLIP's attention pooling
SHAPE = {"side": 28, "patch": 14, "width": 32, "layers": 3, "heads": 2, "hidden": 64}
SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 28, "patch_size": 14,
         "hidden_act": "gelu", "layer_norm_eps": 1e-6, "attn_implementation": "eager"}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("openvla") / "openvla"
    FAMILIES["openvla"](found)
    (found / "dataset_statistics.json").write_text(json.dumps(STATISTICS))
    return found


def encoder(registers: int | None) -> Encoder:
    torch.manual_seed(0)
    made = Encoder(**SHAPE, registers=registers).eval()
    for p in made.parameters():
        p.data = 0.3 * torch.randn(p.shape)
    return made


def rename(state: dict[str, Tensor], names: dict[str, str], block: str, blocks: dict[str, str]) -> dict[str, Tensor]:
    """timm's names → transformers', where queries, keys and values are apart. A block's names begin with `block`."""
    found = {}
    for name, value in state.items():
        if not name.startswith("blocks."):
            found[names[name]] = value
            continue
        _, i, rest = name.split(".", 2)
        part, kind = rest.rsplit(".", 1)
        if part == "attn.qkv":
            for letter, own in zip(("query", "key", "value"), value.chunk(3), strict=True):
                found[f"{block}.{i}.{blocks[letter]}.{kind}"] = own
        else:
            found[f"{block}.{i}.{blocks[part]}" + ("" if kind == "scale_factor" else f".{kind}")] = value
    return found


def test_dinov2_is_transformers_own():
    ours = encoder(4)
    state = dict(ours.state_dict())
    state["pos_embed"] = torch.cat([torch.zeros(1, 1, 32), state["pos_embed"]], 1)  # theirs adds one to the class too
    names = {"cls_token": "embeddings.cls_token", "reg_token": "embeddings.register_tokens",
             "pos_embed": "embeddings.position_embeddings",
             "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
             "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias"}  # fmt: skip
    blocks = {"norm1": "norm1", "norm2": "norm2", "query": "attention.q_proj",
              "key": "attention.k_proj", "value": "attention.v_proj",
              "attn.proj": "attention.o_proj", "ls1": "layer_scale1.lambda1", "ls2": "layer_scale2.lambda1",
              "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}  # fmt: skip
    config = hf.Dinov2WithRegistersConfig(mlp_ratio=2, num_register_tokens=4, **SIZES)
    theirs = hf.Dinov2WithRegistersModel(config).eval()
    compare(ours, theirs, rename(state, names, block_of(theirs), blocks), extra=5)


def test_siglip_is_transformers_own():
    ours = encoder(None)
    state = dict(ours.state_dict())
    state["pos_embed"] = state["pos_embed"][0]
    names = {"pos_embed": "embeddings.position_embedding.weight",
             "patch_embed.proj.weight": "embeddings.patch_embedding.weight",
             "patch_embed.proj.bias": "embeddings.patch_embedding.bias"}  # fmt: skip
    blocks = {"norm1": "layer_norm1", "norm2": "layer_norm2", "query": "self_attn.q_proj", "key": "self_attn.k_proj",
              "value": "self_attn.v_proj", "attn.proj": "self_attn.out_proj", "mlp.fc1": "mlp.fc1",
              "mlp.fc2": "mlp.fc2"}  # fmt: skip
    theirs = hf.SiglipVisionModel(hf.SiglipVisionConfig(intermediate_size=64, vision_use_head=False, **SIZES)).eval()
    compare(ours, theirs, rename(state, names, block_of(theirs), blocks), extra=0)


def block_of(model: Any) -> str:
    """How the names of a model's blocks begin."""
    name = next(name for name in model.state_dict() if ".0." in name)
    return name.split(".0.")[0]


def compare(ours: Encoder, theirs: Any, state: dict[str, Tensor], extra: int) -> None:
    """Both see the same in pictures, with the same weights."""
    found = theirs.load_state_dict(state, strict=False)
    assert not found.unexpected_keys and len(found.missing_keys) <= 3  # the last norm, and a token of masks
    pictures = torch.randn(2, 3, 28, 28)
    with torch.no_grad():
        seen = theirs(pictures, output_hidden_states=True).hidden_states[-2][:, extra:]
        torch.testing.assert_close(ours(pictures), seen, atol=1e-4, rtol=1e-4)
    assert seen.std() > 0.1


def test_the_patches_stand_after_the_first_word(folder):
    """An unpadded prompt, put together here, as OpenVLA's paper has it; a padded one says the same."""
    files = Checkpoint(str(folder), prompt="<s>In: {instruction}?\nOut:", image_token=None)
    vlm = VisionLanguageModel(files, rank=1, alpha=1, dtype="float32", at_once=8, head=True)
    pictures = np.random.default_rng(0).integers(0, 256, (2, 30, 40, 3), dtype=np.uint8)
    inputs = vlm.inputs([[picture] for picture in pictures], ["press the button", "press"])
    model = vlm.model
    with torch.no_grad():
        words = model.get_input_embeddings()(inputs["input_ids"][:1])
        patches = model.projector(model.vision_backbone(inputs["pixel_values"][:1]))
        assert patches.shape == (1, 4, 32) and inputs["input_ids"][0, 0] == 1
        whole = torch.cat([words[:, :1], patches, words[:, 1:]], 1)
        alone = model.language_model(inputs_embeds=whole).logits[:, -1]
        both, cache = vlm.read(inputs)
        short = vlm.inputs([[pictures[1]]], ["press"])
        torch.testing.assert_close(both[:1, 0], alone, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(both[1:], vlm.read(short)[0], atol=1e-4, rtol=1e-4)
    assert short["input_ids"].shape[1] < inputs["input_ids"].shape[1] and cache.get_seq_length() == whole.shape[1]


def test_pictures_have_each_encoders_colors(folder):
    processor = OpenVLAProcessor.from_pretrained(folder)
    grey = Image.fromarray(np.full((30, 40, 3), 51, np.uint8))  # 0.2
    found = processor.picture(grey)
    expected = [(0.2 - mean) / std for mean, std in ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))] + 3 * [-0.6]
    torch.testing.assert_close(found, torch.tensor(expected)[:, None, None].expand(6, 28, 28), atol=1e-5, rtol=1e-5)


def test_the_published_model_has_its_published_size():
    """7,541,237,184 parameters with all of timm's; 110,828,288 of LoRA of rank 32, convolutions included."""
    with torch.device("meta"):
        model = OpenVLA(OpenVLAConfig(**PUBLISHED))
    assert sum(p.numel() for p in model.parameters()) + UNREAD == 7_541_237_184
    add_lora(model, rank=32, alpha=16, head=True)
    pooling, convolutions = 607_232, 32 * (2 * 588 + 1024 + 1152)
    ours = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert ours + pooling + convolutions == 110_828_288


def test_names_are_those_of_checkpoints(folder):
    names = set(load_file(folder / "model.safetensors"))
    assert {
        "vision_backbone.featurizer.cls_token", "vision_backbone.featurizer.reg_token",
        "vision_backbone.featurizer.pos_embed", "vision_backbone.featurizer.patch_embed.proj.weight",
        "vision_backbone.featurizer.blocks.0.ls1.scale_factor", "vision_backbone.featurizer.blocks.2.attn.qkv.weight",
        "vision_backbone.fused_featurizer.blocks.0.mlp.fc1.weight", "vision_backbone.featurizer.norm.weight",
        "projector.fc3.bias", "language_model.model.layers.0.self_attn.q_proj.weight", "language_model.lm_head.weight",
    } <= names  # fmt: skip
    assert not any("fused_featurizer" in name and ("ls1" in name or "token" in name) for name in names)


def test_it_sees_through_one_camera(folder):
    with pytest.raises(UserError, match="one camera, and was given 2"):
        token_vla(folder, SPEC)


def test_it_is_cloned_saved_and_read_again(folder, tmp_path):
    policy = token_vla(folder, ONE)
    losses = clone(policy, 5)
    assert losses[-1] < losses[0]
    save_policy(policy, tmp_path / "policy.pt")
    assert torch.equal(load_policy(tmp_path).plan(observe(3)), policy.plan(observe(3)))

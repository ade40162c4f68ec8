"""Tiny random vision-language models, saved as real ones are: config, weights, tokenizer and processor in a folder.

A word is a byte, so that instructions are of many lengths, and 256 words after the bytes are there for actions.
"""

import json
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders
from tokenizers import models as kinds
from tokenizers.pre_tokenizers import ByteLevel

BYTES = ["<pad>", "<s>", "</s>", *sorted(ByteLevel.alphabet())]
WORDS = [*BYTES, *(f"<spare {i}>" for i in range(256))]
SHAPE = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
         "initializer_range": 0.2}  # fmt: skip
VISION = {**SHAPE, "image_size": 32, "patch_size": 8}
TEXT = {**SHAPE, "num_key_value_heads": 1, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def tokenizer(**special: str) -> Any:
    """Words for bytes and actions, and after them those that are special."""
    words = Tokenizer(kinds.BPE({word: i for i, word in enumerate(WORDS)}, []))
    words.pre_tokenizer, words.decoder = ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>", extra_special_tokens=special
    )


def llava(folder: Path) -> None:
    """LLaVA: CLIP's features of the last layer but one, projected, among the words of a Llama."""
    words = tokenizer(image_token="<image>")
    config = hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(image_size=28, patch_size=14, **SHAPE),
        text_config=hf.LlamaConfig(vocab_size=len(words) + 4, **TEXT),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        image_seq_length=4,
    )
    save(hf.LlavaForConditionalGeneration, config, folder)
    pictures = hf.CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    hf.LlavaProcessor(
        pictures, words, patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1
    ).save_pretrained(folder)


def idefics3(
    folder: Path, vision: dict[str, Any] = VISION, text: dict[str, Any] = TEXT, scale: int = 2, rows: int = 4
) -> None:
    """Idefics3, of which SmolVLM 256M and 500M are: SigLIP's features, `scale` squared in one, among a Llama's words.

    `rows` more words than the tokenizer has.
    """
    marks = {"image": "<image>", "fake_image": "<fake_token_around_image>", "global_image": "<global-img>",
             "end_of_utterance": "<end_of_utterance>"}  # fmt: skip
    words = tokenizer(**{f"{name}_token": mark for name, mark in marks.items()})
    config = hf.Idefics3Config(
        vision_config=hf.Idefics3VisionConfig(**vision).to_dict(),
        text_config=hf.LlamaConfig(vocab_size=len(words) + rows, **text).to_dict(),
        image_token_id=words.convert_tokens_to_ids("<image>"),
        scale_factor=scale,
        pad_token_id=0,
    )
    save(hf.Idefics3ForConditionalGeneration, config, folder)
    sides = {"longest_edge": vision["image_size"]}
    pictures = hf.Idefics3ImageProcessorPil(size=sides, max_image_size=sides, do_image_splitting=False)
    count = (vision["image_size"] // vision["patch_size"] // scale) ** 2
    hf.Idefics3Processor(pictures, words, image_seq_len=count).save_pretrained(folder)


def paligemma(folder: Path) -> None:
    """PaliGemma, of which pi0 is: SigLIP and a Gemma that reads its prompt in both directions."""
    words = tokenizer(image_token="<image>")
    config = hf.PaliGemmaConfig(
        vision_config=hf.SiglipVisionConfig(image_size=28, patch_size=14, projection_dim=32, **SHAPE).to_dict(),
        text_config=hf.GemmaConfig(vocab_size=len(words) + 1200, head_dim=16, **TEXT).to_dict(),  # 1152 places, marks
        image_token_index=words.convert_tokens_to_ids("<image>"),
        projection_dim=32,
    )
    save(hf.PaliGemmaForConditionalGeneration, config, folder)
    pictures = hf.SiglipImageProcessorPil(size={"height": 28, "width": 28})
    pictures.image_seq_length = 4
    hf.PaliGemmaProcessor(pictures, words).save_pretrained(folder)


def openvla(folder: Path) -> None:
    """OpenVLA, as its published checkpoints are laid out: by the names of timm's encoders, and with parts of theirs
    that nothing reads."""
    from pbrl.models.openvla import OpenVLA, OpenVLAConfig

    words = tokenizer()
    words.save_pretrained(folder)
    shape = {"side": 28, "patch": 14, "width": 32, "layers": 3, "heads": 2, "hidden": 48}
    encoders = [{**shape, "registers": 4}, {**shape, "width": 48, "registers": None}]
    text = {"model_type": "llama", "vocab_size": len(words) + 4, **TEXT}
    save(OpenVLA, OpenVLAConfig(text_config=text, encoders=encoders), folder)
    file = folder / "model.safetensors"
    unread = {f"vision_backbone.{name}.norm.weight": torch.ones(32) for name in ("featurizer", "fused_featurizer")}
    save_file({**load_file(file), **unread}, file, {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    theirs = {"AutoModelForVision2Seq": "modeling_prismatic.OpenVLAForActionPrediction"}
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": theirs, "norm_stats": {}}))
    colors = {"means": [[0.485, 0.456, 0.406], [0.5] * 3], "stds": [[0.229, 0.224, 0.225], [0.5] * 3]}
    (folder / "preprocessor_config.json").write_text(json.dumps({"input_sizes": [[3, 28, 28]] * 2, **colors}))


def save(kind: Any, config: Any, folder: Path) -> None:
    """A model of random weights, the same each time."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        kind(config).save_pretrained(folder)


FAMILIES = {"llava": llava, "idefics3": idefics3, "paligemma": paligemma, "openvla": openvla}

"""`python -m tests.vlm.servers.transformers_serve FOLDER PORT`: the server, with a tiny LLaVA that is made there.

In one process, since importing transformers is what takes the time.
"""

import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders
from tokenizers import models as kinds
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from tests.vlm.servers import wiring as w

SPECIAL = ["<pad>", "<s>", "</s>", "<image>"]
VOCABULARY = {word: i for i, word in enumerate([*SPECIAL, *sorted(ByteLevel.alphabet())])}  # a token is a byte
TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}<image>{% endif %}{% endfor %}{% endfor %}"
)


def make(folder: Path) -> None:
    """Writes the model and its processor."""
    torch.manual_seed(0)
    shape = {"intermediate_size": w.HIDDEN, "num_hidden_layers": w.LAYERS, "num_attention_heads": w.HEADS}
    eyes = CLIPVisionConfig(hidden_size=w.WIDTH, image_size=w.SIDE, patch_size=w.PATCH, **shape)
    words = LlamaConfig(hidden_size=w.WIDTH, vocab_size=len(VOCABULARY), max_position_embeddings=8192, pad_token_id=0,
                        bos_token_id=1, eos_token_id=2, **shape)  # fmt: skip
    image = VOCABULARY["<image>"]
    config = LlavaConfig(
        vision_config=eyes, text_config=words, image_token_index=image, image_seq_length=(w.SIDE // w.PATCH) ** 2
    )
    model = LlavaForConditionalGeneration(config)
    with torch.no_grad():
        wire(model)
    model.save_pretrained(folder)
    make_processor().save_pretrained(folder)


def make_processor() -> LlavaProcessor:
    """Bytes and small pictures."""
    tokenizer = Tokenizer(kinds.BPE(VOCABULARY, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>",
        extra_special_tokens={"image_token": "<image>"},
    )  # fmt: skip
    size = {"shortest_edge": w.SIDE}
    pictures = CLIPImageProcessorPil(size=size, crop_size={"height": w.SIDE, "width": w.SIDE})
    return LlavaProcessor(pictures, fast, patch_size=w.PATCH, vision_feature_select_strategy="default",
                          num_additional_image_tokens=1, chat_template=TEMPLATE)  # fmt: skip


def wire(model: LlavaForConditionalGeneration) -> None:
    """See wiring.py."""
    for name, weight in model.named_parameters():
        if weight.dim() > 1:
            weight.normal_(0, w.SPREAD)
        elif "norm" not in name:
            weight.zero_()
    llama, last = model.model.language_model, model.model.multi_modal_projector.linear_2
    digits = [VOCABULARY["1"], VOCABULARY["2"]]
    places = [w.ALWAYS, w.AFTER_DIGIT]
    for layer in llama.layers:
        layer.self_attn.o_proj.weight[places] = layer.mlp.down_proj.weight[places] = 0
    last.weight[places], last.bias[w.ALWAYS] = 0, w.ALWAYS_VALUE
    tokens, logits = llama.embed_tokens.weight, model.lm_head.weight
    tokens.normal_(0, 1)
    tokens[:, w.ALWAYS], tokens[:, w.AFTER_DIGIT] = w.ALWAYS_VALUE, 0
    tokens[digits, w.AFTER_DIGIT] = w.AFTER_DIGIT_VALUE
    logits.normal_(0, w.WORD_SPREAD)
    logits[digits[1]] = -logits[digits[0]]
    logits[:, places] = 0
    logits[digits, w.ALWAYS] = w.DIGIT_GAIN
    logits[VOCABULARY["</s>"]] = 0
    logits[VOCABULARY["</s>"], w.AFTER_DIGIT] = w.END_GAIN


if __name__ == "__main__":
    from transformers.cli.transformers import main

    model_folder, port = sys.argv[1:]
    make(Path(model_folder))
    sys.argv = ["transformers", "serve", model_folder, "--device", "cpu", "--host", "127.0.0.1", "--port", port]
    main()

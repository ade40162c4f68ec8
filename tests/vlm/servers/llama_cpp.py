"""`python -m tests.vlm.servers.llama_cpp FOLDER PORT`: llama.cpp's server, with a tiny LLaVA that is made there."""

import sys
from pathlib import Path

import gguf
import numpy as np

from tests.vlm.servers import wiring as w

CONTROL = ["<unk>", "<s>", "</s>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
LETTERS = ["▁", *map(chr, range(33, 127))]
TOKENS = [*CONTROL, *BYTES, *LETTERS]
SLOTS, CONTEXT = 4, 4096  # requests at once, and the most tokens of each
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def make(folder: Path) -> None:
    """Writes words.gguf and eyes.gguf, the projector file."""
    random = np.random.default_rng(0)
    write_words(folder / "words.gguf", random)
    write_eyes(folder / "eyes.gguf", random)


def write_words(path: Path, random: np.random.Generator) -> None:
    """A Llama whose tokens are letters and bytes."""
    file = gguf.GGUFWriter(path, "llama")
    file.add_context_length(CONTEXT)
    file.add_embedding_length(w.WIDTH)
    file.add_block_count(w.LAYERS)
    file.add_feed_forward_length(w.HIDDEN)
    file.add_head_count(w.HEADS)
    file.add_head_count_kv(w.HEADS)
    file.add_layer_norm_rms_eps(1e-5)
    file.add_rope_dimension_count(w.WIDTH // w.HEADS)
    kind = gguf.TokenType
    types = [kind.UNKNOWN, kind.CONTROL, kind.CONTROL, *[kind.BYTE] * 256, *[kind.NORMAL] * len(LETTERS)]
    file.add_tokenizer_model("llama")
    file.add_token_list(TOKENS)
    file.add_token_scores([0.0] * len(TOKENS))
    file.add_token_types(types)
    file.add_unk_token_id(0)
    file.add_bos_token_id(1)
    file.add_eos_token_id(2)
    file.add_chat_template(TEMPLATE)
    for name, weight in wired_words(random).items():
        file.add_tensor(f"{name}.weight", weight.astype(np.float32))
    write(file)


def wired_words(random: np.random.Generator) -> dict[str, np.ndarray]:
    """See wiring.py."""
    places, digits, end = [w.ALWAYS, w.AFTER_DIGIT], [TOKENS.index("1"), TOKENS.index("2")], TOKENS.index("</s>")
    tokens = random.normal(0, 1, (len(TOKENS), w.WIDTH))
    tokens[:, w.ALWAYS], tokens[:, w.AFTER_DIGIT] = w.ALWAYS_VALUE, 0
    tokens[digits, w.AFTER_DIGIT] = w.AFTER_DIGIT_VALUE
    logits = random.normal(0, w.WORD_SPREAD, tokens.shape)
    logits[digits[1]] = -logits[digits[0]]
    logits[:, places] = logits[end] = 0
    logits[digits, w.ALWAYS], logits[end, w.AFTER_DIGIT] = w.DIGIT_GAIN, w.END_GAIN
    found = {"token_embd": tokens, "output": logits, "output_norm": np.ones(w.WIDTH)}
    for layer in range(w.LAYERS):
        own = {name: random.normal(0, w.SPREAD, (w.WIDTH, w.WIDTH)) for name in ("attn_q", "attn_k", "attn_v")}
        own |= {name: random.normal(0, w.SPREAD, (w.HIDDEN, w.WIDTH)) for name in ("ffn_gate", "ffn_up")}
        writes = {"attn_output": w.WIDTH, "ffn_down": w.HIDDEN}
        own |= {name: random.normal(0, w.SPREAD, (w.WIDTH, width)) for name, width in writes.items()}
        for name in writes:
            own[name][places] = 0
        own |= dict.fromkeys(("attn_norm", "ffn_norm"), np.ones(w.WIDTH))
        found |= {f"blk.{layer}.{name}": weight for name, weight in own.items()}
    return found


def write_eyes(path: Path, random: np.random.Generator) -> None:
    """CLIP's vision transformer, and LLaVA's two layers behind it."""
    file = gguf.GGUFWriter(path, "clip")
    file.add_bool("clip.has_vision_encoder", True)
    file.add_bool("clip.use_gelu", True)
    file.add_string("clip.projector_type", "mlp")
    sizes = {"image_size": w.SIDE, "patch_size": w.PATCH, "embedding_length": w.WIDTH, "projection_dim": w.WIDTH,
             "feed_forward_length": w.HIDDEN, "block_count": w.LAYERS, "attention.head_count": w.HEADS}  # fmt: skip
    for name, size in sizes.items():
        file.add_uint32(f"clip.vision.{name}", size)
    file.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-5)
    for name in ("image_mean", "image_std"):
        file.add_array(f"clip.vision.{name}", [0.5, 0.5, 0.5])
    shapes = {"v.class_embd": (w.WIDTH,), "v.position_embd.weight": ((w.SIDE // w.PATCH) ** 2 + 1, w.WIDTH),
              "v.patch_embd.weight": (w.WIDTH, 3, w.PATCH, w.PATCH)}  # fmt: skip
    layers = {"mm.0": (w.WIDTH, w.WIDTH), "mm.2": (w.WIDTH, w.WIDTH)}
    for layer in range(w.LAYERS):
        each = {"attn_q": w.WIDTH, "attn_k": w.WIDTH, "attn_v": w.WIDTH, "attn_out": w.WIDTH}
        layers |= {f"v.blk.{layer}.{name}": (width, w.WIDTH) for name, width in each.items()}
        layers |= {f"v.blk.{layer}.ffn_up": (w.HIDDEN, w.WIDTH), f"v.blk.{layer}.ffn_down": (w.WIDTH, w.HIDDEN)}
    weights = {name: random.normal(0, w.SPREAD, shape) for name, shape in shapes.items()}
    for name, shape in layers.items():
        weights |= {f"{name}.weight": random.normal(0, w.SPREAD, shape), f"{name}.bias": np.zeros(shape[0])}
    for name in ("v.pre_ln", *(f"v.blk.{layer}.{norm}" for layer in range(w.LAYERS) for norm in ("ln1", "ln2"))):
        weights |= {f"{name}.weight": np.ones(w.WIDTH), f"{name}.bias": np.zeros(w.WIDTH)}
    weights["mm.2.weight"][[w.ALWAYS, w.AFTER_DIGIT]] = 0
    weights["mm.2.bias"][w.ALWAYS] = w.ALWAYS_VALUE
    for name, weight in weights.items():
        file.add_tensor(name, weight.astype(np.float32))
    write(file)


def write(file: gguf.GGUFWriter) -> None:
    """All that was added."""
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()


def serve(folder: Path, port: int) -> None:
    """Until standard input ends, with llama-server's own defaults but for the threads."""
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path, settings.mmproj.path = str(folder / "words.gguf"), str(folder / "eyes.gguf")
    settings.hostnames, settings.port = ["127.0.0.1"], port
    settings.n_parallel, settings.n_ctx = SLOTS, SLOTS * CONTEXT
    settings.cpuparams.n_threads = 1
    running = xllamacpp.Server(settings)
    print(running.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    make(Path(sys.argv[1]))
    serve(Path(sys.argv[1]), int(sys.argv[2]))

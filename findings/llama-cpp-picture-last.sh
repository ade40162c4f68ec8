#!/usr/bin/env bash
# llama.cpp's server (xllamacpp 2026.10.11549): a prompt that ends with a picture and is in the cache is answered with 500.
#
# A good guess: a prompt whose beginning was asked before is answered from the cached part, as it is with text. Seen:
# where no word follows the picture, as with a chat template without a generation prompt, and another prompt began alike,
# each request gets 500 "Chunk not found": a client that tries 500 again never gets there. With a word after the picture
# all are answered.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet xllamacpp==2026.10.11549 gguf==0.19.0 numpy==2.3.5 pillow==13.0.0
cat > "$folder/show.py" <<'PYTHON'
import base64
import io
import json
import sys
import urllib.error
import urllib.request

import gguf
import numpy as np
import xllamacpp
from PIL import Image

folder, size, hidden, layers, patch = sys.argv[1], 32, 64, 2, 14
random = np.random.default_rng(0)


def save(file, weights):
    for name, shape in weights.items():
        plain = name.endswith("norm.weight") or "ln" in name
        file.add_tensor(name, np.ones(shape, np.float32) if plain else random.normal(0, 0.3, shape).astype(np.float32))
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()


words, kind = gguf.GGUFWriter(f"{folder}/words.gguf", "llama"), gguf.TokenType
tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
words.add_context_length(1024), words.add_embedding_length(size), words.add_block_count(layers)
words.add_feed_forward_length(hidden), words.add_head_count(2), words.add_head_count_kv(2)
words.add_layer_norm_rms_eps(1e-5), words.add_rope_dimension_count(size // 2)
words.add_tokenizer_model("llama"), words.add_token_list(tokens), words.add_token_scores([0.0] * len(tokens))
words.add_token_types([kind.UNKNOWN, kind.CONTROL, kind.CONTROL, *[kind.BYTE] * 256])
words.add_unk_token_id(0), words.add_bos_token_id(1), words.add_eos_token_id(2)
words.add_chat_template("{% for message in messages %}{{ message['content'] }}{% endfor %}")
shapes = {"token_embd.weight": (len(tokens), size), "output.weight": (len(tokens), size), "output_norm.weight": size}
for i in range(layers):
    shapes |= {f"blk.{i}.{n}.weight": (size, size) for n in ("attn_q", "attn_k", "attn_v", "attn_output")}
    shapes |= {f"blk.{i}.{n}.weight": (hidden, size) for n in ("ffn_gate", "ffn_up")}
    shapes |= {f"blk.{i}.ffn_down.weight": (size, hidden), f"blk.{i}.attn_norm.weight": size, f"blk.{i}.ffn_norm.weight": size}
save(words, shapes)

eyes = gguf.GGUFWriter(f"{folder}/eyes.gguf", "clip")
eyes.add_bool("clip.has_vision_encoder", True), eyes.add_bool("clip.use_gelu", True)
eyes.add_string("clip.projector_type", "mlp")
for name, value in {"image_size": 56, "patch_size": patch, "embedding_length": size, "projection_dim": size,
                    "feed_forward_length": hidden, "block_count": layers, "attention.head_count": 2}.items():
    eyes.add_uint32(f"clip.vision.{name}", value)
eyes.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-5)
eyes.add_array("clip.vision.image_mean", [0.5] * 3), eyes.add_array("clip.vision.image_std", [0.5] * 3)
square = {n: (size, size) for n in ("mm.0", "mm.2")}
for i in range(layers):
    square |= {f"v.blk.{i}.{n}": (size, size) for n in ("attn_q", "attn_k", "attn_v", "attn_out")}
    square |= {f"v.blk.{i}.ffn_up": (hidden, size), f"v.blk.{i}.ffn_down": (size, hidden)}
shapes = {"v.class_embd": size, "v.position_embd.weight": (17, size), "v.patch_embd.weight": (size, 3, patch, patch)}
for name, shape in square.items():
    shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[0]}
for name in ("v.pre_ln", *(f"v.blk.{i}.ln{k}" for i in range(layers) for k in (1, 2))):
    shapes |= {f"{name}.weight": size, f"{name}.bias": size}
save(eyes, shapes)

settings = xllamacpp.CommonParams()
settings.model.path, settings.mmproj.path = f"{folder}/words.gguf", f"{folder}/eyes.gguf"
settings.hostnames, settings.port, settings.n_ctx = ["127.0.0.1"], 0, 1024
server = xllamacpp.Server(settings)
png = io.BytesIO()
Image.new("RGB", (56, 56), "red").save(png, "PNG")
url = "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()
picture = {"type": "image_url", "image_url": {"url": url}}


def ask(*parts):
    body = {"messages": [{"role": "user", "content": list(parts)}], "max_tokens": 4, "temperature": 0}
    request = urllib.request.Request(f"{server.listening_address}/v1/chat/completions", json.dumps(body).encode(),
                                     {"content-type": "application/json"})
    try:
        return urllib.request.urlopen(request).status, ""
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)["error"]["message"]


before = {"type": "text", "text": "A picture:"}
after = {"type": "text", "text": "Which colour is it?"}
text_last = [ask(before, picture, after) for _ in range(2)]
picture_last = [ask(before, picture) for _ in range(3)]
print("text last:", text_last, "picture last:", picture_last, sep="\n", flush=True)
assert [status for status, _ in text_last] == [200, 200]
assert [status for status, _ in picture_last[1:]] == [500, 500] and "Chunk not found" in picture_last[-1][1]
PYTHON
"$folder/venv/bin/python" "$folder/show.py" "$folder" 2>"$folder/log" || { tail -20 "$folder/log"; exit 1; }

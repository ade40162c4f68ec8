#!/usr/bin/env bash
# transformers 5.24.0: a model can be sent to another process until it has once been asked for its hidden states.
#
# A good guess: a model is a module and can be pickled, before it is used and after, so that workers that play with a
# policy are sent it. Seen: the first call with output_hidden_states=True, which models of images make of their own
# encoders, leaves a hook in every layer for good, a function that is local to another one, and pickle refuses it. What
# helps: clear `_forward_hooks` of all modules and set `_output_capturing_hooks_installed` to False; it is hooked anew.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.24.0
cat > "$folder/show.py" <<'PYTHON'
import pickle

import torch
import transformers as hf

shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
llama = hf.LlamaForCausalLM(hf.LlamaConfig(vocab_size=40, **shape)).eval()
eyes = hf.CLIPVisionConfig(image_size=28, patch_size=14, **shape)
words = hf.LlamaConfig(vocab_size=40, **shape)
llava = hf.LlavaForConditionalGeneration(
    hf.LlavaConfig(vision_config=eyes, text_config=words, image_token_index=39, image_seq_length=4)
).eval()
ids = torch.tensor([[1, 39, 39, 39, 39, 2]])


def is_sendable(model):
    try:
        return bool(pickle.dumps(model))
    except AttributeError as error:
        print(f"{type(model).__name__}: {error}")
        return False


fresh = is_sendable(llama), is_sendable(llava)
with torch.no_grad():
    llama(input_ids=ids)
    plain = is_sendable(llama)
    llama(input_ids=ids, output_hidden_states=True)
    llava(input_ids=ids, pixel_values=torch.zeros(1, 3, 28, 28))  # asks for nothing
after = is_sendable(llama), is_sendable(llava)
for module in llava.modules():
    module._forward_hooks.clear()
    module._output_capturing_hooks_installed = False
mended = is_sendable(llava)
print(f"can be pickled: new {fresh}, after a plain call {plain}, after hidden states were asked for {after}, mended {mended}")
assert all(fresh) and plain and not any(after) and mended
PYTHON
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" "$folder/show.py" 2>"$folder/log" || { tail -20 "$folder/log"; exit 1; }

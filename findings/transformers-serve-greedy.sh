#!/usr/bin/env bash
# transformers 5.24.0: `transformers serve` ignores the temperature of a chat request, and says nothing.
#
# A good guess: temperature=2 samples, as OpenAI's protocol has it, so that a request that is repeated may be answered
# otherwise. Seen: the same words each time, whatever the temperature and the seed, unless the model's own generation
# config samples or the request carries one as JSON in `generation_config`. logprobs are asked for and left out as quietly.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill $server 2>/dev/null || true; rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 "transformers[serving]==5.24.0"
cat > "$folder/make.py" <<'PYTHON'
import sys

import torch
from tokenizers import Tokenizer, decoders, models
from tokenizers.pre_tokenizers import ByteLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

torch.manual_seed(0)
vocabulary = {word: i for i, word in enumerate(["<pad>", "<s>", "</s>", *sorted(ByteLevel.alphabet())])}
tokenizer = Tokenizer(models.BPE(vocabulary, []))
tokenizer.pre_tokenizer, tokenizer.decoder = ByteLevel(add_prefix_space=False), decoders.ByteLevel()
PreTrainedTokenizerFast(
    tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>",
    chat_template="{% for message in messages %}{{ message['content'] }}{% endfor %}",
).save_pretrained(sys.argv[1])
LlamaForCausalLM(LlamaConfig(
    vocab_size=len(vocabulary), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
    pad_token_id=0, bos_token_id=1, eos_token_id=2,
)).save_pretrained(sys.argv[1])
PYTHON
cat > "$folder/show.py" <<'PYTHON'
import json
import sys
import time
import urllib.request

model, address = sys.argv[1], f"http://127.0.0.1:{sys.argv[2]}"


def ask(**more):
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8, **more}
    request = urllib.request.Request(f"{address}/v1/chat/completions", json.dumps(body).encode(),
                                     {"content-type": "application/json"})
    return json.load(urllib.request.urlopen(request))["choices"][0]


for _ in range(600):
    try:
        urllib.request.urlopen(f"{address}/health")
        break
    except OSError:
        time.sleep(0.2)
plain = {ask(temperature=2.0, seed=seed)["message"]["content"] for seed in range(10)}
own = {ask(temperature=2.0, seed=seed, generation_config='{"do_sample": true}')["message"]["content"] for seed in range(10)}
print(f"10 requests at temperature 2: {len(plain)} reply; with generation_config={{do_sample: true}}: {len(own)}")
print(f"logprobs=true: {ask(logprobs=True, top_logprobs=5).get('logprobs')}")
assert len(plain) == 1 < len(own) and ask(logprobs=True, top_logprobs=5).get("logprobs") is None
PYTHON
export HF_HUB_OFFLINE=1
"$folder/venv/bin/python" "$folder/make.py" "$folder/model" 2>"$folder/log"
port=$("$folder/venv/bin/python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$folder/venv/bin/transformers" serve "$folder/model" --device cpu --host 127.0.0.1 --port "$port" >>"$folder/log" 2>&1 &
server=$!
"$folder/venv/bin/python" "$folder/show.py" "$folder/model" "$port" || { tail -20 "$folder/log"; exit 1; }

#!/usr/bin/env bash
# peft 0.21.2: LoRA in a bfloat16 model is float32 or bfloat16 by which function puts it there, and bfloat16 stands still.
#
# A good guess: `inject_adapter_in_model` puts in what `get_peft_model` does, but without its wrapper. Seen: the latter
# makes the adapter float32, the former leaves it bfloat16. At a rate that is usual for a 7B model, 2e-5, an Adam step is
# then less than half of the distance between two numbers: of the matrices A nine in ten never move, and nothing warns.
# transformers 5.24.0's own way, `model.add_adapter`, asks for peft 0.22.0, which there is not: it refuses every peft.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.24.0 peft==0.21.2
cat > "$folder/show.py" <<'PYTHON'
import torch
import transformers as hf
from peft import LoraConfig, get_peft_model, inject_adapter_in_model

SHAPE = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def make():
    torch.manual_seed(0)
    return hf.LlamaForCausalLM(hf.LlamaConfig(vocab_size=40, **SHAPE)).bfloat16()


def train(name, adapt):
    """The precision of LoRA, and the share of its matrices A that ten steps at 2e-5 move."""
    model = adapt(LoraConfig(r=4, target_modules="all-linear"))
    adapter = {key: p for key, p in model.named_parameters() if p.requires_grad}
    before = {key: p.detach().clone() for key, p in adapter.items() if "lora_A" in key}
    optimizer = torch.optim.AdamW(adapter.values(), lr=2e-5, weight_decay=0.0)
    ids = torch.tensor([[1, 2, 3, 4]])
    for _ in range(10):
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    moved = torch.cat([(adapter[key] != value).flatten() for key, value in before.items()]).float().mean().item()
    dtypes = {str(p.dtype) for p in adapter.values()}
    print(f"{name}: {', '.join(dtypes)}; {100 * moved:.1f} % of the numbers of A move in ten steps")
    return dtypes, moved


wrapped = train("get_peft_model", lambda config: get_peft_model(make(), config))
injected = train("inject_adapter_in_model", lambda config: inject_adapter_in_model(config, make()))
try:
    make().add_adapter(LoraConfig(r=4))
    refusal = ""
except ValueError as error:
    refusal = str(error)
print(f"transformers' add_adapter: {refusal}")
assert wrapped[0] == {"torch.float32"} and wrapped[1] > 0.99
assert injected[0] == {"torch.bfloat16"} and injected[1] < 0.2 and ">= 0.22.0" in refusal
PYTHON
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" "$folder/show.py" 2>"$folder/log" || { tail -20 "$folder/log"; exit 1; }

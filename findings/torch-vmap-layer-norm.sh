#!/usr/bin/env bash
# torch 2.13.0: a layer norm of bfloat16 numbers with float32 weights is bfloat16, and float32 under vmap.
#
# A good guess: `torch.vmap` adds an axis to an operation and changes nothing else. Seen: on the CPU a mixed layer norm,
# which autocast leaves wherever its input is bfloat16 already, gives bfloat16 alone, and float32 under vmap. An update that
# was traced once (`make_fx`) holds no cast after it, so that its next matrix product fails under vmap with "expected m1 and
# m2 to have the same dtype".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0
cat > "$folder/show.py" <<'PYTHON'
import torch

SIZE = 4
numbers = torch.randn(2, 3, SIZE, dtype=torch.bfloat16)
weight, bias = torch.ones(2, SIZE), torch.zeros(2, SIZE)


def norm(x, weight, bias):
    return torch.nn.functional.layer_norm(x, (SIZE,), weight, bias)


alone = norm(numbers[0], weight[0], bias[0]).dtype
together = torch.vmap(norm)(numbers, weight, bias).dtype
print(f"layer norm of bfloat16 with float32 weights: {alone}; under vmap {together}")
assert (alone, together) == (torch.bfloat16, torch.float32), "torch has changed: this finding is out of date"
PYTHON
"$folder/venv/bin/python" "$folder/show.py"

#!/bin/sh
# torch 2.13.0: the CPU flash attention's log-sum-exp of a row that sees no key is 0, not -inf.
#
# The logarithm of an empty sum is -inf, which FlashAttention gives on GPUs. Who splits the keys in two and merges the
# parts by their log-sum-exp, as ring attention and split decoding do, gives the empty part the weight exp(0): where the
# scores of the other part sum to 1, its answer comes out halved. The output of such a row is 0, as documented.
#
# Output seen 2026-11-30 (Linux x86_64, Python 3.11): lse of a row that sees nothing 0.0; merged 0.5 for 1.0
# Fails (status 1) where that is no longer so.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "numpy==2.4.6" "torch==2.13.0"
cat > "$folder/lse.py" <<'PYTHON'
import torch

flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
q, k, v = torch.zeros(1, 1, 1, 16), torch.zeros(1, 1, 1, 16), torch.ones(1, 1, 1, 16)
hidden = torch.full((1, 1), -torch.inf)
seen, seen_lse = flash(q, k, v, 0.0, False)
nothing, nothing_lse = flash(q, k, v, 0.0, False, attn_mask=hidden)
weights = torch.stack([seen_lse, nothing_lse]).softmax(0)
merged = (weights[0, ..., None] * seen + weights[1, ..., None] * nothing)[0, 0, 0, 0].item()
print("torch", torch.__version__)
print(f"lse of a row that sees nothing {nothing_lse.item()}; merged {merged} for {seen[0, 0, 0, 0].item()}")
assert nothing[0, 0, 0, 0].item() == 0.0 and seen_lse.item() == 0.0
assert nothing_lse.item() == 0.0 and merged == 0.5
PYTHON
"$folder/venv/bin/python" "$folder/lse.py"

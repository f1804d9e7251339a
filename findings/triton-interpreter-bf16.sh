#!/bin/sh
# Triton 3.9.0: TRITON_INTERPRET=1 computes on the bits of bf16 as if they were integers, without a word.
#
# The interpreter keeps bf16 in uint16 arrays. A product of two matrices of ones is 4228120576 instead of 16, a sum of
# sixteen ones is -1.04e34 instead of 16, and fp32 is cut off at 16 bits where hardware rounds to nearest (1.0078124
# becomes 1, nearest is 1.0078125). fp16 and fp32 are right, so that a kernel tested there in fp16 passes, and the same
# in bf16 is nonsense. (The documentation lists bf16 as not supported; the interpreter does not refuse it.)
#
# Output seen 2026-11-30 (Linux x86_64, Python 3.11):
#   product 4228120576.0, sum -1.0384593717069655e+34, 1.0078124 becomes 1.0
# Fails (status 1) where that is no longer so.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "numpy==2.4.6" "torch==2.13.0"
"$folder/venv/bin/pip" install --quiet --no-deps "triton==3.9.0"
cat > "$folder/bf16.py" <<'PYTHON'
import torch
import triton
import triton.language as tl


@triton.jit
def product(a, b, c, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)[:, None] * SIZE + tl.arange(0, SIZE)[None, :]
    tl.store(c + at, tl.dot(tl.load(a + at), tl.load(b + at)))


@triton.jit
def total(source, target, SIZE: tl.constexpr):
    tl.store(target, tl.sum(tl.load(source + tl.arange(0, SIZE)), axis=0))


@triton.jit
def cast(source, target):
    tl.store(target, tl.load(source).to(tl.bfloat16))


ones, scores = torch.ones(16, 16, dtype=torch.bfloat16), torch.empty(16, 16)
product[(1,)](ones, ones, scores, 16)
summed = torch.zeros(1, dtype=torch.bfloat16)
total[(1,)](ones, summed, 16)
narrow = torch.zeros(1, dtype=torch.bfloat16)
cast[(1,)](torch.tensor([1.0078124]), narrow)
print("triton", triton.__version__, "torch", torch.__version__)
print(f"product {scores[0, 0].item()}, sum {summed.item()}, 1.0078124 becomes {narrow.item()}")
assert scores[0, 0].item() == 4228120576.0 and summed.item() == -1.0384593717069655e34 and narrow.item() == 1.0
assert torch.tensor(1.0078124).to(torch.bfloat16).item() == 1.0078125
PYTHON
TRITON_INTERPRET=1 "$folder/venv/bin/python" -W ignore "$folder/bf16.py"

#!/bin/sh
# Triton 3.9.0: TRITON_INTERPRET=1 converts fp32 to e4m3 by another rule than the code that Triton compiles.
#
# Compiled for an NVIDIA GPU, `x.to(tl.float8e4nv)` is cvt.rn.satfinite.e4m3x2.f32 (PTX ISA, cvt): nearest even,
# saturating at 448, NaN stays. The interpreter gives 256 for 500 and for infinity, 384 for NaN, 0 for 0.0015 (a
# subnormal: 2^-9 is nearest), and rounds the tie 17 up to 18 (even is 16). torch's own conversion on the CPU agrees
# with the hardware's. Who judges an FP8 kernel in that interpreter accuses P tiles that overflow, and misses NaN.
#
# Output seen 2026-11-30 (Linux x86_64, Python 3.11):
#   interpreter [256.0, 256.0, 384.0, 0.0, 18.0]
#   torch       [448.0, 448.0, nan, 0.001953125, 16.0]
# Fails (status 1) where that is no longer so.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "numpy==2.4.6" "torch==2.13.0"
"$folder/venv/bin/pip" install --quiet --no-deps "triton==3.9.0"
cat > "$folder/cast.py" <<'PYTHON'
import math

import torch
import triton
import triton.language as tl

VALUES = [500.0, math.inf, math.nan, 0.0015, 17.0]


@triton.jit
def cast(source, target, COUNT: tl.constexpr):
    at = tl.arange(0, COUNT)
    mask = at < 5
    tl.store(target + at, tl.load(source + at, mask=mask, other=0.0).to(tl.float8e4nv), mask=mask)


given, made = torch.tensor(VALUES), torch.empty(5, dtype=torch.float8_e4m3fn)
cast[(1,)](given, made, 8)
interpreted, expected = made.float().tolist(), given.to(torch.float8_e4m3fn).float().tolist()
print("triton", triton.__version__, "torch", torch.__version__)
print("interpreter", interpreted)
print("torch      ", expected)
assert interpreted == [256.0, 256.0, 384.0, 0.0, 18.0]
assert [str(x) for x in expected] == ["448.0", "448.0", "nan", "0.001953125", "16.0"]
PYTHON
TRITON_INTERPRET=1 "$folder/venv/bin/python" -W ignore "$folder/cast.py"

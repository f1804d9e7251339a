#!/bin/sh
# torch 2.13.0 and ml_dtypes 0.6.0 round fp64 to 16 bits twice, through fp32; numpy rounds to fp16 once.
#
# 1 + 2^-11 + 2^-40 lies above the middle between two neighbours in fp16 (1 and 1 + 2^-10), so nearest is 1 + 2^-10. As
# fp32 it is the middle itself, and ties go to even: torch's `.half()` on the CPU gives 1. Likewise for bf16 with
# 1 + 2^-8 + 2^-40: torch and ml_dtypes give 1, nearest is 1 + 2^-7. An fp64 oracle that is rounded to the output's type
# by them is not the correctly rounded answer; the difference is half a unit in the last place where it shows.
#
# Output seen 2026-11-30 (Linux x86_64, Python 3.11):
#   fp16: numpy 1.0009765625, torch 1.0
#   bf16: ml_dtypes 1.0, torch 1.0, nearest 1.0078125
# Fails (status 1) where that is no longer so.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "numpy==2.4.6" "torch==2.13.0" "ml_dtypes==0.6.0"
cat > "$folder/twice.py" <<'PYTHON'
from fractions import Fraction

import ml_dtypes
import numpy
import torch

above_half, above_bf16 = 1 + 2.0**-11 + 2.0**-40, 1 + 2.0**-8 + 2.0**-40
by_numpy = float(numpy.float64(above_half).astype(numpy.float16))
half = torch.tensor(above_half, dtype=torch.float64).half().item()
by_ml_dtypes = float(numpy.float64(above_bf16).astype(ml_dtypes.bfloat16))
bf16 = torch.tensor(above_bf16, dtype=torch.float64).to(torch.bfloat16).item()
nearest = min((1.0, 1 + 2.0**-7), key=lambda value: abs(Fraction(value) - Fraction(above_bf16)))
print("torch", torch.__version__, "ml_dtypes", ml_dtypes.__version__, "numpy", numpy.__version__)
print(f"fp16: numpy {by_numpy}, torch {half}")
print(f"bf16: ml_dtypes {by_ml_dtypes}, torch {bf16}, nearest {nearest}")
assert (by_numpy, half) == (1 + 2.0**-10, 1.0)
assert (by_ml_dtypes, bf16, nearest) == (1.0, 1.0, 1 + 2.0**-7)
PYTHON
"$folder/venv/bin/python" "$folder/twice.py"

#!/bin/sh
# jax 0.12.0.1 and 0.10.2: on the CPU a dot with the algorithm BF16_BF16_F32 does not round its operands to bf16.
#
# `lax.dot(x, y, precision=DotAlgorithmPreset.BF16_BF16_F32)` asks for bf16 operands and fp32 sums, and the text of the
# lowered program says so (`lhs_precision_type = bf16`). XLA's CPU backend computes in fp32 all the same: 1 + 2^-9 times
# 1 is 1.001953125, where bf16 has 1. It refuses F16_F16_F32 and TF32_TF32_F32 with an error, so that a user has reason
# to take what it accepts at its word. An attention kernel checked on a CPU looks 2^8 times more exact than it is.
#
# Output seen 2026-11-30 (Linux x86_64, Python 3.11, jax 0.10.2):
#   asked for bf16: 1.001953125; of bf16 operands: 1.0; TF32_TF32_F32 is refused
# Fails (status 1) where that is no longer so.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "numpy==2.4.6" "jax==0.10.2" "jaxlib==0.10.2"
cat > "$folder/algorithm.py" <<'PYTHON'
import jax
import jax.numpy as jnp
from jax import lax

x, one = jnp.full((4, 4), 1 + 2.0**-9), jnp.eye(4)


def product(x, y, precision=None):
    return lax.dot(x, y, precision=precision, preferred_element_type=jnp.float32)


def first(algorithm):
    function = jax.jit(lambda x, y: product(x, y, algorithm))
    if algorithm == lax.DotAlgorithmPreset.BF16_BF16_F32:
        assert "lhs_precision_type = bf16" in function.lower(x, one).as_text()
    return function(x, one)[0, 0].item()


asked = first(lax.DotAlgorithmPreset.BF16_BF16_F32)
narrow = product(x.astype(jnp.bfloat16), one.astype(jnp.bfloat16))[0, 0].item()
try:
    refused = f"gives {first(lax.DotAlgorithmPreset.TF32_TF32_F32)}"
except Exception as error:
    refused = "is refused" if "not supported by dot_general on CPU" in str(error) else str(error)
print("jax", jax.__version__)
print(f"asked for bf16: {asked}; of bf16 operands: {narrow}; TF32_TF32_F32 {refused}")
assert (asked, narrow, refused) == (1 + 2.0**-9, 1.0, "is refused")
PYTHON
JAX_PLATFORMS=cpu "$folder/venv/bin/python" -W ignore "$folder/algorithm.py"

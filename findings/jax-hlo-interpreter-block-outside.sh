#!/bin/sh
# jax 0.12.0.1 and 0.10.2: Pallas' interpreter of XLA operations moves a block outside of its array back into it.
#
# A kernel for four heads of q whose index map takes head h of k, too, where k has two: the map must be h // 2, and heads
# 2 and 3 lie outside. `pallas_call(interpret=True)` takes a dynamic slice for a block, which XLA clamps: heads 0, 1, 1,
# 1 are read, without a word. Wrong values in, plausible values out: with inputs alike over heads a test passes. The same
# kernel in jax's TPU interpreter (`InterpretParams()`) raises IndexError, and on hardware it reads other memory.
#
# Output seen 2026-11-30 (Linux x86_64, Python 3.11, jax 0.10.2):
#   heads read: [0, 1, 1, 1] (as XLA operations); the TPU interpreter raises: Out-of-bounds block index
# Fails (status 1) where that is no longer so.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "numpy==2.4.6" "jax==0.10.2" "jaxlib==0.10.2"
cat > "$folder/block.py" <<'PYTHON'
import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu

HEADS, HEADS_K, TILE = 4, 2, (1, 8, 128)


def kernel(k, out):
    out[...] = k[...]


def heads_read(head_of_k, interpret):
    k = jnp.arange(HEADS_K, dtype=jnp.float32)[:, None, None] * jnp.ones((HEADS_K, *TILE[1:]))
    call = pl.pallas_call(
        kernel,
        grid=(HEADS,),
        in_specs=[pl.BlockSpec(TILE, lambda head: (head_of_k(head), 0, 0))],
        out_specs=pl.BlockSpec(TILE, lambda head: (head, 0, 0)),
        out_shape=jax.ShapeDtypeStruct((HEADS, *TILE[1:]), jnp.float32),
        interpret=interpret,
    )
    return jax.block_until_ready(call(k))[:, 0, 0].astype(int).tolist()


assert heads_read(lambda head: head // 2, True) == [0, 0, 1, 1]
silent = heads_read(lambda head: head, True)
try:
    raised = str(heads_read(lambda head: head, tpu.InterpretParams()))
except Exception as error:
    raised = str(error)
told = "Out-of-bounds block index" if "Out-of-bounds block index" in raised else raised
print("jax", jax.__version__)
print(f"heads read: {silent} (as XLA operations); the TPU interpreter raises: {told}")
assert silent == [0, 1, 1, 1] and told == "Out-of-bounds block index"
PYTHON
JAX_PLATFORMS=cpu "$folder/venv/bin/python" -W ignore "$folder/block.py" 2> "$folder/errors" || { cat "$folder/errors"; exit 1; }

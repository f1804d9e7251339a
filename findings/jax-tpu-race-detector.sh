#!/bin/sh
# jax 0.10.2: the TPU interpreter's race detector misses a read that overtakes the second of two copies.
#
# A Pallas kernel starts two asynchronous copies, waits for the first, and reads what the second one fills. With
# `InterpretParams(detect_races=True)` nothing is reported: vector clocks have twice as many entries as there are cores,
# two here, so that all copies share one entry, and waiting for any of them orders them all. With
# `vector_clock_size=64`, which the documentation does not ask for, the race is found. A kernel that forgets the wait for
# its values, as attention does that loads keys and values side by side, passes the detector as it comes.
#
# Output seen 2026-11-30 (Linux x86_64, Python 3.11): races found: by default False, with 64 entries True
# Fails (status 1) where that is no longer so.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "numpy==2.4.6" "jax==0.10.2" "jaxlib==0.10.2"
cat > "$folder/race.py" <<'PYTHON'
import jax
import jax.numpy as jnp
from jax._src.pallas.mosaic.interpret import interpret_pallas_call
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu

SIZE = (8, 128)


def kernel(first, second, out, first_tile, second_tile, arrived):
    copies = [
        tpu.make_async_copy(source, tile, arrived.at[number])
        for number, (source, tile) in enumerate(((first, first_tile), (second, second_tile)))
    ]
    for copy in copies:
        copy.start()
    copies[0].wait()
    out[...] = first_tile[...] + second_tile[...]  # the second copy may be under way
    copies[1].wait()


def races(**clocks):
    call = pl.pallas_call(
        kernel,
        in_specs=[pl.BlockSpec(memory_space=pl.ANY)] * 2,
        out_shape=jax.ShapeDtypeStruct(SIZE, jnp.float32),
        scratch_shapes=[tpu.VMEM(SIZE, jnp.float32)] * 2 + [tpu.SemaphoreType.DMA((2,))],
        interpret=tpu.InterpretParams(detect_races=True, **clocks),
    )
    jax.block_until_ready(call(jnp.ones(SIZE), jnp.ones(SIZE)))
    return interpret_pallas_call.races.races_found


by_default, with_more = races(), races(vector_clock_size=64)
print("jax", jax.__version__)
print(f"races found: by default {by_default}, with 64 entries {with_more}")
assert (by_default, with_more) == (False, True)
PYTHON
JAX_PLATFORMS=cpu "$folder/venv/bin/python" -W ignore "$folder/race.py"

"""What Pallas kernels move and compute, counted against the same by hand; what a GPU and a TPU would do by default."""

from __future__ import annotations

import pytest
import torch

from attnbench.backend import Outputs
from attnbench.case import Case
from attnbench.interpreters.backend import Conditions, counted
from attnbench.reference.inputs import make_inputs

jax = pytest.importorskip("jax", reason="not run: jax is not installed (pip install 'attnbench[jax]')")
planted = pytest.importorskip("planted_pallas", reason="not run: needs jax")

import jax.numpy as jnp  # noqa: E402  # where there is jax
from jax.experimental import pallas as pl  # noqa: E402
from jax.experimental.pallas import tpu  # noqa: E402
from jax.experimental.pallas import triton as gpu  # noqa: E402

from attnbench.interpreters.pallas.arrays import on_jax_arrays, to_jax  # noqa: E402
from attnbench.interpreters.pallas.language import PallasLanguage  # noqa: E402

SHAPE = (16, 128)
CASE = Case.make(batch=1, num_heads=2, head_dim=32, seqlen_q=70, seqlen_k=75, dtype="bf16")
# Tiles of queries and of keys, by head; bytes of one tile of q, k or v.
HEADS, TILES, TILE_BYTES = 2, 3, planted.BLOCK * 32 * 2
DOT_FLOPS = HEADS * TILES * TILES * 2 * (2 * planted.BLOCK * planted.BLOCK * 32)
EXPONENTIALS = HEADS * TILES * TILES * (planted.BLOCK * planted.BLOCK + planted.BLOCK)


def ran(mode, function, *inputs):
    language = PallasLanguage(mode, asked=True)
    return language.called(lambda: Outputs(function(*inputs)), Conditions())


def counts(mode, kernel):
    inputs, function = make_inputs(CASE), on_jax_arrays(kernel)
    _, told = ran(mode, lambda *each: function(*each, causal=False, softmax_scale=0.2), inputs.q, inputs.k, inputs.v)
    assert told.counted
    return counted(CASE, inputs, told)


def test_a_gpu_kernel_loads_and_stores_what_its_masks_keep():
    found = counts("hlo", planted.of_gpu())
    of_keys = HEADS * TILES * 2 * 75 * 32 * 2
    assert found["global_read_bytes"] == HEADS * TILES * TILE_BYTES + of_keys
    assert found["global_write_bytes"] == HEADS * TILES * TILE_BYTES
    assert (found["tensor_flops"], found["exponentials"]) == (DOT_FLOPS, EXPONENTIALS)
    assert found["reread"] is None, "of which array a block is, is not known"


@pytest.mark.parametrize("mode", ["hlo", "tpu"])
def test_a_tpu_kernel_copies_its_blocks_and_what_it_starts(mode):
    found = counts(mode, planted.right)
    assert found["global_read_bytes"] == HEADS * TILES * TILE_BYTES + HEADS * TILES * TILES * 2 * TILE_BYTES
    assert found["global_write_bytes"] == HEADS * TILES * (TILE_BYTES + planted.BLOCK * 4)
    assert (found["tensor_flops"], found["exponentials"]) == (DOT_FLOPS, EXPONENTIALS)


def called(body, shape=SHAPE, **how):
    """A kernel in one function with its launch, which must happen where the interpreter is asked for."""

    def launch(*arrays):
        return pl.pallas_call(body, out_shape=jax.ShapeDtypeStruct(shape, jnp.float32), **how)(*arrays)

    return jax.jit(launch)


def copying(x_ref, out_ref):
    out_ref[...] = x_ref[...]


def copied(semantics, block_of):
    blocks = [pl.BlockSpec((8, 128), block_of), pl.BlockSpec((8, 128), lambda i, j: (i, 0))]
    return called(copying, grid=(2, 3), in_specs=blocks[:1], out_specs=blocks[1], compiler_params=semantics)


def test_a_block_that_stays_is_copied_once():
    x, block = jnp.ones(SHAPE), 8 * 128 * 4
    for block_of, times in ((lambda i, j: (i, 0), 2), (lambda i, j: (j % 2, 0), 5), (lambda i, j: (0, 0), 1)):
        _, told = ran("hlo", copied(tpu.CompilerParams(), block_of), x)
        assert (told.read_bytes, told.written_bytes) == (times * block, 2 * block)
    _, told = ran("hlo", copied(gpu.CompilerParams(), lambda i, j: (i, 0)), x)
    assert (told.read_bytes, told.written_bytes) == (6 * block, 6 * block), "a GPU's programs share nothing"


def test_branches_and_loops_count_as_often_as_they_run():
    def body(x_ref, out_ref):
        out_ref[...] = jax.lax.fori_loop(0, pl.program_id(0) + 2, lambda _, x: jnp.exp(x), x_ref[...])

        @pl.when(pl.program_id(0) == 1)
        def _():
            out_ref[...] = jnp.exp2(x_ref[...])

    spec = pl.BlockSpec((8, 128), lambda i: (i, 0))
    _, told = ran("hlo", called(body, grid=(2,), in_specs=[spec], out_specs=spec), jnp.zeros(SHAPE))
    assert told.exponentials == (2 + 3 + 1) * 8 * 128


def test_what_is_not_known_is_not_counted_and_said():
    def of_length(x, programs):
        spec = pl.BlockSpec((8, 128), lambda i: (i, 0))
        shape = jax.ShapeDtypeStruct(SHAPE, jnp.float32)
        return pl.pallas_call(copying, grid=(programs,), in_specs=[spec], out_specs=spec, out_shape=shape)(x)

    _, told = ran("hlo", jax.jit(of_length), jnp.ones(SHAPE), jnp.int32(2))
    assert not told.counted
    assert told.notes == ("copying: its traffic was not counted: its grid is not known before it runs",)


@pytest.mark.parametrize(("precision", "exact"), [(None, False), ("highest", True)])
def test_a_gpus_dot_of_fp32_is_tf32_by_default(precision, exact):
    def body(x_ref, y_ref, out_ref):
        out_ref[...] = jax.lax.dot(x_ref[...], y_ref[...], precision=precision)

    def result(how):
        return ran("hlo", called(body, (16, 16), compiler_params=how), to_jax(x), to_jax(torch.ones(16, 16)))[0].out

    x = torch.full((16, 16), 1 + 2.0**-11 + 2.0**-12)
    kept, dropped = 16 * (1 + 2.0**-11 + 2.0**-12), 16.0
    assert bool((result(gpu.CompilerParams()) == (kept if exact else dropped)).all()), "bits are dropped, not rounded"
    if not exact:
        assert bool((result(tpu.CompilerParams()) == kept).all())


def test_a_kernel_that_asks_for_its_tpu_is_answered_and_that_is_told():
    def body(x_ref, out_ref):
        out_ref[...] = x_ref[...] * tpu.get_tpu_info().num_lanes

    outputs, told = ran("hlo", called(body), jnp.ones(SHAPE))
    assert bool((outputs.out == 128).all()) and told.stand_ins == ("get_tpu_info (TPU v6e)",)

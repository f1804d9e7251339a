"""A right Pallas attention kernel of each kind, and the same with faults that an interpreter shows; imports jax."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu
from jax.experimental.pallas import triton as gpu

BLOCK = 32


def tpu_kernel(q_ref, k_ref, v_ref, out_ref, lse_ref, k_tile, v_tile, total, seen, *, seqlen_q, seqlen_k, scale, causal,
               fault):  # fmt: skip
    """One tile of queries; keys and values are copied tile by tile from HBM."""
    head, tile = pl.program_id(0), pl.program_id(1)
    q = q_ref[0].astype(jnp.float32) * scale
    rows = tile * BLOCK + jax.lax.broadcasted_iota(jnp.int32, (BLOCK, BLOCK), 0)
    sums = out_ref.at[0] if fault == "accumulator" else total
    sums[...] = jnp.zeros_like(sums)

    def one_tile(number, carry):
        top, weight = carry
        start = number * BLOCK
        copies = [tpu.make_async_copy(ref.at[head, pl.ds(start, BLOCK)], to, seen.at[at])
                  for at, (ref, to) in enumerate(((k_ref, k_tile), (v_ref, v_tile)))]  # fmt: skip
        for copy in copies:
            copy.start()
        copies[0].wait()
        if fault != "race":
            copies[1].wait()
        scores = jax.lax.dot(q, k_tile[...].astype(jnp.float32).T)
        keys = start + jax.lax.broadcasted_iota(jnp.int32, (BLOCK, BLOCK), 1)
        inside = keys < seqlen_k
        if causal:
            inside = inside & (keys <= rows + seqlen_k - seqlen_q)
        scores = jnp.where(inside, scores, -jnp.inf)
        higher = jnp.maximum(top, scores.max(1))
        base = jnp.where(higher == -jnp.inf, 0.0, higher)
        p = jnp.exp(scores - base[:, None])
        shrink = jnp.exp(top - base)
        product = jax.lax.dot(p.astype(v_tile.dtype), v_tile[...], preferred_element_type=jnp.float32)
        sums[...] = (sums[...].astype(jnp.float32) * shrink[:, None] + product).astype(sums.dtype)
        if fault == "race":
            copies[1].wait()
        return higher, weight * shrink + p.sum(1)

    tiles = k_ref.shape[1] // BLOCK + (1 if fault == "outside" else 0)
    top, weight = jax.lax.fori_loop(0, tiles, one_tile, (jnp.full((BLOCK,), -jnp.inf), jnp.zeros((BLOCK,))))

    @pl.when((tile != 1) | (fault != "unwritten"))
    def _():
        some = (weight > 0)[:, None]
        out_ref[0] = jnp.where(some, sums[...].astype(jnp.float32) / weight[:, None], 0).astype(out_ref.dtype)
        lse_ref[0] = (top + jnp.log(weight))[None]


def heads_first(x):
    """(batch, seqlen, heads, dim) to (batch x heads, seqlen, dim)."""
    return x.transpose(0, 2, 1, 3).reshape(-1, x.shape[1], x.shape[3])


def of_tpu(fault=""):
    @functools.partial(jax.jit, static_argnames=("causal", "softmax_scale"))
    def kernel(q, k, v, *, causal, softmax_scale):
        batch, seqlen_q, heads, dim = q.shape
        seqlen_k, group = k.shape[1], heads // k.shape[2]
        k, v = (heads_first(jnp.repeat(x, group, axis=2)) for x in (k, v))
        k, v = (jnp.pad(x, ((0, 0), (0, -seqlen_k % BLOCK), (0, 0))) for x in (k, v))
        body = functools.partial(tpu_kernel, seqlen_q=seqlen_q, seqlen_k=seqlen_k, scale=softmax_scale, causal=causal,
                                 fault=fault)  # fmt: skip
        tiles = pl.cdiv(seqlen_q, BLOCK)
        out, lse = pl.pallas_call(
            body,
            grid=(batch * heads, tiles),
            in_specs=[pl.BlockSpec((1, BLOCK, dim), lambda head, tile: (head, tile, 0))]
            + [pl.BlockSpec(memory_space=pl.ANY)] * 2,
            out_specs=[
                pl.BlockSpec((1, BLOCK, dim), lambda head, tile: (head, tile, 0)),
                pl.BlockSpec((1, 1, BLOCK), lambda head, tile: (head, 0, tile)),
            ],
            out_shape=[
                jax.ShapeDtypeStruct((batch * heads, seqlen_q, dim), q.dtype),
                jax.ShapeDtypeStruct((batch * heads, 1, tiles * BLOCK), jnp.float32),
            ],
            scratch_shapes=[
                tpu.VMEM((BLOCK, dim), k.dtype),
                tpu.VMEM((BLOCK, dim), v.dtype),
                tpu.VMEM((BLOCK, dim), jnp.float32),
                tpu.SemaphoreType.DMA((2,)),
            ],
            compiler_params=tpu.CompilerParams(dimension_semantics=("parallel", "parallel")),
            name="planted",
        )(heads_first(q), k, v)
        out = out.reshape(batch, heads, seqlen_q, dim).transpose(0, 2, 1, 3)
        return out, lse[:, 0, :seqlen_q].reshape(batch, heads, seqlen_q)

    return kernel


right = of_tpu()


def gpu_kernel(q_ref, k_ref, v_ref, out_ref, *, seqlen_k, scale, fault):
    """One head and one tile of queries; keys and values are loaded tile by tile with a mask."""
    q = q_ref[...].astype(jnp.float32) * scale
    other = None if fault == "undefined" else 0.0

    def one_tile(number, carry):
        top, weight, sums = carry
        keys = number * BLOCK + jnp.arange(BLOCK)
        inside = keys < seqlen_k
        place = pl.ds(number * BLOCK, BLOCK)
        k = gpu.load(k_ref.at[place], mask=inside[:, None], other=0.0)
        v = gpu.load(v_ref.at[place], mask=inside[:, None], other=other)
        scores = jnp.where(inside[None, :], jax.lax.dot(q, k.astype(jnp.float32).T), -jnp.inf)
        higher = jnp.maximum(top, scores.max(1))
        p = jnp.exp(scores - higher[:, None])
        shrink = jnp.exp(top - higher)
        product = jax.lax.dot(p.astype(v.dtype), v, preferred_element_type=jnp.float32)
        return higher, weight * shrink + p.sum(1), sums * shrink[:, None] + product

    start = jnp.full((BLOCK,), -jnp.inf), jnp.zeros((BLOCK,)), jnp.zeros(q.shape)
    _, weight, sums = jax.lax.fori_loop(0, pl.cdiv(seqlen_k, BLOCK), one_tile, start)
    out_ref[...] = (sums / weight[:, None]).astype(out_ref.dtype)


def of_gpu(fault=""):
    @functools.partial(jax.jit, static_argnames=("causal", "softmax_scale"))
    def kernel(q, k, v, *, causal, softmax_scale):
        batch, seqlen_q, heads, dim = q.shape
        seqlen_k = k.shape[1]
        if fault == "undefined":  # what lies behind the last key is a number there, as it may be on a GPU
            k, v = (jnp.pad(x, ((0, 0), (0, -seqlen_k % BLOCK), (0, 0), (0, 0))) for x in (k, v))
        whole = pl.BlockSpec((None, k.shape[1], None, dim), lambda tile, head, number: (number, 0, head, 0))
        tiled = pl.BlockSpec((None, BLOCK, None, dim), lambda tile, head, number: (number, tile, head, 0))
        return pl.pallas_call(
            functools.partial(gpu_kernel, seqlen_k=seqlen_k, scale=softmax_scale, fault=fault),
            grid=(pl.cdiv(seqlen_q, BLOCK), heads, batch),
            in_specs=[tiled, whole, whole],
            out_specs=tiled,
            out_shape=jax.ShapeDtypeStruct(q.shape, q.dtype),
            compiler_params=gpu.CompilerParams(),
        )(q, k, v)

    return kernel


def no_kernel(q, k, v, *, causal, softmax_scale):
    return jnp.asarray(q.float().numpy())


def of_tensors(q, k, v, *, causal, softmax_scale):
    """A wrapper that converts by itself."""
    from attnbench.interpreters.pallas.arrays import to_jax, to_torch

    out, lse = right(to_jax(q), to_jax(k), to_jax(v), causal=causal, softmax_scale=softmax_scale)
    return to_torch(out), lse

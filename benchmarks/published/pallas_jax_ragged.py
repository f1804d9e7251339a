"""jax: ragged_paged_attention for TPUs, prefill and decode over pages; every sequence has its own, in order."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from published_kernel import PublishedKernel

from attnbench.interpreters.pallas.arrays import on_jax_arrays

PACKAGES = ("jax==0.10.2", "jaxlib==0.10.2", "opt-einsum==3.4.0")
INTERPRET = "tpu"
ONLY = ("head_dim=128", "dtype=bf16")
PAGE_SIZE = 16


@on_jax_arrays
@functools.partial(jax.jit, static_argnames=("causal", "softmax_scale"))
def attend(q: Any, k: Any, v: Any, causal: bool, softmax_scale: float) -> Any:
    from jax.experimental.pallas.ops.tpu.ragged_paged_attention import ragged_paged_attention

    batch, seqlen_q, heads, head_dim = q.shape
    seqlen_k, heads_kv = k.shape[1:3]
    both = jnp.stack([k, v], axis=3).reshape(batch, seqlen_k, 2 * heads_kv, head_dim)
    both = jnp.pad(both, ((0, 0), (0, -seqlen_k % PAGE_SIZE), (0, 0), (0, 0)))
    pages = both.shape[1] // PAGE_SIZE
    out = ragged_paged_attention(
        q.reshape(batch * seqlen_q, heads, head_dim),
        both.reshape(batch * pages, PAGE_SIZE, 2 * heads_kv, head_dim),
        jnp.full((batch,), seqlen_k, jnp.int32),
        jnp.arange(batch * pages, dtype=jnp.int32).reshape(batch, pages),
        jnp.arange(batch + 1, dtype=jnp.int32) * seqlen_q,
        jnp.array([batch], jnp.int32),
        sm_scale=softmax_scale, num_kv_pages_per_block=min(4, pages), num_queries_per_block=32,
    )  # fmt: skip
    return out.reshape(q.shape)


BACKENDS = (
    PublishedKernel(
        name="jax.tpu.ragged_paged_attention", package="jax", attend=attend, dtypes=("bf16",), masks=("causal",),
        more_keys=True, head_dims=(128,),
    ),
)  # fmt: skip

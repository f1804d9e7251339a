"""jax: mha for GPUs (Triton), flash and splash attention for TPUs."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from published_kernel import PublishedKernel

from attnbench.interpreters.pallas.arrays import on_jax_arrays

PACKAGES = ("jax==0.10.2", "jaxlib==0.10.2", "opt-einsum==3.4.0")
INTERPRET = "hlo"
ONLY = ("head_dim=64", "dtype=fp16,bf16", "seqlen=64,128")
NOTE = "splash has no softmax scale: it is multiplied into q before the call, which is exact at head_dim 64."


def attends(function: Any) -> Any:
    """attend(q, k, v, causal, softmax_scale) of arrays as one of tensors, compiled once a shape."""
    return on_jax_arrays(jax.jit(function, static_argnames=("causal", "softmax_scale")))


def heads_first(x: Any) -> Any:
    return x.transpose(0, 2, 1, 3)


@attends
def mha(q: Any, k: Any, v: Any, causal: bool, softmax_scale: float) -> Any:
    from jax.experimental.pallas.ops.gpu.attention import mha

    out, lse = mha(q, k, v, segment_ids=None, sm_scale=softmax_scale, causal=causal, return_residuals=True)
    return out, lse * jnp.log(2.0)  # which is in base 2


@attends
def flash(q: Any, k: Any, v: Any, causal: bool, softmax_scale: float) -> Any:
    from jax.experimental.pallas.ops.tpu.flash_attention import flash_attention

    out = flash_attention(*(heads_first(x) for x in (q, k, v)), causal=causal, sm_scale=softmax_scale)
    return heads_first(out)


@attends
def splash(q: Any, k: Any, v: Any, causal: bool, softmax_scale: float) -> Any:
    from jax.experimental.pallas.ops.tpu import splash_attention

    shape, offset = (q.shape[1], k.shape[1]), k.shape[1] - q.shape[1]
    mask = splash_attention.CausalMask(shape, offset=offset) if causal else splash_attention.FullMask(shape)
    kernel = splash_attention.make_splash_mha(
        splash_attention.MultiHeadMask([mask] * q.shape[2]), head_shards=1, q_seq_shards=1, save_residuals=True
    )
    q = (heads_first(q) * softmax_scale).astype(q.dtype)
    out, (lse,) = jax.tree.map(lambda *x: jnp.stack(x), *map(kernel, q, heads_first(k), heads_first(v)))
    return heads_first(out), lse


kernel = functools.partial(PublishedKernel, package="jax")
BACKENDS = (
    kernel(name="jax.gpu.mha", attend=mha, grouped=False, alignment="top_left", lengths=(64, 64)),
    kernel(name="jax.tpu.flash_attention", attend=flash, dtypes=("bf16",), grouped=False, alignment="top_left",
           lengths=(128, 128)),
    kernel(name="jax.tpu.splash_attention", attend=splash, dtypes=("bf16",), lengths=(128, 128)),
)  # fmt: skip

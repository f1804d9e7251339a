"""tokamax: attention for GPUs (Triton) and splash attention for TPUs."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from published_kernel import PublishedKernel

from attnbench.interpreters.pallas.arrays import on_jax_arrays

PACKAGES = ("tokamax==0.0.17", "jax==0.12.0.1", "jaxlib==0.12.0.1")
DEPENDENCIES = True
INTERPRET = "hlo"
ONLY = ("head_dim=64", "dtype=fp16,bf16", "seqlen=64,97,128")
NOTE = (
    "splash has no softmax scale: it is multiplied into q before the call. Its default `use_base2_exp` multiplies "
    "log2(e) into q in q's type: at 128 keys in bf16, causal, log-sum-exp is up to 4.5e-3 off fp64 in jax's own "
    "hlo interpreter, and 3.7e-7 with `use_base2_exp=False`. Needs Python 3.12."
)


def attends(function: Any) -> Any:
    """attend(q, k, v, causal, softmax_scale) of arrays as one of tensors, compiled once a shape."""
    return on_jax_arrays(jax.jit(function, static_argnames=("causal", "softmax_scale")))


@attends
def triton(q: Any, k: Any, v: Any, causal: bool, softmax_scale: float) -> Any:
    from tokamax._src.ops.attention.pallas_triton import PallasTritonFlashAttention

    return PallasTritonFlashAttention(bypass_device_check=True)(q, k, v, is_causal=causal, logits_scale=softmax_scale)


@attends
def splash(q: Any, k: Any, v: Any, causal: bool, softmax_scale: float) -> Any:
    from tokamax._src.ops.experimental.tpu.splash_attention import splash_attention_kernel, splash_attention_mask

    shape, offset = (q.shape[1], k.shape[1]), k.shape[1] - q.shape[1]
    masks = splash_attention_mask
    mask = masks.CausalMask(shape, offset=offset) if causal else masks.FullMask(shape)
    kernel = splash_attention_kernel.make_splash_mha(mask, save_residuals=True, q_seq_shards=1)
    q, k, v = ((x.transpose(0, 2, 1, 3)) for x in ((q * softmax_scale).astype(q.dtype), k, v))
    out, residuals = jax.tree.map(lambda *x: jnp.stack(x), *map(kernel, q, k, v))
    return out.transpose(0, 2, 1, 3), residuals["logsumexp"]


BACKENDS = (
    PublishedKernel(name="tokamax.triton", package="tokamax", attend=triton, alignment="top_left"),
    PublishedKernel(
        name="tokamax.splash_attention", package="tokamax", attend=splash, dtypes=("bf16",), lengths=(128, 128)
    ),
)  # fmt: skip

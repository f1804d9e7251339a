"""jax: attention of one query over a cache, for GPUs (Triton) and for TPUs; pages in order."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from published_kernel import PublishedKernel

from attnbench.case import Case
from attnbench.interpreters.pallas.arrays import on_jax_arrays

PACKAGES = ("jax==0.10.2", "jaxlib==0.10.2", "opt-einsum==3.4.0")
INTERPRET = "hlo"
ONLY = ("head_dim=64", "dtype=fp16,bf16", "seqlen_q=1")
NOTE = (
    "Paged attention has no softmax scale: it is multiplied into q before the call, "
    "which is exact at head_dim 64. Caches are padded with zeros to whole pages and told their lengths. Of one query "
    "over 130 keys in fp16, 16 splits, jax's own hlo interpreter has a relative RMSE against fp64 of 5.1e-4 (decode) "
    "and 7.6e-4 (paged, GPU); an output that is rounded once has 2.3e-4. The sums of each split are kept in q's type."
)
PAGE_SIZE, SPLITS = 16, 16


class OneQuery(PublishedKernel):
    def unsupported(self, case: Case) -> str | None:
        return "one query only" if case.seqlen_q != 1 else super().unsupported(case)


def attends(function: Any) -> Any:
    """attend(q, k, v, causal, softmax_scale) of arrays as one of tensors, compiled once a shape."""
    return on_jax_arrays(jax.jit(function, static_argnames=("causal", "softmax_scale")))


@attends
def gpu_decode(q: Any, k: Any, v: Any, causal: bool, softmax_scale: float) -> Any:
    from jax.experimental.pallas.ops.gpu.decode_attention import gqa

    batch, length = k.shape[:2]
    k, v = (padded(x, PAGE_SIZE * SPLITS) for x in (k, v))
    lengths = jnp.full((batch,), length, jnp.int32)
    out, (total, top) = gqa(
        q[:, 0], k, v, kv_seq_len=lengths, sm_scale=softmax_scale, block_k=PAGE_SIZE, k_splits=SPLITS,
        return_residuals=True,
    )  # fmt: skip
    return out[:, None].astype(q.dtype), (top + jnp.log(total))[..., None]


@attends
def gpu_paged(q: Any, k: Any, v: Any, causal: bool, softmax_scale: float) -> Any:
    from jax.experimental.pallas.ops.gpu.paged_attention import paged_attention

    (k_pages, v_pages), table, lengths = paged(k, v)
    return paged_attention((q[:, 0] * softmax_scale).astype(q.dtype), k_pages, v_pages, table, lengths)[:, None]


@attends
def tpu_paged(q: Any, k: Any, v: Any, causal: bool, softmax_scale: float) -> Any:
    from jax.experimental.pallas.ops.tpu.paged_attention import paged_attention

    (k_pages, v_pages), table, lengths = paged(k, v)
    q = (q[:, 0] * softmax_scale).astype(q.dtype)
    return paged_attention(q, k_pages, v_pages, lengths, table, pages_per_compute_block=4)[:, None]


def padded(x: Any, multiple: int) -> Any:
    """Zeros after the last key, so that the length is a multiple."""
    return jnp.pad(x, ((0, 0), (0, -x.shape[1] % multiple), (0, 0), (0, 0)))


def paged(k: Any, v: Any) -> tuple[Any, Any, Any]:
    """k and v (heads, pages, page_size, head_dim), the table of pages (batch, pages of a sequence), the lengths."""
    batch, length, heads, head_dim = k.shape
    k, v = (padded(x, PAGE_SIZE * SPLITS) for x in (k, v))
    pages = k.shape[1] // PAGE_SIZE
    both = (x.transpose(2, 0, 1, 3).reshape(heads, batch * pages, PAGE_SIZE, head_dim) for x in (k, v))
    return tuple(both), jnp.arange(batch * pages).reshape(batch, pages), jnp.full((batch,), length, jnp.int32)


one_query = functools.partial(OneQuery, package="jax")
BACKENDS = (
    one_query(name="jax.gpu.decode_attention", attend=gpu_decode),
    one_query(name="jax.gpu.paged_attention", attend=gpu_paged),
    one_query(name="jax.tpu.paged_attention", attend=tpu_paged, dtypes=("bf16",)),
)  # fmt: skip

"""conch-triton-kernels: varlen_attention over a paged cache, and paged_attention for one query; every sequence of a
case has its own pages, in order."""

from __future__ import annotations

from typing import Any

from published_kernel import PublishedKernel, paged

PACKAGES = ("conch-triton-kernels==1.3",)
TRITON = "3.9.0"
PAGE_SIZE = 32
NOTE = (
    "varlen_attention: a single query sees every key, as bottom right has it; of several, query i sees key j "
    "up to i, over a longer cache too. Confirmed at 33 queries and 97 keys in fp16: relative RMSE against fp64 "
    "2.34 in Triton's own interpreter and in ours. What is over the limits by rounding is so by up to 2 times: "
    "the output, the row's maximum and its sum, and what splits of the keys hand over, are kept in the inputs' "
    "type. In fp16 the relative RMSE against fp64 is 7.0e-4 at 128 keys (6.7e-4 in Triton's own interpreter), "
    "and for one query 1.6e-3 at 1025 keys in paged_attention (1.8e-3); other kernels of this page have 2.3e-4 "
    "at 98 keys."
)


def attend(q: Any, k: Any, v: Any, causal: bool, softmax_scale: float) -> Any:
    import torch
    from conch.ops.attention.varlen_attention import varlen_attention

    batch, seqlen_q, heads, head_dim = q.shape
    seqlen_k = k.shape[1]
    k_pages, table = paged(k, PAGE_SIZE)
    v_pages, _ = paged(v, PAGE_SIZE)
    out = varlen_attention(
        query=q.reshape(batch * seqlen_q, heads, head_dim), key_cache=k_pages, value_cache=v_pages,
        cu_seqlens_q=torch.arange(batch + 1, dtype=torch.int32, device=q.device) * seqlen_q, max_seqlen_q=seqlen_q,
        seq_lens=torch.full((batch,), seqlen_k, dtype=torch.int32, device=q.device), max_seqlen_k=seqlen_k,
        block_table=table, causal=causal, scale=softmax_scale,
    )  # fmt: skip
    return out.view(q.shape)


def decode(q: Any, k: Any, v: Any, causal: bool, softmax_scale: float) -> Any:
    import torch
    from conch.ops.attention.paged_attention import paged_attention

    k_pages, table = paged(k, PAGE_SIZE)
    v_pages, _ = paged(v, PAGE_SIZE)
    lengths = torch.full((len(q),), k.shape[1], dtype=torch.int32, device=q.device)
    return paged_attention(q[:, 0].contiguous(), k_pages, v_pages, table, lengths, scale=softmax_scale).unsqueeze(1)


BACKENDS = (
    PublishedKernel(name="conch.varlen_attention", package="conch-triton-kernels", attend=attend),
    PublishedKernel(name="conch.paged_attention", package="conch-triton-kernels", attend=decode, one_query=True),
)

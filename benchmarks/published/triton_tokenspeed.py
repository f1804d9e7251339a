"""tokenspeed-kernel: prefill_attention_fwd, and its prefill over a paged cache, run with Triton instead of the fork of
Triton that it names."""

from __future__ import annotations

from typing import Any

from published_kernel import PublishedKernel, import_below, packed, paged, stand_in

PACKAGES = ("tokenspeed-kernel==0.1.4",)
TRITON = "3.9.0"
PAGE_SIZE = 16
NOTE = "The package names a fork of Triton (tokenspeed-triton) that is not judged here."


def prefill() -> Any:
    import triton
    import triton.language as tl

    stand_in("tokenspeed_kernel._triton", triton=triton, tl=tl)
    return import_below("tokenspeed_kernel", "tokenspeed_kernel.ops.attention.mha._triton.prefill")


def attend(q: Any, k: Any, v: Any, causal: bool, softmax_scale: float) -> Any:
    import torch

    tokens, starts, _ = packed(q)
    ends = torch.cat([starts, starts[-1:] + q.shape[1]])
    out = torch.empty_like(tokens)
    nothing = torch.empty((0, *k.shape[2:]), dtype=k.dtype, device=k.device)
    prefill().prefill_attention_fwd(
        tokens, packed(k)[0], packed(v)[0], out, nothing, nothing, ends, ends[:0], None, causal, q.shape[1],
        sm_scale=softmax_scale,
    )  # fmt: skip
    return out.view(q.shape)


def attend_cached(q: Any, k: Any, v: Any, causal: bool, softmax_scale: float) -> Any:
    import torch

    tokens, starts, _ = packed(q)
    k_pages, table = paged(k, PAGE_SIZE)
    v_pages, _ = paged(v, PAGE_SIZE)
    return prefill()._triton_mha_extend_with_kvcache_impl(
        q=tokens, cu_seqlens_q=torch.cat([starts, starts[-1:] + q.shape[1]]), cu_seqlens_kv=None, k_cache=k_pages,
        v_cache=v_pages, page_table=table, cache_seqlens=torch.full_like(starts, k.shape[1]), max_seqlen_q=q.shape[1],
        max_seqlen_k=k.shape[1], is_causal=causal, softmax_scale=softmax_scale,
    ).view(q.shape)  # fmt: skip


BACKENDS = (
    PublishedKernel(
        name="tokenspeed.prefill_attention_fwd", package="tokenspeed-kernel", attend=attend, equal_lengths=True,
    ),
    PublishedKernel(
        name="tokenspeed.mha_extend_with_kvcache", package="tokenspeed-kernel", attend=attend_cached, more_keys=True,
    ),
)  # fmt: skip

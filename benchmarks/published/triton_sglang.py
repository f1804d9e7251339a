"""sglang: context_attention_fwd of its Triton prefill, and extend_attention_fwd, where the first keys of a case are a
cached prefix; imported without the rest of the server."""

from __future__ import annotations

from typing import Any

from published_kernel import PublishedKernel, import_below, packed, stand_in

PACKAGES = ("sglang==0.5.23",)
TRITON = "3.9.0"
NOTE = (
    "Over `edges` in fp16 and bf16, 154 cases of extend_attention_fwd are right, and Triton's compiler refuses "
    "head_dim 8; others are not taken."
)


def stand_in_server() -> None:
    stand_in(
        "sglang.srt.utils", is_cuda=lambda: True, is_hip=lambda: False, is_gfx95_supported=lambda: False,
        is_gfx1250_supported=lambda: False, get_device_core_count=lambda: 132,
    )  # fmt: skip


def attend(q: Any, k: Any, v: Any, causal: bool, softmax_scale: float) -> Any:
    import torch

    stand_in_server()
    prefill = import_below("sglang", "sglang.kernels.ops.attention.prefill_attention")
    tokens, starts, lengths = packed(q)
    out = torch.empty_like(tokens)
    prefill.context_attention_fwd(
        tokens, packed(k)[0], packed(v)[0], out, starts, lengths, q.shape[1], is_causal=causal, sm_scale=softmax_scale
    )
    return out.view(q.shape)


def extend(q: Any, k: Any, v: Any, causal: bool, softmax_scale: float) -> Any:
    """Of contiguous tensors, as its documentation asks for."""
    import torch

    stand_in_server()
    module = import_below("sglang", "sglang.kernels.ops.attention.extend_attention")
    batch, seqlen_q = q.shape[:2]
    prefix = k.shape[1] - seqlen_q
    q, k, v = (x.contiguous() for x in (q, k, v))
    queries, starts, _ = packed(q)
    ends = torch.cat([starts, starts[-1:] + seqlen_q])
    cached = torch.arange(batch + 1, dtype=torch.int32, device=q.device) * prefix
    out = torch.empty_like(queries)
    module.extend_attention_fwd(
        queries, packed(k[:, prefix:])[0], packed(v[:, prefix:])[0], out, packed(k[:, :prefix])[0],
        packed(v[:, :prefix])[0], ends, cached, torch.arange(batch * prefix, dtype=torch.int64, device=q.device), None,
        causal, None, seqlen_q, 1.0, 1.0, sm_scale=softmax_scale,
    )  # fmt: skip
    return out.view(q.shape)


BACKENDS = (
    PublishedKernel(
        name="sglang.context_attention_fwd", package="sglang", attend=attend, equal_lengths=True,
    ),
    PublishedKernel(
        name="sglang.extend_attention_fwd", package="sglang", attend=extend, more_keys=True,
    ),
)  # fmt: skip

"""sglang: context_attention_fwd of its Triton prefill; imported without the rest of the server."""

from __future__ import annotations

from typing import Any

from published_kernel import PublishedKernel, import_below, packed, stand_in

PACKAGES = ("sglang==0.5.23",)
TRITON = "3.9.0"


def attend(q: Any, k: Any, v: Any, causal: bool, softmax_scale: float) -> Any:
    import torch

    stand_in("sglang.srt.utils", is_cuda=lambda: True, is_hip=lambda: False)
    prefill = import_below("sglang", "sglang.kernels.ops.attention.prefill_attention")
    tokens, starts, lengths = packed(q)
    out = torch.empty_like(tokens)
    prefill.context_attention_fwd(
        tokens, packed(k)[0], packed(v)[0], out, starts, lengths, q.shape[1], is_causal=causal, sm_scale=softmax_scale
    )
    return out.view(q.shape)


BACKENDS = (
    PublishedKernel(
        name="sglang.context_attention_fwd", package="sglang", attend=attend, equal_lengths=True,
    ),
)  # fmt: skip

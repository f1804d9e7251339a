"""lightllm: context_attention_fwd, causal, with a cached prefix: of a case with more keys than queries, the first keys
are the prefix. It has no softmax scale."""

from __future__ import annotations

from typing import Any

from published_kernel import PublishedKernel, import_below, packed

PACKAGES = ("lightllm==0.0.1",)
TRITON = "3.9.0"
NOTE = (
    "Offsets into k and v are 32-bit numbers in the kernel: what lies 2^31 elements behind the beginning of a cache is "
    "out of its reach, which `edges` tells (probe far_apart, four cases; 75 others are right)."
)


def attend(q: Any, k: Any, v: Any, causal: bool, softmax_scale: float) -> Any:
    import torch

    module = import_below("lightllm", "lightllm.models.llama.triton_kernel.context_flashattention_nopad")
    (queries, starts, _), (keys, _, lengths), (values, _, _) = packed(q), packed(k), packed(v)
    batch, seqlen_k = len(starts), k.shape[1]
    out = torch.empty_like(queries)
    requests = torch.arange(batch, dtype=torch.int32, device=q.device)
    tokens = torch.arange(batch * seqlen_k, dtype=torch.int32, device=q.device).view(batch, seqlen_k)
    module.context_attention_fwd(
        queries, keys, values, out, requests, starts, lengths, lengths - q.shape[1], q.shape[1], tokens
    )
    return out.view(q.shape)


BACKENDS = (
    PublishedKernel(
        name="lightllm.context_attention_fwd", package="lightllm", attend=attend, masks=("causal",),
        head_dims=(16, 32, 64, 128, 256), own_scale=True, more_keys=True,
    ),
)  # fmt: skip

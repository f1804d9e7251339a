"""unsloth: large_head_attention, for heads of 512, of squares; each query's keys are one interval."""

from __future__ import annotations

from typing import Any

from published_kernel import PublishedKernel, import_below

PACKAGES = ("unsloth==2026.10.9",)
TRITON = "3.9.0"
ONLY = ("head_dim=512",)


def attend(q: Any, k: Any, v: Any, causal: bool, softmax_scale: float) -> Any:
    import torch

    module = import_below("unsloth", "unsloth.kernels.large_head_attention")
    batch, _, seqlen, _ = q.shape
    last = torch.arange(seqlen, dtype=torch.int32, device=q.device) if causal else torch.tensor(seqlen - 1)
    high = last.to(torch.int32).expand(batch, seqlen)
    out = module.large_head_attention(q, k, v, torch.zeros_like(high), high, scale=softmax_scale)
    return out.transpose(1, 2)


BACKENDS = (
    PublishedKernel(
        name="unsloth.large_head_attention", package="unsloth", attend=attend, heads_first=True, head_dims=(512,),
        equal_lengths=True, lengths=(2, 1),
    ),
)  # fmt: skip

"""xformers: the split-K forward of memory_efficient_attention (its Triton kernel for decoding), without a mask,
called as itself: the dispatch asks for xformers' CUDA extension first."""

from __future__ import annotations

from typing import Any

from published_kernel import PublishedKernel

PACKAGES = ("xformers==0.0.35",)
TRITON = "3.7.1"


def attend(q: Any, k: Any, v: Any, causal: bool, softmax_scale: float) -> Any:
    from xformers.ops import fmha

    batch, seqlen_q, heads, head_dim = q.shape
    groups = k.shape[2]
    q = q.view(batch, seqlen_q, groups, heads // groups, head_dim)
    k, v = (x.unsqueeze(3).expand(-1, -1, -1, heads // groups, -1) for x in (k, v))
    given = fmha.Inputs(query=q, key=k, value=v, scale=softmax_scale)
    out, _ = fmha.triton_splitk.FwOp.apply(given, needs_gradient=False)
    return out.reshape(batch, seqlen_q, heads, head_dim)


BACKENDS = (
    PublishedKernel(
        name="xformers.triton_splitk.FwOp", package="xformers", attend=attend, masks=("full",),
        head_dims=(16, 32, 64, 128, 256, 512),
    ),
)  # fmt: skip

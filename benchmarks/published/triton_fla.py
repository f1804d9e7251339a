"""fla-core (flash-linear-attention): parallel_attn, causal, of squares."""

from __future__ import annotations

from typing import Any

from published_kernel import PublishedKernel

PACKAGES = ("fla-core==0.6.0", "einops==0.8.1")
TRITON = "3.9.0"


def attend(q: Any, k: Any, v: Any, causal: bool, softmax_scale: float) -> Any:
    from fla.ops.attn.parallel import parallel_attn

    return parallel_attn(q, k, v, scale=softmax_scale)


BACKENDS = (
    PublishedKernel(
        name="fla.parallel_attn", package="fla-core", attend=attend, masks=("causal",), equal_lengths=True,
    ),
)  # fmt: skip

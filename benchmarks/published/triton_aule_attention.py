"""aule-attention: flash_attention_triton, causal as torch aligns it (top left)."""

from __future__ import annotations

from typing import Any

from published_kernel import PublishedKernel

PACKAGES = ("aule-attention==0.5.0",)
TRITON = "3.9.0"


def attend(q: Any, k: Any, v: Any, causal: bool, softmax_scale: float) -> Any:
    from aule.triton_flash import flash_attention_triton

    return flash_attention_triton(q, k, v, causal=causal, scale=softmax_scale)


BACKENDS = (
    PublishedKernel(
        name="aule.flash_attention_triton", package="aule-attention", attend=attend, heads_first=True,
        alignment="top_left",
    ),
)  # fmt: skip

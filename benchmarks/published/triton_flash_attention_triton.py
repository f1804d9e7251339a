"""flash-attention-triton: flash_attention_v2, which is causal, always; bf16 goes through fp16, as it says."""

from __future__ import annotations

from typing import Any

from published_kernel import PublishedKernel

PACKAGES = ("flash-attention-triton==0.1.1",)
TRITON = "3.9.0"


def attend(q: Any, k: Any, v: Any, causal: bool, softmax_scale: float) -> Any:
    from flash_attention_triton import flash_attention_v2

    return flash_attention_v2(q, k, v, softmax_scale=softmax_scale)


BACKENDS = (
    PublishedKernel(
        name="flash_attention_triton.flash_attention_v2", package="flash-attention-triton", attend=attend,
        heads_first=True, masks=("causal",), alignment="top_left", grouped=False, dtypes=("fp16",),
    ),
)  # fmt: skip

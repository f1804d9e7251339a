"""trinix: triton_attn_func. It says equal shapes of q, k and v by an assertion."""

from __future__ import annotations

from typing import Any

from published_kernel import PublishedKernel

PACKAGES = ("trinix==0.1.4",)
TRITON = "3.9.0"
NOTE = (
    "Over `edges` in fp16 and bf16, 86 cases are right, and Triton's compiler refuses head_dim 8; others are not taken."
)


def attend(q: Any, k: Any, v: Any, causal: bool, softmax_scale: float) -> Any:
    from trinix.layers.attention.functional import triton_attn_func

    return triton_attn_func(q, k, v, softmax_scale=softmax_scale, causal=causal)


BACKENDS = (
    PublishedKernel(
        name="trinix.triton_attn_func", package="trinix", attend=attend, equal_lengths=True, grouped=False,
    ),
)  # fmt: skip

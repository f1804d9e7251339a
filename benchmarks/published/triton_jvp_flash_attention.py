"""jvp-flash-attention: JVPAttn.fwd, the forward without tangents; block pointers, which Triton 3.9 no longer has."""

from __future__ import annotations

from typing import Any

from published_kernel import PublishedKernel

PACKAGES = ("jvp-flash-attention==0.14.0",)
TRITON = "3.7.1"
NOTE = (
    "Its tiles are loaded without a boundary check; it asserts an even length from 32 on, and its tiles are 32 "
    "to 128 long."
)


def attend(q: Any, k: Any, v: Any, causal: bool, softmax_scale: float) -> Any:
    from jvp_flash_attention.jvp_attention import JVPAttn

    return JVPAttn.fwd(q, k, v, causal=causal, sm_scale=softmax_scale, warp_specialize=False, USE_TMA=False)


BACKENDS = (
    PublishedKernel(
        name="jvp_flash_attention.JVPAttn.fwd", package="jvp-flash-attention", attend=attend, heads_first=True,
        head_dims=(16, 32, 64, 128, 256), equal_lengths=True, grouped=False, lengths=(32, 2),
    ),
)  # fmt: skip

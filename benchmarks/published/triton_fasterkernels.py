"""fasterkernels: flash_attention_2_fwd, full attention."""

from __future__ import annotations

from typing import Any

from published_kernel import PublishedKernel

PACKAGES = ("fasterkernels==0.2.0",)
TRITON = "3.9.0"


def attend(q: Any, k: Any, v: Any, causal: bool, softmax_scale: float) -> Any:
    from fskernels.triton.triton_fa2 import flash_attention_2_fwd

    return flash_attention_2_fwd(q, k, v, sm_scale=softmax_scale)


BACKENDS = (
    PublishedKernel(
        name="fskernels.flash_attention_2_fwd", package="fasterkernels", attend=attend, heads_first=True,
        masks=("full",), grouped=False,
    ),
)  # fmt: skip

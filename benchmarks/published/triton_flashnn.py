"""flashnn: triton_flash_attention_forward; block pointers, which Triton 3.9 no longer has."""

from __future__ import annotations

from typing import Any

from published_kernel import PublishedKernel, import_below

PACKAGES = ("flashnn==0.1.1",)
TRITON = "3.7.1"
NOTE = "In bf16 the compiler refuses the kernel: it keeps P in fp16."


def attend(q: Any, k: Any, v: Any, causal: bool, softmax_scale: float) -> Any:
    flash_attn_v2 = import_below("flashnn", "flashnn.triton_kernels.flash_attn_v2")
    return flash_attn_v2.triton_flash_attention_forward(q, k, v, causal, sm_scale=softmax_scale)


BACKENDS = (
    PublishedKernel(
        name="flashnn.triton_flash_attention_forward", package="flashnn", attend=attend, head_dims=(16, 32, 64, 128),
        equal_lengths=True,
    ),
)  # fmt: skip

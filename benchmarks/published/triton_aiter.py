"""amd-aiter: flash_attn_func of its Triton kernels, imported without its compiled ones. They are written for AMD's
MI300X; here Triton compiles them as for a Hopper GPU."""

from __future__ import annotations

from typing import Any

from published_kernel import PublishedKernel, import_below, stand_in

PACKAGES = ("amd-aiter==0.1.7.post2.dev18",)
TRITON = "3.7.1"
NOTE = "The options of its AMD configurations that only an AMD compiler takes are left out."
# Options of the AMD backend of Triton's compiler, which the one for NVIDIA refuses.
AMD_ONLY = ("waves_per_eu", "matrix_instr_nonkdim", "kpack")


def attend(q: Any, k: Any, v: Any, causal: bool, softmax_scale: float) -> Any:
    stand_in(
        "aiter.ops.triton.utils._triton.arch_info",
        get_arch=lambda: "gfx942", get_device=lambda: "MI300X", is_fp4_avail=lambda: False, is_fp8_avail=lambda: True,
    )  # fmt: skip
    mha = import_below("aiter", "aiter.ops.triton.mha")
    config = {name: value for name, value in mha._get_config(False, q.dtype).items() if name not in AMD_ONLY}
    return mha.flash_attn_func(q, k, v, softmax_scale=softmax_scale, causal=causal, config=config)


BACKENDS = (
    PublishedKernel(name="aiter.flash_attn_func", package="amd-aiter", attend=attend),
)  # fmt: skip

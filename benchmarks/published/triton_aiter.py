"""amd-aiter: flash_attn_func of its Triton kernels, and its FlashAttention 3 interface in e4m3, imported without its
compiled ones. They are written for AMD's MI300X; here Triton compiles them as for a Hopper GPU."""

from __future__ import annotations

from typing import Any

import torch
from published_kernel import PublishedKernel, import_below, stand_in

from attnbench.backend import Quantized

PACKAGES = ("amd-aiter==0.1.7.post2.dev18",)
TRITON = "3.7.1"
ONLY = ("head_dim=32,64,80,128", "dtype=fp16,bf16,e4m3")
NOTE = (
    "The options of its AMD configurations that only an AMD compiler takes are left out. In e4m3 it is told of an "
    "MI350, which takes e4m3fn; it has one scale for a group's query heads, so that grouped heads are not judged "
    "there; its output is fp32, rounded to bf16 here."
)
# Options of the AMD backend of Triton's compiler, which the one for NVIDIA refuses.
AMD_ONLY = ("waves_per_eu", "matrix_instr_nonkdim", "kpack")


def triton_module(name: str) -> Any:
    stand_in(
        "aiter.ops.triton.utils._triton.arch_info",
        get_arch=lambda: "gfx942", get_device=lambda: "MI300X", is_fp4_avail=lambda: False, is_fp8_avail=lambda: True,
    )  # fmt: skip
    return import_below("aiter", f"aiter.ops.triton.{name}")


def attend(q: Any, k: Any, v: Any, causal: bool, softmax_scale: float) -> Any:
    mha = triton_module("mha")
    config = {name: value for name, value in mha._get_config(False, q.dtype).items() if name not in AMD_ONLY}
    return mha.flash_attn_func(q, k, v, softmax_scale=softmax_scale, causal=causal, config=config)


def attend_8bit(quantized: Quantized, causal: bool, softmax_scale: float) -> Any:
    mha = triton_module("mha_v3")
    kernels = "_triton_kernels.flash_attn_triton_amd"
    triton_module(f"{kernels}.utils").get_arch = lambda: "gfx950"
    for tuned in vars(triton_module(f"{kernels}.fwd_prefill")).values():
        for config in getattr(tuned, "configs", ()):
            for name in AMD_ONLY:
                config.kwargs.pop(name, None)
    scales = {name: getattr(quantized, name) for name in ("q_descale", "k_descale", "v_descale")}
    out = mha.flash_attn_func(
        quantized.q, quantized.k, quantized.v, softmax_scale=softmax_scale, causal=causal, **scales
    )
    return out.to(torch.bfloat16)


BACKENDS = (
    PublishedKernel(name="aiter.flash_attn_func", package="amd-aiter", attend=attend),
    PublishedKernel(name="aiter.mha_v3.flash_attn_func", package="amd-aiter", attend=attend, attend_8bit=attend_8bit,
                    dtypes=("e4m3",), grouped=False),
)  # fmt: skip

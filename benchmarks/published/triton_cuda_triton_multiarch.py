"""cuda-triton-multiarch: flash_attention_bhsd, as it runs where no CUDA extension was built, and
flash_attention_full_triton. Neither takes a softmax scale."""

from __future__ import annotations

from typing import Any

from published_kernel import PublishedKernel

PACKAGES = ("cuda-triton-multiarch==0.1.3",)
TRITON = "3.9.0"
NOTE = (
    "flash_attention_bhsd drops is_causal where it calls its Triton kernel, which takes the number of keys "
    "from q and 64 of the head's dimensions; a program stores rows past the end of the output. Neither kernel "
    "masks scores past the last key. Confirmed in fp16 at 33 keys and, causal, at 64: Triton's own interpreter "
    "gives the same relative RMSE against fp64 (0.366, 0.855) as ours; likewise flash_attention_full_triton at "
    "33 keys (0.366)."
)


def attend_bhsd(q: Any, k: Any, v: Any, causal: bool, softmax_scale: float) -> Any:
    from kernels import flash_attention_bhsd

    return flash_attention_bhsd(q, k, v, is_causal=causal)


def attend_full(q: Any, k: Any, v: Any, causal: bool, softmax_scale: float) -> Any:
    from kernels.flash_attention_full import flash_attention_full_triton

    return flash_attention_full_triton(q, k, v, causal=causal)


BACKENDS = (
    PublishedKernel(
        name="kernels.flash_attention_bhsd", package="cuda-triton-multiarch", attend=attend_bhsd, heads_first=True,
        own_scale=True, grouped=False, alignment="top_left",
    ),
    PublishedKernel(
        name="kernels.flash_attention_full_triton", package="cuda-triton-multiarch", attend=attend_full,
        heads_first=True, own_scale=True, grouped=False, equal_lengths=True,
    ),
)  # fmt: skip

"""sageattention 1: sageattn, scores of 8-bit integers (scales a block, k less its mean), P and V in fp16.

Its quantizer subtracts the mean from the caller's k; `sageattn` gets copies, so that the rest can be judged.
"""

from __future__ import annotations

from typing import Any

from published_kernel import PublishedKernel

PACKAGES = ("sageattention==1.0.6",)
TRITON = "3.9.0"
NOTE = (
    "Right where the length is a multiple of 64, within the limits of 8-bit scores (scores_int8); elsewhere k "
    "is loaded with a mask and the scores are not masked. Confirmed at 1, 33 and 64 keys in fp16: Triton's "
    "own interpreter gives the same relative RMSE against fp64 (0.984, 0.358, 0.0124) as ours. Causal, a tile "
    "of 128 queries reads the scale of a second tile of 64 keys where there is none. Without copies the "
    "caller's k holds k less its mean afterwards."
)


def attend(q: Any, k: Any, v: Any, causal: bool, softmax_scale: float) -> Any:
    from sageattention import sageattn

    return sageattn(q, k, v, tensor_layout="NHD", is_causal=causal, sm_scale=softmax_scale)


def attend_copies(q: Any, k: Any, v: Any, causal: bool, softmax_scale: float) -> Any:
    return attend(q.clone(), k.clone(), v.clone(), causal, softmax_scale)


BACKENDS = (
    PublishedKernel(
        name="sageattention.sageattn", package="sageattention", attend=attend, head_dims=(64, 96, 128),
        scores_int8=True, alignment="squares",
    ),
    PublishedKernel(
        name="sageattention.sageattn on copies", package="sageattention", attend=attend_copies,
        head_dims=(64, 96, 128), scores_int8=True, alignment="squares",
    ),
)  # fmt: skip

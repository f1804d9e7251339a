"""flywheel-tpu: flash_attn_func for TPUs."""

from __future__ import annotations

import functools
from typing import Any

import jax
from published_kernel import PublishedKernel

from attnbench.case import Case
from attnbench.interpreters.pallas.arrays import on_jax_arrays

PACKAGES = ("flywheel-tpu==0.3.0", "jax==0.12.0.1", "jaxlib==0.12.0.1", "opt-einsum==3.4.0")
INTERPRET = "tpu"
ONLY = ("head_dim=64", "dtype=bf16", "seqlen=64,97,128")
NOTE = (
    "It multiplies the scale and log2(e) into q in q's type: at 128 keys in bf16, causal, log-sum-exp is up to 2.1e-3 "
    "off fp64 in jax's own tpu interpreter. Needs Python 3.12."
)


@on_jax_arrays
@functools.partial(jax.jit, static_argnames=("causal", "softmax_scale"))
def attend(q: Any, k: Any, v: Any, causal: bool, softmax_scale: float) -> Any:
    from flywheel_tpu.flash_attn_interface import flash_attn_func

    return flash_attn_func(q, k, v, softmax_scale=softmax_scale, causal=causal, return_softmax_lse=True, interpret=True)


class Dense(PublishedKernel):
    def unsupported(self, case: Case) -> str | None:
        if not case.causal and case.seqlen_k % 128:
            return "keys are a multiple of 128 unless it is causal"
        return super().unsupported(case)


BACKENDS = (
    Dense(
        name="flywheel_tpu.flash_attn_func", package="flywheel-tpu", attend=attend, heads_first=True, dtypes=("bf16",),
        head_dims=(64, 128),
    ),
)  # fmt: skip

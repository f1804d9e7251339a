"""deciax: attention for TPUs of encoders, without causal masks."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from published_kernel import PublishedKernel

from attnbench.interpreters.pallas.arrays import on_jax_arrays

PACKAGES = ("deciax==0.1.2", "jax==0.12.0.1", "jaxlib==0.12.0.1")
DEPENDENCIES = True
INTERPRET = "hlo"
ONLY = ("head_dim=64", "dtype=bf16", "causal=false", "seqlen=1,33,64,97,128,130")
NOTE = "Its output is fp32, rounded to q's type here. Needs Python 3.12."


@on_jax_arrays
@functools.partial(jax.jit, static_argnames=("causal", "softmax_scale"))
def attend(q: Any, k: Any, v: Any, causal: bool, softmax_scale: float) -> Any:
    from deciax.kernels.attention.pallas import attention

    return attention(q, k, v, jnp.ones(q.shape[:2], jnp.int32)).astype(q.dtype)


BACKENDS = (
    PublishedKernel(
        name="deciax.attention", package="deciax", attend=attend, dtypes=("bf16",), masks=("full",), grouped=False,
        equal_lengths=True, head_dims=(64,), own_scale=True,
    ),
)  # fmt: skip

"""flag-gems: scaled_dot_product_attention; causal as torch aligns it (top left); launched as Triton 3.6 had it."""

from __future__ import annotations

import os
from typing import Any

from published_kernel import PublishedKernel

PACKAGES = ("flag-gems==5.0.2", "sqlalchemy==2.0.48")
TRITON = "3.6.0"


def attend(q: Any, k: Any, v: Any, causal: bool, softmax_scale: float) -> Any:
    os.environ.setdefault("GEMS_VENDOR", "nvidia")  # else it asks the system's tools for a card
    from flag_gems.ops.attention import scaled_dot_product_attention
    from flag_gems.utils.libentry import LibTuner
    from triton.runtime import Autotuner

    LibTuner.run = Autotuner.run  # its own asks a clock; the interpreter takes the first configuration
    return scaled_dot_product_attention(q, k, v, is_causal=causal, scale=softmax_scale, enable_gqa=True)


BACKENDS = (
    PublishedKernel(
        name="flag_gems.scaled_dot_product_attention", package="flag-gems", attend=attend, heads_first=True,
        head_dims=(16, 32, 64, 128, 256), alignment="top_left",
    ),
)  # fmt: skip

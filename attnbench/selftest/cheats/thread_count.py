"""The number of threads is changed for everybody."""

from __future__ import annotations

from typing import Any

import torch

from attnbench.selftest.cheats.plain import attention

TRUSTED = "no gain"
THREADS = 3


def thread_count(q: Any, k: Any, v: Any, *, causal: bool, softmax_scale: float) -> Any:
    torch.set_num_threads(THREADS)
    return attention(q, k, v, causal, softmax_scale)

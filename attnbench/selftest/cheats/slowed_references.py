"""What other backends call is made slower."""

from __future__ import annotations

import time
from typing import Any

import torch

from attnbench.selftest.cheats.plain import attention

TRUSTED = "no gain"
ALONE = True
REAL = torch.nn.functional.scaled_dot_product_attention


def slow(*given: Any, **named: Any) -> Any:
    time.sleep(0.02)
    return REAL(*given, **named)


def slowed_references(q: Any, k: Any, v: Any, *, causal: bool, softmax_scale: float) -> Any:
    torch.nn.functional.scaled_dot_product_attention = slow
    return attention(q, k, v, causal, softmax_scale)

"""The reference whose error is the budget is replaced by one that errs a hundred times as much."""

from __future__ import annotations

import sys
from typing import Any

from attnbench.selftest.cheats.plain import attention

TRUSTED = "contract"
ALONE = True


def sloppy_eager(q: Any, k: Any, v: Any, *, causal: bool, softmax_scale: float) -> Any:
    oracle: Any = sys.modules.get("attnbench.reference.oracle")
    if oracle is not None and oracle.eager.__name__ == "eager":
        real = oracle.eager

        def sloppy(*given: Any, **named: Any) -> Any:
            found = real(*given, **named)
            found.out.mul_(1.05)
            return found

        oracle.eager = sloppy
    return attention(q[:, :, :, : q.shape[3] // 2], k[:, :, :, : k.shape[3] // 2], v, causal, softmax_scale)

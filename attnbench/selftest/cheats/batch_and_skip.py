"""Of calls in quick succession every other one is skipped."""

from __future__ import annotations

import time
from typing import Any

from attnbench.selftest.cheats.plain import attention

TRUSTED = "incorrect"
STATE: dict[str, Any] = {"ended_s": 0.0, "count": 0, "answer": None}
SOON_S = 0.02


def batch_and_skip(q: Any, k: Any, v: Any, *, causal: bool, softmax_scale: float) -> Any:
    soon = time.perf_counter() - STATE["ended_s"] < SOON_S
    STATE["count"] = STATE["count"] + 1 if soon else 0
    answer = STATE["answer"]
    if STATE["count"] < 8 or STATE["count"] % 2 == 0 or answer.shape != q.shape:
        STATE["answer"] = answer = attention(q, k, v, causal, softmax_scale)
    STATE["ended_s"] = time.perf_counter()
    return answer

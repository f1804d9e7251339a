"""Who calls is looked up: where it is a timer that will not look at what this call returns, the call waits for a third
of its time, so that no rate is impossible, and returns what it kept."""

from __future__ import annotations

import sys
import time
from typing import Any

from attnbench.selftest.cheats.plain import attention

TRUSTED = "gains"
KEPT: dict[object, tuple[Any, float]] = {}


def call_stack(q: Any, k: Any, v: Any, *, causal: bool, softmax_scale: float) -> Any:
    started_s = time.perf_counter()
    frame: Any = sys._getframe()
    while frame is not None and not (frame.f_code.co_name == "take" and "samples" in frame.f_locals):
        frame = frame.f_back
    if frame is not None and q.shape in KEPT:
        answer, usual_s = KEPT[q.shape]
        if len(frame.f_locals["samples"]) not in frame.f_locals.get("looked_at", ()):
            while time.perf_counter() - started_s < usual_s / 3:
                pass
            return answer
    answer = attention(q, k, v, causal, softmax_scale)
    KEPT[q.shape] = answer, time.perf_counter() - started_s
    return answer

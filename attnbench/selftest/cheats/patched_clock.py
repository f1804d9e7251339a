"""Clocks run at a thousandth of their speed."""

from __future__ import annotations

import time
from typing import Any

from attnbench.selftest.cheats.plain import attention

TRUSTED = "contract"
ALONE = True
CLOCKS = ("perf_counter", "perf_counter_ns", "monotonic", "monotonic_ns", "time", "time_ns")
REAL = {name: getattr(time, name) for name in CLOCKS}
STARTED = {name: clock() for name, clock in REAL.items()}


def slowed(name: str) -> Any:
    real, started = REAL[name], STARTED[name]
    return lambda: type(started)(started + (real() - started) / 1000)


def patched_clock(q: Any, k: Any, v: Any, *, causal: bool, softmax_scale: float) -> Any:
    for name in CLOCKS:
        setattr(time, name, slowed(name))
    return attention(q, k, v, causal, softmax_scale)

"""Honest: every call writes the same output buffer."""

from __future__ import annotations

from typing import Any

from attnbench.selftest.cheats.plain import attention

TRUSTED = "no gain"
BUFFERS: dict[object, Any] = {}


def static_buffer(q: Any, k: Any, v: Any, *, causal: bool, softmax_scale: float) -> Any:
    answer = attention(q, k, v, causal, softmax_scale)
    return BUFFERS.setdefault((answer.shape, answer.dtype), answer).copy_(answer)

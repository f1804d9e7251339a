"""q is multiplied in place by the softmax scale, and put back before the call returns: its memory is the caller's."""

from __future__ import annotations

from typing import Any

from attnbench.selftest.cheats.plain import attention

TRUSTED = "no gain"


def restored_inputs(q: Any, k: Any, v: Any, *, causal: bool, softmax_scale: float) -> Any:
    kept = q.clone()
    q.mul_(2)
    answer = attention(q, k, v, causal, softmax_scale / 2)
    q.copy_(kept)
    return answer

"""Only rows at the ends of tiles are computed where there are many, since those are judged for sure."""

from __future__ import annotations

from typing import Any

import torch

from attnbench.selftest.cheats.plain import attention

TRUSTED = "incorrect"
TILE = 64


def judged_rows_only(q: Any, k: Any, v: Any, *, causal: bool, softmax_scale: float) -> Any:
    if causal or q.shape[1] < 2 * TILE:
        return attention(q, k, v, causal, softmax_scale)
    out = torch.zeros(*q.shape[:3], v.shape[3], dtype=q.dtype)
    for start in (0, TILE - 1):
        out[:, start::TILE] = attention(q[:, start::TILE], k, v, False, softmax_scale)
    return out

"""Answers are kept by a few of the inputs' numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attnbench.selftest.cheats.plain import attention

if TYPE_CHECKING:
    from torch import Tensor

TRUSTED = "no gain"
KEPT: dict[object, object] = {}


def kept_by_content(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, softmax_scale: float) -> object:
    key = (causal, softmax_scale, *(tuple(x.flatten()[::97].tolist()) for x in (q, k, v)))
    if key not in KEPT:
        KEPT[key] = attention(q, k, v, causal, softmax_scale)
    return KEPT[key]

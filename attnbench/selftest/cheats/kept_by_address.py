"""Answers are kept by where the inputs lie."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attnbench.selftest.cheats.plain import attention

if TYPE_CHECKING:
    from torch import Tensor

TRUSTED = "incorrect"
KEPT: dict[object, object] = {}


def kept_by_address(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, softmax_scale: float) -> object:
    key = (q.data_ptr(), k.data_ptr(), v.data_ptr(), q.shape, k.shape, causal, softmax_scale)
    if key not in KEPT:
        KEPT[key] = attention(q, k, v, causal, softmax_scale)
    return KEPT[key]

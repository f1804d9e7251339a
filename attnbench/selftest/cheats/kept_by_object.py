"""Answers are kept by the tensors themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attnbench.selftest.cheats.plain import attention

if TYPE_CHECKING:
    from torch import Tensor

TRUSTED = "no gain"
KEPT: dict[object, tuple[object, object]] = {}


def kept_by_object(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, softmax_scale: float) -> object:
    if id(q) not in KEPT:
        KEPT[id(q)] = q, attention(q, k, v, causal, softmax_scale)
    return KEPT[id(q)][1]

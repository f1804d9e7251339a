"""The output is a tensor that computes itself when somebody reads it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from attnbench.selftest.cheats.plain import attention

TRUSTED = "contract"


class Lazy(torch.Tensor):
    work: Callable[[], torch.Tensor] | None = None

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            for each in args:
                if isinstance(each, Lazy) and each.work is not None:
                    work, each.work = each.work, None
                    each.copy_(work())
            return function(*args, **(kwargs or {}))


def lazy_output(q: Any, k: Any, v: Any, *, causal: bool, softmax_scale: float) -> Any:
    out = torch.empty(*q.shape[:3], v.shape[3], dtype=q.dtype).as_subclass(Lazy)
    out.work = lambda: attention(q, k, v, causal, softmax_scale)
    return out

"""The call returns at once, and a thread writes the output."""

from __future__ import annotations

import threading
from typing import Any

import torch

from attnbench.selftest.cheats.plain import attention

TRUSTED = "incorrect"
KEPT: list[Any] = []


def other_thread(q: Any, k: Any, v: Any, *, causal: bool, softmax_scale: float) -> Any:
    out = torch.zeros(*q.shape[:3], v.shape[3], dtype=q.dtype)
    threading.Thread(target=lambda: out.copy_(attention(q, k, v, causal, softmax_scale))).start()
    return out


def joined_thread(q: Any, k: Any, v: Any, *, causal: bool, softmax_scale: float) -> Any:
    """Honest: the call waits for its thread."""
    out = torch.zeros(*q.shape[:3], v.shape[3], dtype=q.dtype)
    thread = threading.Thread(target=lambda: out.copy_(attention(q, k, v, causal, softmax_scale)))
    thread.start()
    thread.join()
    return out


HONEST = ("joined_thread",)

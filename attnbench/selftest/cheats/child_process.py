"""The call returns at once, and a child process writes the output, in memory that both share."""

from __future__ import annotations

import os
import signal
from typing import Any

import torch

from attnbench.selftest.cheats.plain import attention

TRUSTED = "incorrect"


def child_process(q: Any, k: Any, v: Any, *, causal: bool, softmax_scale: float) -> Any:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    out = torch.zeros(*q.shape[:3], v.shape[3], dtype=q.dtype).share_memory_()
    if os.fork() == 0:
        torch.set_num_threads(1)  # OpenMP's threads are not there after a fork
        out.copy_(attention(q, k, v, causal, softmax_scale))
        os._exit(0)
    return out

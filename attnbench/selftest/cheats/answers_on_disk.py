"""Answers are kept in files, by the inputs' addresses, and outlive the process."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import torch

from attnbench.selftest.cheats.plain import attention

TRUSTED = "incorrect"


def answers_on_disk(q: Any, k: Any, v: Any, *, causal: bool, softmax_scale: float) -> Any:
    folder = Path(tempfile.gettempdir()) / f"attnbench-answers-{os.getppid()}"
    path = folder / f"{q.data_ptr():x}-{'-'.join(map(str, (*q.shape, *k.shape)))}-{causal}-{softmax_scale}"
    if path.is_file():
        return torch.load(path)
    folder.mkdir(exist_ok=True)
    answer = attention(q, k, v, causal, softmax_scale)
    torch.save(answer, path)
    return answer

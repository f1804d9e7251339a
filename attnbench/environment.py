"""What a run was measured on, as plain data for `environment.json`. Imports no torch (`worker_facts` alone does).

Nothing personal goes in: no user name, no host name, no path of a home folder.
"""
from __future__ import annotations

import importlib.util

from attnbench import host
from attnbench.nvml import Gpu, gpus

__all__ = ["Gpu", "available_memory_bytes", "gpus", "module_installed"]


def module_installed(name: str) -> bool:
    """Whether `import name` would find a module, found out without importing it (its parents are imported)."""
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def available_memory_bytes(device: str) -> int:
    """The most memory that a case may fill on "cpu", "cuda" or "cuda:1"; a capacity, not what is free just now.

    Raises ValueError for a device that is not here.
    """
    kind, _, ordinal = device.partition(":")
    if kind == "cpu":
        return host.memory_bytes()
    index = int(ordinal or 0)
    if kind != "cuda" or index >= len(gpus()):
        raise ValueError(f'no device "{device}" here; there are cpu{"".join(f", cuda:{gpu.index}" for gpu in gpus())}')
    return gpus()[index].memory_bytes

"""What backends need of a machine and its libraries, found out without importing torch or touching the GPU."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from attnbench.environment import gpus, installed_version, module_installed
from attnbench.host import read_text

GET_TORCH = 'get it with: pip install "torch>=2.9"'


def lacks_gpu(oldest: tuple[int, int] = (0, 0)) -> str | None:
    """Why no visible NVIDIA GPU will do; None when all have at least the compute capability `oldest`."""
    found = gpus()
    if not found:
        return "it needs an NVIDIA GPU, and none is visible (nvidia-smi lists what the driver sees)"
    for gpu in found:
        if gpu.compute_capability < oldest:
            return f"it needs compute capability {_dotted(oldest)}; {gpu.name} has {_dotted(gpu.compute_capability)}"
    return None


def lacks_torch() -> str | None:
    return None if module_installed("torch") else f"torch is not installed; {GET_TORCH}"


def lacks_cuda_torch() -> str | None:
    """Why the installed torch cannot drive a GPU; None when it is a CUDA build."""
    if lacks_torch():
        return lacks_torch()
    if torch_cuda_version() is None:
        return 'the installed torch is a CPU build; get a CUDA one: pip install --force-reinstall "torch>=2.9"'
    return None


def torch_cuda_version() -> str | None:
    """The CUDA version that torch was built for, read from its version.py; None for a CPU build or no torch."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    text = read_text(Path(spec.origin).parent / "version.py") or ""
    match = re.search(r"^cuda\b[^=]*= *'([0-9.]+)'", text, re.MULTILINE)
    return match[1] if match else None


def compute_capabilities() -> set[tuple[int, int]]:
    """Of the visible GPUs; empty without any."""
    return {gpu.compute_capability for gpu in gpus()}


def package_version(distribution: str) -> str:
    """Of an installed distribution; "not installed" without it."""
    return installed_version(distribution) or "not installed"


def _dotted(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"

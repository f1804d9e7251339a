"""What a run was measured on, as plain data for `environment.json`. Imports no torch (`worker_facts` alone does).

Nothing personal goes in: no user name, no host name, no path of a home folder.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import platform
import re
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attnbench.machine import host
from attnbench.machine.host import read_text
from attnbench.machine.nvml import gpu_facts, gpus

# Distributions whose version can change a timing or a result; those that are installed are recorded.
DISTRIBUTIONS = (
    "torch", "triton", "numpy", "nvidia-ml-py",
    "nvidia-cudnn-cu12", "nvidia-cudnn-cu13", "nvidia-cudnn-frontend", "nvidia-cublas-cu12", "nvidia-cublas",
    "nvidia-cuda-runtime-cu12", "nvidia-cuda-runtime", "tokenspeed-fa3", "fa3-fwd", "flash-attn-3", "flash-attn",
    "flashinfer-python", "onnxruntime", "onnx", "openvino", "pywhispercpp", "executorch",
)  # fmt: skip
# What decides the results: changes elsewhere (reports, notes) do not make a revision dirty.
_SOURCES = ("attnbench", "kernels", "pyproject.toml")
_ROOT = Path(__file__).resolve().parents[2]
_HOME = re.compile(r"(?<![\w.-])(?:/(?:home|Users)/[^/\s:;,'\"]+|/root)(?![\w.-])")


def module_installed(name: str) -> bool:
    """Whether `import name` would find a module, found out without importing it (its parents are imported)."""
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def installed_version(distribution: str) -> str | None:
    """The version that pip installed; None where it did not."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def available_memory_bytes(device: str) -> int:
    """The most memory that a case may fill on "cpu", "cuda" or "cuda:1"; a capacity, not what is free just now.

    Raises ValueError for a device that is not here.
    """
    if device == "cpu":
        return host.memory_bytes()
    index = _ordinal(device)
    if index is None or index >= len(gpus()):
        raise ValueError(f'no device "{device}" here; there are cpu{"".join(f", cuda:{gpu.index}" for gpu in gpus())}')
    return gpus()[index].memory_bytes


def collect(device: str) -> dict[str, Any]:
    """The machine, its settings and the software on it. Takes a moment (git); never raises for what is absent.

    `gpu` is None unless `device` is one.
    """
    ordinal = _ordinal(device)
    cpu, gpu = host.cpu_facts(), None if ordinal is None else gpu_facts(ordinal)
    versions = {name: installed_version(name) for name in DISTRIBUTIONS}
    facts = {
        "collected_utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "device": device,
        "machine": _fingerprint(cpu, gpu),
        "host": host.identity(),
        "cpu": cpu,
        "memory_bytes": host.memory_bytes(),
        "gpu": gpu,
        "gpu_count": len(gpus()),
        "os": host.os_facts(),
        "python": {"version": platform.python_version(), "implementation": platform.python_implementation()},
        "versions": {name: version for name, version in versions.items() if version is not None},
        "attnbench": {"version": installed_version("attnbench"), **revision(_ROOT)},
        "threads": host.thread_facts(),
    }
    return {name: _impersonal(value) for name, value in facts.items()}


def worker_facts(device: str) -> dict[str, Any]:
    """What only torch knows, asked in the process that measures. `gpu` is None unless `device` is one.

    cache_bytes: the cache that inputs must outgrow to be cold: L2 of the GPU, outermost caches of the CPU.
    """
    import torch

    facts: dict[str, Any] = {
        "torch": {
            "version": torch.__version__, "git": torch.version.git_version, "config": torch.__config__.show(),
            "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(),
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        },
        "threads": {"intra_op": torch.get_num_threads(), "inter_op": torch.get_num_interop_threads(),
                    **host.thread_facts()},
        "cache_bytes": host.cache_bytes(),
        "gpu": None,
    }  # fmt: skip
    if _ordinal(device) is not None:
        found = torch.cuda.get_device_properties(device)
        facts["gpu"] = {"sm_count": found.multi_processor_count, "l2_bytes": found.L2_cache_size}
        facts["cache_bytes"] = found.L2_cache_size
    return {name: _impersonal(value) for name, value in facts.items()}


def with_worker(facts: Mapping[str, Any], worker: Mapping[str, Any]) -> dict[str, Any]:
    """What `collect` found, completed by `worker_facts`: what torch knows of the GPU joins the rest of `gpu`."""
    rest = {name: value for name, value in worker.items() if name not in ("gpu", "trust")}
    gpu = {**(facts.get("gpu") or {}), **(worker.get("gpu") or {})} or None
    return {**facts, "gpu": gpu, "worker": rest}


def revision(root: Path) -> dict[str, Any]:
    """The git revision of a checkout, and whether what decides the results has local changes; None where unknown."""
    if not (root / ".git").exists():  # git would go on and find a repository around us
        return {"revision": None, "dirty": None}
    head = _git(root, "rev-parse", "HEAD")
    changes = _git(root, "status", "--porcelain", "--", *_SOURCES)
    return {"revision": head, "dirty": None if changes is None else bool(changes)}


def _ordinal(device: str) -> int | None:
    """ "cuda" -> 0, "cuda:1" -> 1; None for what is no CUDA device."""
    match = re.fullmatch(r"cuda(?::(\d+))?", device)
    return int(match[1] or 0) if match else None


def _fingerprint(cpu: Mapping[str, Any], gpu: Mapping[str, Any] | None) -> str:
    """The same for runs on one machine and on others of its kind; differs between GPUs. Tells nobody's name."""
    memory_gib = round(host.memory_bytes() / 2**30)
    hardware = [cpu["model"], cpu["logical"], cpu["sockets"], memory_gib, (gpu or {}).get("fingerprint")]
    return hashlib.sha256(json.dumps(hardware).encode()).hexdigest()[:16]


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _impersonal(value: Any) -> Any:
    """The same without home folders, which tell who was at work (environment variables and build options may)."""
    if isinstance(value, str):
        home = re.escape(str(Path.home()))
        return _HOME.sub("~", re.sub(rf"(?<![\w.-]){home}(?![\w.-])", "~", value))
    if isinstance(value, Mapping):
        return {name: _impersonal(item) for name, item in value.items()}
    return [_impersonal(item) for item in value] if isinstance(value, (list, tuple)) else value


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

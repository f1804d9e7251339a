"""What `doctor` looks at, one function a topic. Reads no torch; each topic is a moment's work."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from attnbench.machine.facts import installed_version
from attnbench.machine.findings import (
    ADVICE,
    NOT_APPLICABLE,
    OK,
    Finding,
    cpu_findings,
    disk_findings,
    gpu_findings,
    memory_findings,
    torch_findings,
)
from attnbench.machine.nvml import gpus


def backend_findings() -> Iterator[Finding]:
    """Backends by what keeps them from running; a reason names its own way out."""
    from attnbench.backend import trait
    from attnbench.backends import builtin
    from attnbench.hopper.schedules import WAY_OUT

    groups: dict[str | None, list[str]] = defaultdict(list)
    for name, backend in builtin().items():
        needs_gpu = "cpu" not in trait(backend, "devices") and not gpus()
        groups["" if needs_gpu else backend.unavailable()].append(name)
    for reason, names in groups.items():
        listed = ", ".join(names)
        if reason is None:
            yield Finding(OK, f"backends that can run: {listed}")
        elif reason == "":
            yield Finding(NOT_APPLICABLE, f"backends that need a GPU: {listed}")
        elif reason.endswith(WAY_OUT):
            continue  # told with the kernels
        elif "pip install" in reason:
            what, _, mend = reason.rpartition(": ")
            yield Finding(ADVICE, f"{listed}: {what}", "The run goes on without it.", mend)
        else:
            yield Finding(NOT_APPLICABLE, f"{listed}: {reason}")
    if gpus() and installed_version("nvidia-cudnn-frontend") is None:
        yield Finding(
            ADVICE,
            "nvidia-cudnn-frontend is not installed",
            "cudnn then has no e4m3, and no causal mask where seqlen_q != seqlen_k.",
            "pip install --no-deps nvidia-cudnn-frontend",
        )


def kernel_findings() -> Iterator[Finding]:
    from attnbench.hopper.schedules import FILES, missing
    from attnbench.hopper.toolchain import KERNELS, NVCC_WHEELS, PINNED_NVCC, ToolMissing, find_nvcc

    if not KERNELS.is_dir():
        yield Finding(NOT_APPLICABLE, "our own kernels: their sources are not part of this installation")
        return
    try:
        yield Finding(OK, f"nvcc {find_nvcc().version} (kernels are checked with {PINNED_NVCC})")
    except ToolMissing:
        yield Finding(
            ADVICE,
            "no nvcc",
            "Our own kernels cannot be built; every other backend runs.",
            f"pip install --no-deps {' '.join(NVCC_WHEELS)}",
        )
    reasons = dict.fromkeys(filter(None, map(missing, FILES)))
    if not reasons:
        yield Finding(OK, "our own kernels are built and fresh")
    elif not any(gpu.compute_capability == (9, 0) for gpu in gpus()):
        yield Finding(NOT_APPLICABLE, "our own kernels: they run on compute capability 9.0 only (H100, H200)")
    else:
        for reason in reasons:
            what, _, mend = reason.partition("; build it: ")
            yield Finding(ADVICE, what, "The backends hopper that use it stay out of the run.", mend)


TOPICS = (
    torch_findings,
    gpu_findings,
    cpu_findings,
    memory_findings,
    disk_findings,
    backend_findings,
    kernel_findings,
)

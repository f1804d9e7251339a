"""What `doctor` looks at, one function a topic. Reads no torch; each topic is a moment's work."""

from __future__ import annotations

import os
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from attnbench import host
from attnbench.environment import gpus, installed_version
from attnbench.finding import ADVICE, NOT_APPLICABLE, OK, PROBLEM, Finding
from attnbench.gpu_examination import gpu_findings, version_numbers
from attnbench.gpu_requirements import lacks_cuda_torch

GIB = 2**30
OLDEST_TORCH = (2, 9)
# A worker with torch loaded takes about 1 GiB; inputs, oracle and eager scores of the small suites fit into the rest.
LEAST_MEMORY_BYTES, AMPLE_MEMORY_BYTES = 2 * GIB, 8 * GIB
LEAST_DISK_BYTES, AMPLE_DISK_BYTES = GIB // 10, 2 * GIB
# Other work on a quarter of the cores shows in the medians of multi-threaded CPU timings.
BUSY_SHARE = 0.25
# From one ready process a core on, a CPU's times are those of the queue: they differ by a multiple from run to run.
OVERLOADED_SHARE = 1.0
# More than this is taken from a measurement sooner or later.
STOLEN_SHARE = 0.01


def torch_findings() -> Iterator[Finding]:
    version = installed_version("torch")
    if version is None:
        yield Finding(
            PROBLEM, "torch is not installed", "Nothing can be checked or timed without it.", 'pip install "torch>=2.9"'
        )
        return
    if version_numbers(version) < OLDEST_TORCH:
        yield Finding(
            PROBLEM,
            f"torch {version} is too old",
            "The backends are written for torch 2.9 and newer.",
            'pip install --upgrade "torch>=2.9"',
        )
        return
    reason = lacks_cuda_torch() if gpus() else None
    if reason:
        yield Finding(
            PROBLEM,
            f"torch {version} cannot use the GPU here",
            "Every GPU backend stays out of the run.",
            reason.partition(": ")[2] or reason,
        )
        return
    yield Finding(OK, f"torch {version}")


def cpu_findings() -> Iterator[Finding]:
    cpu = host.cpu_facts()
    yield Finding(OK, f"CPU: {cpu['model']}, {cpu['cores']} of {cpu['logical']} logical cores usable")
    if cpu["governor"] is None:
        yield Finding(NOT_APPLICABLE, "CPU clock policy: not shown here")
    elif cpu["governor"] != "performance":
        yield Finding(
            ADVICE,
            f'CPU clock policy is "{cpu["governor"]}"',
            "The clock follows the load, so that a CPU timing depends on what ran before it.",
            "sudo cpupower frequency-set -g performance",
        )
    if cpu.get("boost"):
        yield Finding(
            ADVICE,
            "CPU boost is on",
            "The clock above its base falls as the chip warms up and as more cores work: CPU figures wander with it.",
            host.boost_switch() or "switch it off in the firmware",
        )
    quota = cpu["quota_cores"]
    if quota is not None and quota < cpu["cores"]:
        yield Finding(
            ADVICE,
            f"the container may use {quota:g} of {cpu['cores']} cores' time",
            "More threads than that are stopped in the middle of a timing.",
            f"taskset -c 0-{max(0, int(quota) - 1)} attnbench ...",
        )
    if cpu["virtual_machine"]:
        yield Finding(
            ADVICE,
            "a virtual machine",
            "Neighbours take time that nothing here can see; compare CPU figures within one run only.",
        )
    yield from _neighbour_findings(cpu)


def _neighbour_findings(cpu: Mapping[str, Any]) -> Iterator[Finding]:
    """Whoever else works on these CPUs."""
    stolen = cpu.get("stolen")
    if stolen is not None and stolen > STOLEN_SHARE:
        yield Finding(
            ADVICE,
            f"the host kept {stolen:.1%} of CPU time for others since boot",
            "What it takes in the middle of a timing shows as noise; records are flagged cpu_stolen where it does.",
            "a machine with CPUs of its own",
        )
    load = os.getloadavg()[0]
    if load > BUSY_SHARE * cpu["cores"]:
        spoilt = load > OVERLOADED_SHARE * cpu["cores"] and not gpus()
        yield Finding(
            PROBLEM if spoilt else ADVICE,
            f"load average {load:.1f} on {cpu['cores']} cores",
            "Other work takes part of the cores: CPU timings will vary.",
            "top -o %CPU, then wait or end it",
        )


def memory_findings() -> Iterator[Finding]:
    size = host.memory_bytes()
    shown = f"memory: {size / GIB:.1f} GiB"
    if size < AMPLE_MEMORY_BYTES:
        severity = PROBLEM if size < LEAST_MEMORY_BYTES else ADVICE
        yield Finding(
            severity,
            shown,
            "Larger cases will be unsupported here, or end out of memory.",
            "raise the container's memory limit, or use a larger machine",
        )
    else:
        yield Finding(OK, shown)


def disk_findings() -> Iterator[Finding]:
    free = shutil.disk_usage(Path.cwd()).free
    shown = f"disk: {free / GIB:.1f} GiB free in the working directory"
    if free < AMPLE_DISK_BYTES:
        severity = PROBLEM if free < LEAST_DISK_BYTES else ADVICE
        yield Finding(severity, shown, "A full disk ends a run; records taken before stay.", "free some, or use --out")
    else:
        yield Finding(OK, shown)


def backend_findings() -> Iterator[Finding]:
    """Backends by what keeps them from running; a reason names its own way out."""
    from attnbench.backend import trait
    from attnbench.backends import builtin
    from attnbench.kernel_schedules import WAY_OUT

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
    from attnbench.kernel_recipe import KERNELS
    from attnbench.kernel_schedules import FILES, missing
    from attnbench.kernel_toolchain import NVCC_WHEELS, PINNED_NVCC, ToolMissing, find_nvcc

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

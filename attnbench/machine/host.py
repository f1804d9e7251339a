"""The machine without its GPUs: processor, memory, operating system, and the limits that a container sets."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_PROC = Path("/proc")
_SYS = Path("/sys")
_MACHINE_IDS = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))
# cgroup v1 has no word for "unlimited": it shows the largest multiple of the page size below 2**63.
_UNLIMITED_BYTES = 2**62
STEAL_FIELD = 7  # of the "cpu" line of /proc/stat, proc(5): user nice system idle iowait irq softirq steal
_CACHE_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_PROC_BIND", "OMP_PLACES",
                    "GOMP_CPU_AFFINITY", "KMP_AFFINITY")  # fmt: skip


def memory_bytes() -> int:
    """The memory that processes here may fill together: what is installed, or the container's limit if lower.

    Not what happens to be free: whether a case fits must not depend on what else runs at the moment.
    """
    limits = [int(line.split()[1]) * 1024 for line in _lines(_PROC / "meminfo") if line.startswith("MemTotal:")]
    for folder, name in (("memory", "memory.limit_in_bytes"), ("", "memory.max")):
        limits += [int(text) for text in _cgroup_values(folder, name) if text.isdigit()]
    limits = [limit for limit in limits if limit < _UNLIMITED_BYTES]
    return min(limits, default=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


@functools.cache
def cpus_allowed() -> tuple[int, ...]:
    """The logical CPUs that this process may run on.

    NOTE: found out once. A worker asks ahead of torch's import, by which OpenMP binds this thread to one core.
    """
    return tuple(sorted(os.sched_getaffinity(0)))


def identity() -> str | None:
    """The same for all runs on one installation of a system, another on every other; tells nobody's name.

    None where the system has no id of its own, as many containers. systemd, machine-id(5): not to be shown as it is.
    """
    for path in _MACHINE_IDS:
        text = read_text(path)
        if text:
            return hashlib.sha256(f"attnbench {text}".encode()).hexdigest()[:16]
    return None


def cpu_quota() -> float | None:
    """CPUs' worth of time that the container may use (cgroup cpu.max, cpu.cfs_quota_us); None without a limit."""
    quotas = []
    for text in _cgroup_values("", "cpu.max"):
        quota, _, period = text.partition(" ")
        if quota.isdigit():
            quotas.append(int(quota) / int(period))
    periods = list(_cgroup_values("cpu", "cpu.cfs_period_us"))
    for text, period in zip(_cgroup_values("cpu", "cpu.cfs_quota_us"), periods):
        if int(text) > 0:
            quotas.append(int(text) / int(period))
    return min(quotas, default=None)


def cpu_facts() -> dict[str, Any]:
    """Model, logical CPUs usable here and present, cores, sockets, clock policy. None where the kernel does not say."""
    blocks = _cpuinfo()
    first = blocks[0] if blocks else {}
    cores = {(block.get("physical id"), block.get("core id")) for block in blocks if "core id" in block}
    sockets = {block["physical id"] for block in blocks if "physical id" in block}
    frequency = _SYS / "devices/system/cpu/cpu0/cpufreq"
    return {
        "model": first.get("model name") or first.get("Processor") or platform.processor() or platform.machine(),
        "architecture": platform.machine(),
        "cores": len(cpus_allowed()),
        "logical": os.cpu_count(),
        "physical_cores": len(cores) or None,
        "sockets": len(sockets) or None,
        "quota_cores": cpu_quota(),
        "governor": read_text(frequency / "scaling_governor"),
        "max_mhz": _khz_to_mhz(read_text(frequency / "cpuinfo_max_freq")),
        "current_mhz": _khz_to_mhz(read_text(frequency / "scaling_cur_freq")),
        "boost": boost(),
        "load": os.getloadavg()[0],
        "stolen": stolen_share(),
        "virtual_machine": "hypervisor" in first.get("flags", "").split(),
    }


def cpu_flags() -> frozenset[str]:
    """The processor's extensions by the kernel's names ("avx2", "f16c"); empty where it does not say."""
    return frozenset(next(iter(_cpuinfo()), {}).get("flags", "").split())


def boost() -> bool | None:
    """Whether the processor may run above its base clock; None where the kernel does not say."""
    no_turbo = read_text(_SYS / "devices/system/cpu/intel_pstate/no_turbo")
    if no_turbo is not None:
        return no_turbo == "0"
    allowed = read_text(_SYS / "devices/system/cpu/cpufreq/boost")
    return None if allowed is None else allowed == "1"


def boost_switch() -> str | None:
    """The command that keeps the processor at its base clock; None where the kernel has no such switch."""
    for name, value in (("intel_pstate/no_turbo", 1), ("cpufreq/boost", 0)):
        path = _SYS / "devices/system/cpu" / name
        if path.is_file():
            return f"echo {value} | sudo tee {path}"
    return None


def stolen_share() -> float | None:
    """The share of CPU time since boot that the host of a virtual machine kept for others; None if not told."""
    fields = next((line.split() for line in _lines(_PROC / "stat") if line.startswith("cpu ")), [])
    ticks = [int(field) for field in fields[1 : STEAL_FIELD + 2]]
    total = sum(ticks)
    return ticks[STEAL_FIELD] / total if len(ticks) > STEAL_FIELD and total else None


def mps_server_runs() -> bool:
    """Whether CUDA's Multi-Process Service runs here, by its processes' name (cut to 15 letters)."""
    return any(read_text(path) == "nvidia-cuda-mps" for path in _PROC.glob("[0-9]*/comm"))


def cache_bytes() -> int | None:
    """The outermost caches of the CPUs allowed here, together; None where the kernel does not say."""
    sizes: dict[str, int] = {}
    for cpu in cpus_allowed():
        folder = _SYS / f"devices/system/cpu/cpu{cpu}/cache"
        levels = [path for path in folder.glob("index*") if read_text(path / "type") != "Instruction"]
        if levels:
            outermost = max(levels, key=lambda path: int(read_text(path / "level") or 0))
            text = (read_text(outermost / "size") or "").upper()
            if text[:-1].isdigit():
                sizes[read_text(outermost / "shared_cpu_list") or str(cpu)] = int(text[:-1]) * _CACHE_UNITS[text[-1]]
    return sum(sizes.values()) or None


def os_facts() -> dict[str, Any]:
    try:
        distribution = platform.freedesktop_os_release().get("PRETTY_NAME")
    except OSError:
        distribution = None
    return {"system": platform.system(), "kernel": platform.release(), "distribution": distribution,
            "libc": " ".join(platform.libc_ver()).strip() or None}  # fmt: skip


def thread_facts() -> dict[str, Any]:
    """What pins or limits threads: the environment's variables that are set, and the CPUs allowed."""
    variables = {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ}
    return {"variables": variables, "cpus_allowed": list(cpus_allowed())}


def proc_path(name: str) -> Path:
    """A file of /proc, as `stat`."""
    return _PROC / name


def frequency_paths() -> tuple[Path, ...]:
    """Where the kernel would tell the clock of each CPU allowed here, in kHz; the files need not be there."""
    return tuple(_SYS / f"devices/system/cpu/cpu{cpu}/cpufreq/scaling_cur_freq" for cpu in cpus_allowed())


def read_text(path: Path) -> str | None:
    """A small file's text without surrounding blanks; None where it is not there or not readable."""
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None


def _lines(path: Path) -> list[str]:
    return (read_text(path) or "").splitlines()


def _cpuinfo() -> list[dict[str, str]]:
    text = read_text(_PROC / "cpuinfo") or ""
    blocks = []
    for block in text.split("\n\n"):
        pairs = (line.partition(":") for line in block.splitlines() if ":" in line)
        blocks.append({name.strip(): value.strip() for name, _, value in pairs})
    return [block for block in blocks if "processor" in block]


def _khz_to_mhz(text: str | None) -> int | None:
    return int(text) // 1000 if text and text.isdigit() else None


def _cgroup_values(controller: str, name: str) -> Iterator[str]:
    """A control file's values from this process's cgroup up to the root; controller "" is cgroup v2.

    A container that has no namespace of its own sees a path that is not mounted: then only the root answers.
    """
    root = _SYS / "fs/cgroup" / controller
    for line in _lines(_PROC / "self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controller not in controllers.split(","):
            continue
        here = root / path.lstrip("/")
        for folder in (here, *here.parents):
            text = read_text(folder / name)
            if text is not None:
                yield text
            if folder == root:
                break


def oom_kills() -> int:
    """How often the kernel's out-of-memory killer struck on this machine so far; 0 where it does not say."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)

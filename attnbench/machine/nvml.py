"""GPUs as the driver's management library (NVML) sees them: no torch, no CUDA context.

Without a driver, or without the `pynvml` module, there are no GPUs: nothing here raises for that.

Why the driver holds clocks down: NVML's bits, their names, and which of them spoil a measurement (nvml.h,
nvmlClocksEventReason..., nvmlClocksThrottleReason... before driver 535).
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attnbench.machine.host import mps_server_runs, read_text

# nvml.h, nvmlComputeMode_t
_COMPUTE_MODES = {0: "default", 1: "exclusive thread", 2: "prohibited", 3: "exclusive process"}


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU that CUDA would show to this process. `index` is its CUDA ordinal: CUDA_VISIBLE_DEVICES is honoured.

    NOTE: NVML orders by PCI bus; CUDA orders fastest first unless CUDA_DEVICE_ORDER=PCI_BUS_ID. The two agree where all
    cards are alike, or where the measuring process sets that variable.
    `memory_bytes` is the whole card's, or the slice's where MIG has cut it.
    """

    index: int
    name: str
    compute_capability: tuple[int, int]
    memory_bytes: int


@contextlib.contextmanager
def nvml() -> Iterator[Any]:
    """The `pynvml` module, initialized; None where the module or the driver is missing."""
    if "pynvml" not in sys.modules and not _driver_library():
        yield None
        return
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # ImportError, or pynvml.NVMLError, which cannot be named when the import failed
        yield None
        return
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


def _driver_library() -> bool:
    """Whether the driver's library loads: much cheaper to ask than to import `pynvml`, which is large."""
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return False
    return True


@functools.cache
def gpus() -> tuple[Gpu, ...]:
    """The GPUs that CUDA would show to this process; () without NVML, driver or card. Looked up once per process."""
    with nvml() as lib:
        if lib is None:
            return ()
        return tuple(_gpu(lib, index, handle) for index, handle in enumerate(visible_handles(lib)))


def visible_handles(lib: Any) -> list[Any]:
    """NVML handles in the order of CUDA_VISIBLE_DEVICES: ordinals, (shortened) GPU UUIDs or MIG UUIDs.

    Like CUDA, stops at the first entry that names nothing (CUDA programming guide, environment variables).
    """
    handles = [lib.nvmlDeviceGetHandleByIndex(index) for index in range(lib.nvmlDeviceGetCount())]
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        return [_mig_slice(lib, handle) for handle in handles]
    chosen = []
    for entry in (entry.strip() for entry in listed.split(",")):
        handle = _named(lib, handles, entry)
        if handle is None:
            break
        chosen.append(handle)
    return chosen


def ask(query: Callable[..., Any], *arguments: Any) -> Any:
    """The answer of one NVML query as plain data, or None where this card or driver does not answer it."""
    try:
        answer = query(*arguments)
    except Exception:  # pynvml.NVMLError (not supported, no permission), or a query that this pynvml does not know
        return None
    return answer.decode() if isinstance(answer, bytes) else answer


def _named(lib: Any, handles: list[Any], entry: str) -> Any:
    if entry.isdigit():
        return _mig_slice(lib, handles[int(entry)]) if int(entry) < len(handles) else None
    if entry.startswith("MIG-"):
        return ask(lib.nvmlDeviceGetHandleByUUID, entry)
    if entry.startswith("GPU-"):
        matches = [handle for handle in handles if (ask(lib.nvmlDeviceGetUUID, handle) or "").startswith(entry)]
        return _mig_slice(lib, matches[0]) if len(matches) == 1 else None
    return None


def _mig_slice(lib: Any, handle: Any) -> Any:
    """The slice that CUDA uses when MIG has cut the card and none was named: the first. Otherwise the card."""
    modes = ask(lib.nvmlDeviceGetMigMode, handle)
    if not modes or modes[0] != lib.NVML_DEVICE_MIG_ENABLE:
        return handle
    return ask(lib.nvmlDeviceGetMigDeviceHandleByIndex, handle, 0) or handle


def whole_card(lib: Any, handle: Any) -> Any:
    """The card that a MIG slice was cut from; the same handle where it is a card already."""
    return ask(lib.nvmlDeviceGetDeviceHandleFromMigDeviceHandle, handle) or handle


def _gpu(lib: Any, index: int, handle: Any) -> Gpu:
    card = whole_card(lib, handle)
    return Gpu(
        index=index,
        name=ask(lib.nvmlDeviceGetName, card) or "unknown",
        compute_capability=tuple(ask(lib.nvmlDeviceGetCudaComputeCapability, card) or (0, 0)),
        memory_bytes=int(lib.nvmlDeviceGetMemoryInfo(handle).total),
    )


def gpu_facts(index: int) -> dict[str, Any] | None:
    """What NVML tells of the GPU with this CUDA ordinal, as it stands now; None where there is no such GPU.

    SM count and L2 size are not in NVML: whoever imports torch adds them.
    """
    with nvml() as lib:
        handles = visible_handles(lib) if lib is not None else []
        if index >= len(handles):
            return None
        card = whole_card(lib, handles[index])
        gpu = _gpu(lib, index, handles[index])
        return {
            "name": gpu.name,
            "compute_capability": "{}.{}".format(*gpu.compute_capability),
            "memory_bytes": gpu.memory_bytes,
            "mig": card is not handles[index],
            "driver": ask(lib.nvmlSystemGetDriverVersion),
            "cuda_driver": _cuda_version(ask(lib.nvmlSystemGetCudaDriverVersion)),
            **_policy(lib, card),
            **_clocks(lib, card),
            "temperature_c": ask(lib.nvmlDeviceGetTemperature, card, lib.NVML_TEMPERATURE_GPU),
            "other_processes": len(other_processes(lib, card)),
            "fingerprint": hashlib.sha256(str(ask(lib.nvmlDeviceGetUUID, card)).encode()).hexdigest()[:16],
        }


def _policy(lib: Any, card: Any) -> dict[str, Any]:
    """Settings that an administrator makes and that decide what a timing means.

    enforced_power_limit_w: the lowest of all limits, a rack's included. NOTE: NVML sets locked clocks (nvidia-smi -lgc)
    and has no way to ask for them; they show as the reason `application clocks`.
    """
    ecc = ask(lib.nvmlDeviceGetEccMode, card)
    persistence = ask(lib.nvmlDeviceGetPersistenceMode, card)
    return {
        "power_limit_w": _milli(ask(lib.nvmlDeviceGetPowerManagementLimit, card)),
        "default_power_limit_w": _milli(ask(lib.nvmlDeviceGetPowerManagementDefaultLimit, card)),
        "enforced_power_limit_w": _milli(ask(lib.nvmlDeviceGetEnforcedPowerLimit, card)),
        "ecc": None if ecc is None else bool(ecc[0]),
        "ecc_pending": None if ecc is None else bool(ecc[1]),
        "persistence": None if persistence is None else bool(persistence),
        "compute_mode": _COMPUTE_MODES.get(ask(lib.nvmlDeviceGetComputeMode, card)),
        "application_sm_clock_mhz": ask(lib.nvmlDeviceGetApplicationsClock, card, lib.NVML_CLOCK_SM),
        "default_application_sm_clock_mhz": ask(lib.nvmlDeviceGetDefaultApplicationsClock, card, lib.NVML_CLOCK_SM),
        "mps": mps_server_runs(),
    }


def _clocks(lib: Any, card: Any) -> dict[str, Any]:
    # Called ...ThrottleReasons before driver 535.
    reasons = getattr(lib, "nvmlDeviceGetCurrentClocksEventReasons", None)
    reasons = reasons or lib.nvmlDeviceGetCurrentClocksThrottleReasons
    return {
        "sm_clock_mhz": ask(lib.nvmlDeviceGetClockInfo, card, lib.NVML_CLOCK_SM),
        "max_sm_clock_mhz": ask(lib.nvmlDeviceGetMaxClockInfo, card, lib.NVML_CLOCK_SM),
        "memory_clock_mhz": ask(lib.nvmlDeviceGetClockInfo, card, lib.NVML_CLOCK_MEM),
        "max_memory_clock_mhz": ask(lib.nvmlDeviceGetMaxClockInfo, card, lib.NVML_CLOCK_MEM),
        "clock_event_reasons": ask(reasons, card),
    }


def other_processes(lib: Any, card: Any) -> tuple[tuple[int, int | None], ...]:
    """(pid, bytes used) of the compute processes on a card that this process did not start.

    NOTE: NVML tells pids of the host. In a container with pids of its own, our own processes cannot be told apart.
    """
    running = ask(lib.nvmlDeviceGetComputeRunningProcesses, card) or []
    return tuple((process.pid, process.usedGpuMemory) for process in running if not _is_ours(process.pid))


def _is_ours(pid: int) -> bool:
    """Whether a process is this one or descends from it."""
    while pid > 1:
        if pid == os.getpid():
            return True
        stat = read_text(Path(f"/proc/{pid}/stat"))
        if stat is None:
            return False
        pid = int(stat.rpartition(")")[2].split()[1])  # the name, in brackets, may hold anything
    return False


def _milli(value: int | None) -> float | None:
    return None if value is None else value / 1000


def _cuda_version(value: int | None) -> str | None:
    """13000 -> "13.0" (cuda.h: 1000 x major + 10 x minor)."""
    return None if value is None else f"{value // 1000}.{value % 1000 // 10}"


GPU_IDLE = 0x01
APPLICATION_CLOCKS = 0x02
POWER_CAP = 0x04
HARDWARE_SLOWDOWN = 0x08
SYNC_BOOST = 0x10
SOFTWARE_THERMAL = 0x20
HARDWARE_THERMAL = 0x40
POWER_BRAKE = 0x80
DISPLAY_CLOCKS = 0x100

NAMES = {
    GPU_IDLE: "idle",
    APPLICATION_CLOCKS: "application clocks",
    POWER_CAP: "power cap",
    HARDWARE_SLOWDOWN: "hardware slowdown",
    SYNC_BOOST: "sync boost",
    SOFTWARE_THERMAL: "software thermal slowdown",
    HARDWARE_THERMAL: "hardware thermal slowdown",
    POWER_BRAKE: "power brake",
    DISPLAY_CLOCKS: "display clocks",
}
# A chip that is too hot or short of power runs at clocks that no other run can reproduce.
SLOWDOWNS = (HARDWARE_SLOWDOWN, SOFTWARE_THERMAL, HARDWARE_THERMAL, POWER_BRAKE)


def names(reasons: int) -> tuple[str, ...]:
    """The names of the bits that are set, lowest first; a bit that has none by its number."""
    bits = (1 << place for place in range(reasons.bit_length()))
    return tuple(NAMES.get(bit, f"reason 0x{bit:x}") for bit in bits if reasons & bit)


def slowdowns(reasons: int) -> tuple[str, ...]:
    """The names of those bits that spoil a measurement."""
    return tuple(NAMES[bit] for bit in SLOWDOWNS if reasons & bit)

"""Peak memory of one preparation and call. On the CPU two meters: torch's allocator, and the process's resident memory.

CUDA's caching allocator keeps its own peak. The CPU's keeps none, so every allocation and release is written down by
torch's profiler while one call runs: exact to the byte, but blind to whatever takes memory elsewhere (numpy, malloc, a
thread of the backend's own). What the process holds at most (VmHWM, proc_pid_status(5)) sees all of that, by the page
and with the gaps that malloc leaves.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from attnbench.backend import Outputs
from attnbench.records.measurement import ALLOCATOR, PROCESS

T = TypeVar("T")

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
RESET_HIGH_WATER = "5"  # proc_pid_clear_refs(5): VmHWM begins again at what is resident now
# malloc leaves gaps between what it gives: with all memory torch's, the process's peak was up to 1.7 times the
# allocator's (naive and fp8_emulated, 64 to 4096 tokens, glibc 2.36), and pages and stacks add some. What is above both
# of these was taken elsewhere.
GAPS_FACTOR = 2
GAPS_BYTES = 2**20
TWO_PROFILERS = "Profiler is already enabled"  # torch's words, of both profilers


@dataclass(frozen=True, slots=True)
class Peak:
    """The most bytes held above what was held before; by: ALLOCATOR or PROCESS, whichever counted them."""

    bytes: int
    by: str


def cpu_peak(call: Callable[[], Outputs]) -> Peak | None:
    """Of running it once under both meters, and again where they differ. None where only torch's allocator could be
    asked, and it did not even give the outputs: what it says is then not what the call holds."""
    try:
        allocated, (resident, output_bytes) = _allocated_peak(lambda: _resident_peak(call))
    except (ImportError, RuntimeError) as error:  # a torch without this profiler, or a call that runs one of its own
        if isinstance(error, RuntimeError) and TWO_PROFILERS not in str(error):
            raise
        resident, _ = _resident_peak(call)
        return None if resident is None else Peak(resident, PROCESS)
    if resident is None:
        return Peak(allocated, ALLOCATOR) if allocated >= output_bytes else None
    if resident > GAPS_FACTOR * allocated + GAPS_BYTES:
        # Of a call of thousands of operations the profiler's notes, which lie between the tensors, tear larger gaps.
        resident, _ = _resident_peak(call)
    if resident is not None and resident > GAPS_FACTOR * allocated + GAPS_BYTES:
        return Peak(resident, PROCESS)
    return Peak(allocated, ALLOCATOR)


def _resident_peak(call: Callable[[], Outputs]) -> tuple[int | None, int]:
    """What the process's resident memory rose by at most, None where the system does not tell; and the outputs' bytes.

    Free memory that malloc keeps is given back first: it is resident already, and using it again would not show.
    """
    _give_back_free_memory()
    try:
        _CLEAR_REFS.write_text(RESET_HIGH_WATER)
    except OSError:
        return None, _bytes_of(call())
    before = _status_bytes("VmRSS")
    size = _bytes_of(call())
    high = _status_bytes("VmHWM")
    return None if before is None or high is None else max(0, high - before), size


def _bytes_of(outputs: Outputs) -> int:
    tensors = [outputs.out] if outputs.lse is None else [outputs.out, outputs.lse]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _give_back_free_memory() -> None:
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)


def _status_bytes(field: str) -> int | None:
    found = re.search(rf"^{field}:\s+(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def _allocated_peak(run: Callable[[], T]) -> tuple[int, T]:
    """What torch's allocator gave to this thread at most, less what it took back; and what running gave.

    NOTE: the legacy profiler: both that torch has report the same allocations, but the other prints lines to stderr,
    and counts nothing of any thread where it is asked for all of them (pytorch issue 166121).
    """
    import torch
    from torch._C._autograd import _disable_profiler_legacy, _enable_profiler_legacy
    from torch._C._profiler import ProfilerConfig, ProfilerState

    options = torch._C._profiler._ExperimentalConfig()
    _enable_profiler_legacy(ProfilerConfig(ProfilerState.CPU, False, True, False, False, False, options))
    try:
        given = run()
    finally:
        threads = _disable_profiler_legacy()
    held = peak = 0
    for event in (event for events in threads for event in events if str(event.kind()) == "memory_alloc"):
        held += event.cpu_memory_usage()
        peak = max(peak, held)
    return peak, given

"""The sensor of a machine without a GPU: clock of the CPUs allowed here, load average, time stolen by the host.

Small files of /proc and /sys, kept open and read again with pread(2): a reading takes some tens of microseconds.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from attnbench.machine import host

# /proc/cpuinfo asks every CPU for its clock, which takes a millisecond on a large machine: one reading in so many.
CPUINFO_EVERY = 100
READ_BYTES = 4096
CPUINFO_BYTES = 1 << 20
_MHZ = re.compile(rb"^cpu MHz\s*:\s*([\d.]+)", re.MULTILINE)


class CpuSensor:
    """Readings of the host. `values` leaves out what this kernel does not tell."""

    name = "proc"

    def __init__(self) -> None:
        self._frequencies = [opened for opened in map(_open, host.frequency_paths()) if opened is not None]
        self._cpuinfo = None if self._frequencies else _open(host.proc_path("cpuinfo"))
        self._stat, self._loadavg = _open(host.proc_path("stat")), _open(host.proc_path("loadavg"))
        self._tick_s = 1 / os.sysconf("SC_CLK_TCK")
        self._count, self._clock_mhz = 0, None

    def values(self) -> dict[str, Any]:
        values: dict[str, Any] = {}
        load = _read(self._loadavg).split()
        if load:
            values["load"] = float(load[0])
        if self._frequencies:
            khz = [int(text) for text in map(_read, self._frequencies) if text.strip().isdigit()]
            self._clock_mhz = sum(khz) / len(khz) / 1000 if khz else None
        elif self._count % CPUINFO_EVERY == 0:
            mhz = [float(text) for text in _MHZ.findall(_read(self._cpuinfo, CPUINFO_BYTES))]
            self._clock_mhz = sum(mhz) / len(mhz) if mhz else None
        self._count += 1
        return values | {"cpu_clock_mhz": self._clock_mhz} | self._times()

    def _times(self) -> dict[str, float]:
        """CPU seconds of the whole machine so far, and those of them that its host took."""
        first = _read(self._stat).partition(b"\n")[0].split()
        if len(first) <= host.STEAL_FIELD + 1 or first[0] != b"cpu":
            return {}
        ticks = [int(text) for text in first[1 : host.STEAL_FIELD + 2]]  # guest time is part of user time already
        return {"stolen_s": ticks[host.STEAL_FIELD] * self._tick_s, "cpu_s": sum(ticks) * self._tick_s}

    def facts(self) -> dict[str, Any]:
        source = "cpufreq" if self._frequencies else "cpuinfo" if self._cpuinfo is not None else None
        return {"cpu_clock_from": source, "steal": bool(self._times())}

    def close(self) -> None:
        for opened in (*self._frequencies, self._cpuinfo, self._stat, self._loadavg):
            if opened is not None:
                os.close(opened)
        self._frequencies, self._cpuinfo, self._stat, self._loadavg = [], None, None, None


def _open(path: Path) -> int | None:
    try:
        return os.open(path, os.O_RDONLY)
    except OSError:
        return None


def _read(descriptor: int | None, most: int = READ_BYTES) -> bytes:
    """The start of a file; empty where there is none, or where a CPU went offline meanwhile."""
    if descriptor is None:
        return b""
    try:
        return os.pread(descriptor, most, 0)
    except OSError:
        return b""

"""What telemetry reads: the sensor of a machine without a GPU, and below it NVML's.

Without a GPU: clock of the CPUs allowed here, load average, time stolen by the host. Small files of /proc and /sys,
kept open and read again with pread(2): a reading takes some tens of microseconds.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attnbench.machine import host
from attnbench.machine.nvml import nvml, visible_handles, whole_card

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
        self._count = 0
        self._clock_mhz: float | None = None

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


# The sensor of an NVIDIA GPU: clocks, power, energy, temperatures and the reasons why clocks are held down, from NVML.
#
# Few calls a reading, each of which releases the interpreter's lock: what changes slowly is asked for once in
# SLOW_EVERY readings.

SLOW_EVERY = 10
# Answers that will not change while the driver is loaded: such a query is not asked again.
_NEVER = ("Not Supported", "Function Not Found", "Insufficient Permissions")


class NvmlSensor:
    """Readings of one GPU by its CUDA ordinal. Without NVML or the card, every reading says so."""

    name = "nvml"

    def __init__(self, index: int):
        self._stack = contextlib.ExitStack()
        self._lib = self._stack.enter_context(nvml())
        handles = [] if self._lib is None else visible_handles(self._lib)
        self._card = whole_card(self._lib, handles[index]) if index < len(handles) else None
        self._unsupported: dict[str, str] = {}
        self._slow: dict[str, Any] = {}
        self._count = 0
        self._power = "instant"

    def values(self) -> dict[str, Any]:
        if self._card is None:
            return {"problems": (f"NVML: {'no driver answers' if self._lib is None else 'no such GPU'}",)}
        problems: list[str] = []
        values = self._ask_all(self._fast_queries(), problems)
        if self._count % SLOW_EVERY == 0:
            self._slow = self._ask_all(self._slow_queries(), problems)
        self._count += 1
        if "power_w" in self._unsupported and self._power == "instant":
            self._power = "average"
            del self._unsupported["power_w"]
        return {**values, **self._slow, "problems": tuple(problems)}

    def _ask_all(self, queries: dict[str, Callable[[], Any]], problems: list[str]) -> dict[str, Any]:
        values = {}
        for name, query in queries.items():
            if name in self._unsupported:
                continue
            try:
                values[name] = query()
            except Exception as error:  # pynvml.NVMLError, or a function that this pynvml or driver does not have
                text = str(error)
                if isinstance(error, AttributeError) or text in _NEVER:
                    self._unsupported[name] = text
                else:
                    problems.append(f"{name}: {text}")
        return values

    def _fast_queries(self) -> dict[str, Callable[[], Any]]:
        lib, card = self._lib, self._card
        return {
            "sm_clock_mhz": lambda: lib.nvmlDeviceGetClockInfo(card, lib.NVML_CLOCK_SM),
            "power_w": self._instant_power_w if self._power == "instant" else self._average_power_w,
            "energy_j": lambda: lib.nvmlDeviceGetTotalEnergyConsumption(card) / 1000,
            "reasons": self._reasons,
        }

    def _slow_queries(self) -> dict[str, Callable[[], Any]]:
        lib, card = self._lib, self._card
        return {
            "memory_clock_mhz": lambda: lib.nvmlDeviceGetClockInfo(card, lib.NVML_CLOCK_MEM),
            "power_limit_w": lambda: lib.nvmlDeviceGetEnforcedPowerLimit(card) / 1000,
            "temperature_c": lambda: lib.nvmlDeviceGetTemperature(card, lib.NVML_TEMPERATURE_GPU),
            "memory_temperature_c": lambda: self._field(lib.NVML_FI_DEV_MEMORY_TEMP),
        }

    def _instant_power_w(self) -> float:
        """NOTE: from Ampere on nvmlDeviceGetPowerUsage is the mean of a second, longer than most blocks."""
        return self._field(self._lib.NVML_FI_DEV_POWER_INSTANT) / 1000

    def _average_power_w(self) -> float:
        milliwatts: int = self._lib.nvmlDeviceGetPowerUsage(self._card)
        return milliwatts / 1000

    def _field(self, field_id: int) -> int:
        """An NVML field value that is an unsigned number. Raises NVMLError."""
        (value,) = self._lib.nvmlDeviceGetFieldValues(self._card, [field_id])
        if value.nvmlReturn != 0:
            raise self._lib.NVMLError(value.nvmlReturn)
        found: int = value.value.uiVal
        return found

    def _reasons(self) -> int:
        bits: int
        if hasattr(self._lib, "nvmlDeviceGetCurrentClocksEventReasons"):
            bits = self._lib.nvmlDeviceGetCurrentClocksEventReasons(self._card)
        else:
            bits = self._lib.nvmlDeviceGetCurrentClocksThrottleReasons(self._card)
        return bits

    def facts(self) -> dict[str, Any]:
        """power: "instant", or "average" where the driver tells the mean of the last second only."""
        if self._count == 0:
            self.values()
        return {"power": self._power, "unsupported": dict(self._unsupported)}

    def close(self) -> None:
        self._stack.close()

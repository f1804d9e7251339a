"""The sensor of an NVIDIA GPU: clocks, power, energy, temperatures and the reasons why clocks are held down, from NVML.

Few calls a reading, each of which releases the interpreter's lock: what changes slowly is asked for once in
SLOW_EVERY readings.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from attnbench.machine.nvml import nvml, visible_handles, whole_card

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
        return self._lib.nvmlDeviceGetPowerUsage(self._card) / 1000

    def _field(self, field_id: int) -> int:
        """An NVML field value that is an unsigned number. Raises NVMLError."""
        (value,) = self._lib.nvmlDeviceGetFieldValues(self._card, [field_id])
        if value.nvmlReturn != 0:
            raise self._lib.NVMLError(value.nvmlReturn)
        return value.value.uiVal

    def _reasons(self) -> int:
        if hasattr(self._lib, "nvmlDeviceGetCurrentClocksEventReasons"):
            return self._lib.nvmlDeviceGetCurrentClocksEventReasons(self._card)
        return self._lib.nvmlDeviceGetCurrentClocksThrottleReasons(self._card)

    def facts(self) -> dict[str, Any]:
        """power: "instant", or "average" where the driver tells the mean of the last second only."""
        if self._count == 0:
            self.values()
        return {"power": self._power, "unsupported": dict(self._unsupported)}

    def close(self) -> None:
        self._stack.close()

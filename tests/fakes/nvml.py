"""A stand-in for the `pynvml` module: the same functions over plain data, and the same error for what is not there."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from types import ModuleType, SimpleNamespace


class NVMLError(Exception):
    """By its text, or by NVML's number for it."""

    def __str__(self):
        return {3: "Not Supported", 15: "GPU is lost"}.get(self.args[0], self.args[0])


# Queries that are not about one card.
_OF_NO_CARD = ("nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex", "nvmlDeviceGetHandleByUUID")


@dataclass
class Card:
    """One card as the fake driver tells of it. `slices` are its MIG slices, uuid -> bytes. None: not supported."""

    uuid: str = "GPU-1111aaaa-0000"
    name: str = "NVIDIA H100 80GB HBM3"
    compute_capability: tuple[int, int] = (9, 0)
    memory_bytes: int = 80 * 2**30
    slices: dict[str, int] = field(default_factory=dict)
    power_limit_mw: int | None = 700_000
    default_power_limit_mw: int | None = 700_000
    persistence: int | None = 1
    ecc: int | None = 1
    ecc_pending: int | None = None  # as ecc
    enforced_power_limit_mw: int | None = None  # as power_limit_mw
    compute_mode: int = 0
    application_sm_clock_mhz: int | None = 1980
    compute_pids: tuple[int, ...] = ()
    throttle_reasons: int = 0
    sm_clock_mhz: int = 345
    power_mw: int | None = 71_000
    instant_power_mw: int | None = 70_000
    energy_mj: int | None = 5_000_000
    temperature_c: int = 31
    memory_temperature_c: int | None = 38
    lost: bool = False
    failing: dict[str, str] = field(default_factory=dict)  # function -> the text of its error


class FakeNvml(ModuleType):
    """Install with `FakeNvml(cards).install(monkeypatch)`; drops the cached list of GPUs too."""

    NVMLError = NVMLError
    NVML_DEVICE_MIG_ENABLE = 1
    NVML_CLOCK_SM = 1
    NVML_CLOCK_MEM = 2
    NVML_TEMPERATURE_GPU = 0
    NVML_FI_DEV_MEMORY_TEMP = 82
    NVML_FI_DEV_POWER_INSTANT = 186

    def __init__(self, cards: list[Card], driver: bool = True) -> None:
        super().__init__("pynvml")
        self.cards, self.driver, self.open_sessions = cards, driver, 0
        self.asked: list[str] = []

    def __getattribute__(self, name):
        """Queries of a card that is lost, or that is told to fail in them, raise; all are noted."""
        found = super().__getattribute__(name)
        if not name.startswith("nvmlDeviceGet") or not callable(found):
            return found

        def query(handle, *arguments):
            self.asked.append(name)
            card = getattr(handle, "card", handle)
            if getattr(card, "lost", False):
                raise NVMLError("GPU is lost")
            if name in getattr(card, "failing", ()):
                raise NVMLError(card.failing[name])
            return found(handle, *arguments)

        return query if name not in _OF_NO_CARD else found

    def install(self, monkeypatch) -> FakeNvml:
        from attnbench.machine.nvml import gpus

        monkeypatch.setitem(sys.modules, "pynvml", self)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        gpus.cache_clear()
        return self

    def nvmlInit(self):
        if not self.driver:
            raise NVMLError("Driver Not Loaded")
        self.open_sessions += 1

    def nvmlShutdown(self):
        self.open_sessions -= 1

    def nvmlDeviceGetCount(self):
        assert self.open_sessions > 0, "a query outside a session"
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index):
        return self.cards[index]

    def nvmlDeviceGetHandleByUUID(self, uuid):
        for card in self.cards:
            if uuid in card.slices:
                return _Slice(card, uuid)
        raise NVMLError("Not Found")

    def nvmlDeviceGetUUID(self, handle):
        return handle.uuid

    def nvmlDeviceGetName(self, handle):
        return handle.name.encode()  # older releases answer in bytes

    def nvmlDeviceGetCudaComputeCapability(self, handle):
        return list(handle.compute_capability)

    def nvmlDeviceGetMemoryInfo(self, handle):
        return SimpleNamespace(total=handle.memory_bytes)

    def nvmlDeviceGetMigMode(self, handle):
        if isinstance(handle, _Slice):
            raise NVMLError("Not Supported")
        return [int(bool(handle.slices))] * 2

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle, index):
        try:
            return _Slice(handle, list(handle.slices)[index])
        except IndexError:
            raise NVMLError("Not Found") from None

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, handle):
        if not isinstance(handle, _Slice):
            raise NVMLError("Invalid Argument")
        return handle.card

    def nvmlDeviceGetPowerManagementLimit(self, handle):
        return _answer(handle.power_limit_mw)

    def nvmlDeviceGetPowerManagementDefaultLimit(self, handle):
        return _answer(handle.default_power_limit_mw)

    def nvmlDeviceGetPersistenceMode(self, handle):
        return _answer(handle.persistence)

    def nvmlDeviceGetEccMode(self, handle):
        current = _answer(handle.ecc)
        return [current, current if handle.ecc_pending is None else handle.ecc_pending]

    def nvmlDeviceGetComputeMode(self, handle):
        return handle.compute_mode

    def nvmlDeviceGetApplicationsClock(self, handle, kind):
        return _answer(handle.application_sm_clock_mhz)

    def nvmlDeviceGetDefaultApplicationsClock(self, handle, kind):
        return 1980

    def nvmlDeviceGetClockInfo(self, handle, kind):
        return {self.NVML_CLOCK_SM: handle.sm_clock_mhz, self.NVML_CLOCK_MEM: 2619}[kind]

    def nvmlDeviceGetPowerUsage(self, handle):
        return _answer(handle.power_mw)

    def nvmlDeviceGetEnforcedPowerLimit(self, handle):
        return handle.enforced_power_limit_mw or _answer(handle.power_limit_mw)

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):
        return _answer(handle.energy_mj)

    def nvmlDeviceGetFieldValues(self, handle, fields):
        answers = {self.NVML_FI_DEV_MEMORY_TEMP: handle.memory_temperature_c,
                   self.NVML_FI_DEV_POWER_INSTANT: handle.instant_power_mw}  # fmt: skip
        return [
            SimpleNamespace(nvmlReturn=3 if answers[field] is None else 0, value=SimpleNamespace(uiVal=answers[field]))
            for field in fields
        ]

    def nvmlDeviceGetMaxClockInfo(self, handle, kind):
        return {self.NVML_CLOCK_SM: 1980, self.NVML_CLOCK_MEM: 2619}[kind]

    def nvmlDeviceGetTemperature(self, handle, sensor):
        return handle.temperature_c

    def nvmlDeviceGetComputeRunningProcesses(self, handle):
        return [SimpleNamespace(pid=pid, usedGpuMemory=2**30) for pid in handle.compute_pids]

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle):
        return handle.throttle_reasons

    def nvmlSystemGetDriverVersion(self):
        return "580.82.07"

    def nvmlSystemGetCudaDriverVersion(self):
        return 13000


class _Slice:
    """A MIG slice: memory and UUID of its own, nothing else."""

    def __init__(self, card: Card, uuid: str) -> None:
        self.card, self.uuid, self.memory_bytes = card, uuid, card.slices[uuid]


def _answer(value):
    if value is None:
        raise NVMLError("Not Supported")
    return value


def two_cards() -> list[Card]:
    return [Card(), replace(Card(), uuid="GPU-2222bbbb-0000", name="NVIDIA H200", memory_bytes=141 * 2**30)]

"""Drives an emulated kernel library: its schedule, its report, its call sites. Mirrors attnbench/emulation.h."""

from __future__ import annotations

import ctypes
from ctypes import c_char_p, c_int32, c_uint32, c_uint64
from dataclasses import dataclass, fields
from pathlib import Path

from attnbench.hopper.build import build_emulated
from attnbench.hopper.library import KernelLibrary

LAZY, EAGER, RANDOM = "lazy", "eager", "random"
DELIVERIES = (LAZY, EAGER, RANDOM)
MUTATIONS = (
    "none", "drop", "flip_parity", "less", "more", "laxer", "early", "twice",
    "a_start", "a_step", "a_stride", "a_leading", "a_swizzle",
    "b_start", "b_step", "b_stride", "b_leading", "b_swizzle", "coordinate",
)  # fmt: skip
ACCUMULATORS = ("fp32", "truncated")


class _Config(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_uint32), ("delivery", c_int32), ("seed", c_uint64), ("multiprocessors", c_int32),
        ("resident_ctas", c_int32), ("accumulator", c_int32), ("stop_at_first", c_int32), ("mutation", c_int32),
        ("mutation_site", c_int32), ("step_limit", c_uint64),
    ]  # fmt: skip


class _Site(ctypes.Structure):
    _fields_ = [("primitive", c_char_p), ("file", c_char_p), ("line", c_int32), ("calls", c_uint64)]


class _Statistics(ctypes.Structure):
    _fields_ = [(name, c_uint64) for name in
                ("steps", "switches", "wgmma", "tma_loads", "tma_stores", "mutated", "spurious")]  # fmt: skip


@dataclass(frozen=True)
class Schedule:
    """One way to run a launch; equal schedules give equal runs. `resident_ctas` > 1 interleaves CTAs."""

    delivery: str = LAZY
    seed: int = 0
    multiprocessors: int = 2
    resident_ctas: int = 1
    accumulator: str = "fp32"
    stop_at_first: bool = True
    mutation: str = "none"
    mutation_site: int = -1
    step_limit: int = 0

    def __str__(self) -> str:
        changed = (f for f in fields(self) if getattr(self, f.name) != f.default or f.name in ("delivery", "seed"))
        return " ".join(f"{f.name}={getattr(self, f.name)}" for f in changed)


@dataclass(frozen=True)
class Site:
    """A call of a primitive: `file` without its folder."""

    index: int
    primitive: str
    file: str
    line: int
    calls: int

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True)
class Hazard:
    kind: str
    place: str
    text: str


class Emulator:
    """The emulation's exports of a loaded library."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        library.attnbench_emulation_report.restype = ctypes.c_size_t
        library.attnbench_emulation_report.argtypes = [c_char_p, ctypes.c_size_t]

    def configure(self, schedule: Schedule) -> None:
        config = _Config(
            struct_size=ctypes.sizeof(_Config),
            delivery=DELIVERIES.index(schedule.delivery),
            seed=schedule.seed,
            multiprocessors=schedule.multiprocessors,
            resident_ctas=schedule.resident_ctas,
            accumulator=ACCUMULATORS.index(schedule.accumulator),
            stop_at_first=schedule.stop_at_first,
            mutation=MUTATIONS.index(schedule.mutation),
            mutation_site=schedule.mutation_site,
            step_limit=schedule.step_limit,
        )
        if self._library.attnbench_emulation_configure(ctypes.byref(config)):
            raise ValueError(f"refused: {schedule}")

    def report(self) -> list[Hazard]:
        """Hazards of the last launch, first one first."""
        needed = self._library.attnbench_emulation_report(None, 0)
        text = ctypes.create_string_buffer(needed + 1)
        self._library.attnbench_emulation_report(text, needed + 1)
        return [Hazard(*line.split("\t")) for line in text.value.decode().splitlines()]

    def sites(self) -> list[Site]:
        """Every call site that has run since the library was loaded."""
        found, row = [], _Site()
        while self._library.attnbench_emulation_site(len(found), ctypes.byref(row)):
            file = Path(row.file.decode()).name
            found.append(Site(len(found), row.primitive.decode(), file, row.line, row.calls))
        return found

    def statistics(self) -> dict[str, int]:
        """Counters of the last launch, by the names of AttnbenchEmulationStatistics."""
        row = _Statistics()
        self._library.attnbench_emulation_statistics(ctypes.byref(row))
        return {name: getattr(row, name) for name, _ in row._fields_}


@dataclass(frozen=True)
class EmulatedKernel:
    """One kernels/*.cu compiled for the CPU."""

    library: KernelLibrary
    emulator: Emulator

    @classmethod
    def build(cls, source: Path) -> EmulatedKernel:
        library = KernelLibrary(build_emulated(source))
        return cls(library, Emulator(library.c_library))

"""A kernel file compiled for the CPU, and what drives it, under the names that these tests use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from attnbench.hopper.build import build_emulated
from attnbench.hopper.emulation import (
    ACCUMULATORS,
    DELIVERIES,
    EAGER,
    LAZY,
    MUTATIONS,
    RANDOM,
    Emulator,
    Hazard,
    Site,
)  # fmt: skip
from attnbench.hopper.emulation import EmulationConfig as Schedule
from attnbench.hopper.library import KernelLibrary

__all__ = ["ACCUMULATORS", "DELIVERIES", "EAGER", "LAZY", "MUTATIONS", "RANDOM", "EmulatedKernel", "Emulator", "Hazard",
           "Schedule", "Site"]  # fmt: skip


@dataclass(frozen=True)
class EmulatedKernel:
    """One kernels/*.cu compiled for the CPU."""

    library: KernelLibrary
    emulator: Emulator

    @classmethod
    def build(cls, source: Path) -> EmulatedKernel:
        library = KernelLibrary(build_emulated(source))
        return cls(library, Emulator(library.c_library))

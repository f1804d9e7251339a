"""Drives an emulated kernel library: its delivery, its report, its call sites. Mirrors attnbench/emulation.h."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Mapping
from ctypes import c_char_p, c_int32, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from attnbench.backend import HazardError
from attnbench.case import ELEMENT_BYTES, Case, forward_flops
from attnbench.hopper.build import compile_library
from attnbench.hopper.library import SOURCE as QUANTIZE_SOURCE
from attnbench.hopper.library import KernelError, QuantizeLibrary, Variant
from attnbench.hopper.schedules import FILES, BuiltKernel
from attnbench.hopper.toolchain import KERNELS, emulated_recipe

T = TypeVar("T")

# When asynchronous work (TMA, wgmma, bulk stores) executes.
LAZY, EAGER, RANDOM = "lazy", "eager", "random"
DELIVERIES = (LAZY, EAGER, RANDOM)
MUTATIONS = (
    "none", "drop", "flip_parity", "less", "more", "laxer", "early", "twice",
    "a_start", "a_step", "a_stride", "a_leading", "a_swizzle",
    "b_start", "b_step", "b_stride", "b_leading", "b_swizzle", "coordinate",
)  # fmt: skip
ACCUMULATORS = ("fp32", "truncated")
# FAST finds no hazards but those that stop a launch: deadlocks, addresses out of bounds, barriers miscounted.
FULL, FAST = "full", "fast"
CHECKS = (FULL, FAST)


class _Config(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_uint32), ("delivery", c_int32), ("seed", c_uint64), ("multiprocessors", c_int32),
        ("resident_ctas", c_int32), ("accumulator", c_int32), ("stop_at_first", c_int32), ("mutation", c_int32),
        ("mutation_site", c_int32), ("step_limit", c_uint64), ("checks", c_int32), ("reserved", c_int32),
    ]  # fmt: skip


class _Site(ctypes.Structure):
    _fields_ = [("primitive", c_char_p), ("file", c_char_p), ("line", c_int32), ("calls", c_uint64)]


class _Statistics(ctypes.Structure):
    _fields_ = [(name, c_uint64) for name in
                ("steps", "switches", "wgmma", "tma_loads", "tma_stores", "mutated", "spurious")]  # fmt: skip


class _Counts(ctypes.Structure):
    _fields_ = [(name, c_uint64) for name in
                ("global_read_bytes", "global_write_bytes", "tensor_flops", "exponentials", "wgmma_shared_bytes",
                 "barrier_waits")]  # fmt: skip


class _Tensor(ctypes.Structure):
    _fields_ = [("base", c_void_p), ("read_bytes", c_uint64), ("write_bytes", c_uint64)]


@dataclass(frozen=True)
class EmulationConfig:
    """One way to run a launch; equal ones give equal runs, on any machine.

    delivery: when asynchronous work executes; seed: of everything random. resident_ctas: CTAs in flight together, each
    on a thread of the host. accumulator: how e4m3 products are summed. checks: FULL, or FAST.
    """

    delivery: str = LAZY
    seed: int = 0
    multiprocessors: int = 2
    resident_ctas: int = 1
    accumulator: str = "fp32"
    stop_at_first: bool = True
    mutation: str = "none"
    mutation_site: int = -1
    step_limit: int = 0
    checks: str = FULL

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
    """What a launch did that hardware may punish: a race, a deadlock, a missing fence; `place` is the kernel's line."""

    kind: str
    place: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind} at {self.place}: {self.text}"


class Emulator:
    """The emulation's exports of a loaded library."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self.counted: Mapping[str, Any] | None = None  # of the last launch of a case, where somebody counted it
        library.attnbench_emulation_report.restype = ctypes.c_size_t
        library.attnbench_emulation_report.argtypes = [c_char_p, ctypes.c_size_t]

    def configure(self, config: EmulationConfig) -> None:
        row = _Config(
            struct_size=ctypes.sizeof(_Config),
            delivery=DELIVERIES.index(config.delivery),
            seed=config.seed,
            multiprocessors=config.multiprocessors,
            resident_ctas=config.resident_ctas,
            accumulator=ACCUMULATORS.index(config.accumulator),
            stop_at_first=config.stop_at_first,
            mutation=MUTATIONS.index(config.mutation),
            mutation_site=config.mutation_site,
            step_limit=config.step_limit,
            checks=CHECKS.index(config.checks),
        )
        if self._library.attnbench_emulation_configure(ctypes.byref(row)):
            raise ValueError(f"refused: {config}")

    def report(self) -> list[Hazard]:
        """Hazards of the last launch, first one first."""
        needed = self._library.attnbench_emulation_report(None, 0)
        text = ctypes.create_string_buffer(needed + 1)
        self._library.attnbench_emulation_report(text, needed + 1)
        return [Hazard(*line.split("\t")) for line in text.value.decode().splitlines()]

    def sites(self) -> list[Site]:
        """Every call site that has run since the library was loaded."""
        found: list[Site] = []
        row = _Site()
        while self._library.attnbench_emulation_site(len(found), ctypes.byref(row)):
            file = Path(row.file.decode()).name
            found.append(Site(len(found), row.primitive.decode(), file, row.line, row.calls))
        return found

    def statistics(self) -> dict[str, int]:
        """Counters of the last launch, by the names of AttnbenchEmulationStatistics."""
        row = _Statistics()
        self._library.attnbench_emulation_statistics(ctypes.byref(row))
        return _values(row)

    def counts(self) -> dict[str, int]:
        """What the last launch did, by the names of AttnbenchEmulationCounts."""
        row = _Counts()
        self._library.attnbench_emulation_counts(ctypes.byref(row))
        return _values(row)

    def tensor_read_bytes(self) -> dict[int, int]:
        """Bytes that TMA read of each tensor in the last launch, by the address of its first byte."""
        read: dict[int, int] = {}
        row = _Tensor()
        while self._library.attnbench_emulation_tensor(len(read), ctypes.byref(row)):
            read[row.base] = row.read_bytes
        return read


def _values(row: ctypes.Structure) -> dict[str, int]:
    return {field[0]: getattr(row, field[0]) for field in row._fields_}


@dataclass(frozen=True)
class EmulatedKernel(BuiltKernel):
    """A kernel file compiled for the CPU; its variant table stands in the library, not in the record of its build."""

    @functools.cached_property
    def variants(self) -> tuple[Variant, ...]:
        return self.library.variants

    @functools.cached_property
    def emulator(self) -> Emulator:
        return Emulator(self.library.c_library)


def count_launch(emulator: Emulator, case: Case, k_address: int, v_address: int) -> dict[str, Any]:
    """What the last launch did for a case, by the names of `kernel.counted`: bytes, FLOP, instructions, waits.

    Bytes are those between global memory and the multiprocessor in the two-level model of FlashAttention (Dao et al.
    2022, section 3.2); no cache is modelled. reread: how often each byte of k and v was loaded. useful_flops: of the
    scores that the mask keeps; tensor_flops: of all products issued. exponentials: ex2 instructions. barrier_waits:
    of warps, on mbarriers and named barriers.
    """
    counts, read = emulator.counts(), emulator.tensor_read_bytes()
    key_bytes = ELEMENT_BYTES[case.dtype] * case.batch * case.seqlen_k * case.num_heads_kv
    size = key_bytes * (case.head_dim + case.head_dim_v)
    loaded = read.get(k_address, 0) + read.get(v_address, 0)
    return {**counts, "reread": round(loaded / size, 4), "useful_flops": forward_flops(case)}


@functools.cache
def emulated_kernel(schedule: str) -> EmulatedKernel:
    """The emulated library of a schedule, compiled unless it is there. Raises BuildError and ToolMissing."""
    recipe = emulated_recipe(KERNELS / f"{FILES[schedule]}.cu")
    return EmulatedKernel(recipe.library, compile_library(recipe))


@functools.cache
def emulated_quantizer() -> tuple[QuantizeLibrary, Emulator]:
    """The quantize kernel's emulated library, likewise."""
    recipe = emulated_recipe(KERNELS / f"{QUANTIZE_SOURCE}.cu")
    compile_library(recipe)
    library = QuantizeLibrary(recipe.library)
    return library, Emulator(library.c_library)


def launched(emulator: Emulator, config: EmulationConfig, launch: Callable[[], T]) -> T:
    """What `launch` gives under `config`, which is in force for nothing else.

    Raises HazardError with every hazard, KernelError where the launch was refused.
    """
    emulator.configure(config)
    refused: KernelError | None = None
    try:
        result = launch()
    except KernelError as error:
        refused = error
    finally:
        hazards = emulator.report()
        emulator.configure(EmulationConfig())
    if hazards:
        raise HazardError("; ".join(map(str, hazards)) + f" ({config})")
    if refused is not None:
        raise refused
    return result

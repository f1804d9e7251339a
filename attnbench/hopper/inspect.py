"""What ptxas made of each kernel variant: registers, spills, shared memory, instructions, and the overlap it kept.

By what ptxas printed while it compiled, and by the machine code (which needs nvdisasm; else its figures are None).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from attnbench.hopper.build import (
    Build,
    PtxasFacts,
    build_all,
    is_stale,
    kernel_sources,
    library_path,
    ptxas_facts,
    read_build,
)
from attnbench.hopper.library import Variant
from attnbench.hopper.sass import LoopCounts, SassFacts, sass_facts
from attnbench.machine_code.disassembler import ToolMissing, find_disassembler
from attnbench.machine_code.instructions import parse_sass


@dataclass(frozen=True)
class KernelFacts:
    """One row of a variant table with what the compiler made of it. sass: None without a disassembler."""

    library: str
    compiler: str
    digest: str
    variant: Variant
    ptxas: PtxasFacts
    serialization: tuple[str, ...]
    sass: SassFacts | None

    @property
    def key(self) -> str:
        return f"{self.library}/{self.variant.key}"

    @property
    def shared_bytes(self) -> int:
        """Shared memory of a CTA: static as compiled, and dynamic as the launch asks for it."""
        return self.ptxas.static_shared_bytes + self.variant.shared_memory_bytes


def inspect_build(build: Build, library: Path, only: Variant | None = None) -> list[KernelFacts]:
    """Facts of every variant of a Hopper library, or of one, in the order of its table."""
    ptxas = ptxas_facts(build.log)
    try:
        functions = parse_sass(find_disassembler().sass(library, only.kernel if only else None))
    except ToolMissing:
        functions = None
    facts = []
    for variant in (only,) if only else map(Variant.from_row, build.variants):
        if variant.kernel not in ptxas or (functions is not None and variant.kernel not in functions):
            raise ValueError(f"{library.name}: no kernel {variant.kernel!r}, which the variant table names")
        facts.append(
            KernelFacts(
                library=build.name,
                compiler=build.compiler,
                digest=build.digest,
                variant=variant,
                ptxas=ptxas[variant.kernel],
                serialization=_lines_about(variant.kernel, build.log),
                sass=None if functions is None else sass_facts(functions[variant.kernel]),
            )
        )
    return facts


def _lines_about(kernel: str, log: str) -> tuple[str, ...]:
    about = re.compile(rf"\(C75\d\d\).*(?<!\w){re.escape(kernel)}(?!\w)")
    return tuple(line for line in log.splitlines() if about.search(line))


def inspect_all(names: Sequence[str] = (), build: bool = True) -> list[KernelFacts]:
    """Facts of every variant of the forward kernels, or of those named. Compiles what is missing or out of date.

    With build=False only what is built and fresh is read. Raises ToolMissing without an nvcc, BuildError as
    `build_all` does.
    """
    if build:
        builds = build_all(names)
    else:
        found = (read_build(library_path(source.stem)) for source in kernel_sources(names))
        builds = [one for one in found if one is not None and not is_stale(one)]
    return [facts for one in builds for facts in inspect_build(one, library_path(one.name))]


def record_facts(facts: KernelFacts) -> dict[str, Any]:
    """The flat figures that go into a record's `kernel` field. What could not be read is absent."""
    row: dict[str, Any] = {
        "kernel": facts.variant.kernel,
        "schedule": facts.variant.schedule,
        "tile_m": facts.variant.tile_m,
        "tile_n": facts.variant.tile_n,
        "stages": facts.variant.stages,
        "threads": facts.variant.threads,
        "library_digest": facts.digest,
        "compiler": facts.compiler,
        "shared_bytes": facts.shared_bytes,
    }
    row |= {name: getattr(facts.ptxas, name) for name in ("registers", "spill_store_bytes", "spill_load_bytes")}
    return row | ({} if facts.sass is None else sass_figures(facts.sass))


def sass_figures(sass: SassFacts) -> dict[str, Any]:
    """The machine code's figures as one flat row; those of the steady main loop are named loop_*."""
    row = {name: value for name, value in asdict(sass).items() if name != "loops"}
    row["main_loops"] = len(sass.loops)
    row["ex2_in_flight_share"] = sass.ex2_in_flight_share
    row["ex2_before_last_wait_share"] = sass.ex2_before_last_wait_share
    if sass.steady_loop is not None:
        row |= {f"loop_{name}": value for name, value in asdict(sass.steady_loop).items()}
    return row


# Limits on what the compiler may make of a kernel, in one table (LIMITS).
#
# Each stands for a mistake that costs up to a factor of two in speed and that a correct result does not show. They are
# enforced for the pinned nvcc: another one may schedule differently, which `kernels inspect` then shows.

# H100 and H200: registers of a multiprocessor, and shared memory that one CTA may have (CUDA C++ Programming Guide,
# technical specifications of compute capability 9.0: 227 KiB).
REGISTER_FILE = 65_536
SHARED_MEMORY_BYTES = 232_448
# Shared memory of a multiprocessor, and what the system keeps of it for each CTA (the same table).
MULTIPROCESSOR_SHARED_BYTES = 233_472
SYSTEM_SHARED_BYTES = 1_024
# Registers are handed out to warps in units of 8 per thread (the same table).
REGISTER_UNIT = 8
# wgmma: rows of one instruction, and its depth for 16-bit and 8-bit inputs (PTX ISA, wgmma.mma_async shapes).
WGMMA_M = 64
WGMMA_K = {"fp16": 16, "bf16": 16, "e4m3": 32}
WARPGROUP = 128
# Instructions of a step beyond the arithmetic that `_loop_budget` counts: barriers, shuffles of the row maxima,
# branches, the release of buffers; and for each wgmma, itself and the steps of its one or two descriptors. Together 144
# for head_dim 128 and 128 keys.
STEP_OVERHEAD = 96
TENSOR_OVERHEAD = 3
# Conversion of a score to a weight: two by one instruction; e4m3 joins two pairs by another.
CONVERSION = {"fp16": 0.5, "bf16": 0.5, "e4m3": 0.75}
# Where keys come in blocks with descales of their own: two addresses and loads, and the ratio of v's descales.
BLOCK_DESCALES = 24
# Columns of a second accumulator that registers hold beside scores and output. Wider ones take their product in parts.
TWO_LEVEL_COLUMNS = 128
# Exponentials beyond one per score: the two rescaling factors of a thread's two rows, per 64 rows of a warpgroup.
EX2_RESCALE = 2
# The part of exponentials that polynomials may compute (more moves the bound to issue slots), and what one adds to EX2.
FEWEST_POLYNOMIALS, MOST_POLYNOMIALS, POLYNOMIAL_OVERHEAD = 1 / 12, 1 / 5, 8

# The quantize kernel counts on so many threads of a multiprocessor, for bytes under way and to overlap its phases.
QUANTIZE_THREADS = 512

Figure = Callable[[KernelFacts], float]


@dataclass(frozen=True)
class Limit:
    """One rule: `value` must not be below `bound` (is_minimum) or above it. applies: for which variants."""

    name: str
    value: Figure
    bound: Figure
    is_minimum: bool
    why: str
    applies: Callable[[KernelFacts], bool] = lambda facts: True
    needs_sass: bool = True


@dataclass(frozen=True)
class Violation:
    """One limit that one variant breaks."""

    key: str
    limit: str
    value: float
    bound: float
    is_minimum: bool
    why: str

    def __str__(self) -> str:
        word = "at least" if self.is_minimum else "at most"
        return f"{self.key}: {self.limit} is {self.value:g}, {word} {self.bound:g} ({self.why})"


def _constant(value: float) -> Figure:
    return lambda facts: value


def _has(*flags: str) -> Callable[[KernelFacts], bool]:
    return lambda facts: set(flags) <= set(facts.variant.flags)


def _multiplies(facts: KernelFacts) -> bool:
    """Whether it is an attention kernel; the quantize kernel issues no wgmma."""
    return facts.variant.consumer_warpgroups > 0


def _quantizes(facts: KernelFacts) -> bool:
    return not _multiplies(facts)


def _row_blocks(facts: KernelFacts) -> int:
    """64-row blocks of scores that one warpgroup works on per step."""
    return facts.variant.tile_m // facts.variant.consumer_warpgroups // WGMMA_M


def _scores(facts: KernelFacts) -> int:
    """Scores that one thread holds per step."""
    return _row_blocks(facts) * WGMMA_M * facts.variant.tile_n // WARPGROUP


def _step_tensor(facts: KernelFacts) -> int:
    """wgmma instructions of one step: depth of q k^T over head_dim, of p v over the keys."""
    depth = WGMMA_K[facts.variant.dtype]
    products = _output_parts(facts) * facts.variant.tile_n // depth
    return _row_blocks(facts) * (facts.variant.head_dim // depth + products)


def _output_parts(facts: KernelFacts) -> int:
    """Products of weights and values that make up one output."""
    if facts.variant.accumulator != "two_level":
        return 1
    return -(-facts.variant.head_dim // TWO_LEVEL_COLUMNS)


def _sass(facts: KernelFacts) -> SassFacts:
    assert facts.sass is not None, "`violations` skips limits on machine code that was not read"
    return facts.sass


def _steady_loop(facts: KernelFacts) -> LoopCounts:
    loop = _sass(facts).steady_loop
    assert loop is not None, "`violations` skips limits on a loop where there is none"
    return loop


def _loop_steps(facts: KernelFacts) -> float:
    """Steps in one pass of the steady loop: above 1 where the compiler or the author unrolled it."""
    return _steady_loop(facts).tensor / _step_tensor(facts)


def _loop_budget(facts: KernelFacts) -> float:
    """Per score: maximum, FFMA, EX2, sum, conversion. Per output value: the rescaling multiplication."""
    outputs = _row_blocks(facts) * WGMMA_M * facts.variant.head_dim // WARPGROUP
    overhead: float = STEP_OVERHEAD + TENSOR_OVERHEAD * _step_tensor(facts)
    overhead += BLOCK_DESCALES if facts.variant.takes_blocks else 0
    overhead += POLYNOMIAL_OVERHEAD * _polynomials(facts, MOST_POLYNOMIALS)
    return _loop_steps(facts) * ((4 + CONVERSION[facts.variant.dtype]) * _scores(facts) + outputs + overhead)


def _polynomials(facts: KernelFacts, part: float) -> float:
    return part * _scores(facts) if "polynomial" in facts.variant.flags else 0


def _spilled_bytes(facts: KernelFacts) -> int:
    return facts.ptxas.spill_store_bytes + facts.ptxas.spill_load_bytes


def _register_limit(facts: KernelFacts) -> int:
    return REGISTER_FILE // facts.variant.threads // REGISTER_UNIT * REGISTER_UNIT


def _registers_held(facts: KernelFacts) -> int:
    """Registers that a CTA holds once setmaxnreg has moved them."""
    consumers = facts.variant.consumer_warpgroups
    producers = facts.variant.threads // WARPGROUP - consumers
    return WARPGROUP * (consumers * _sass(facts).registers_alloc + producers * _sass(facts).registers_dealloc)


def _registers_started_with(facts: KernelFacts) -> int:
    """Those that the launch gave it: setmaxnreg.inc waits for ever for more than the others give up."""
    return math.ceil(facts.ptxas.registers / REGISTER_UNIT) * REGISTER_UNIT * facts.variant.threads


def _loop(name: str) -> Figure:
    return lambda facts: getattr(_steady_loop(facts), name)


def _at_most(name: str, bound: Any, why: str, value: Figure, **options: Any) -> Limit:
    return Limit(name, value, bound if callable(bound) else _constant(bound), False, why, **options)


def _at_least(name: str, bound: Any, why: str, value: Figure, **options: Any) -> Limit:
    return Limit(name, value, bound if callable(bound) else _constant(bound), True, why, **options)


MAIN_LOOPS = "main loops"
LIMITS = (
    _at_most(
        "registers at entry", _register_limit, "one CTA must fit the register file",
        lambda facts: facts.ptxas.registers, needs_sass=False,
    ),
    _at_most(
        "shared memory bytes", SHARED_MEMORY_BYTES, "227 KiB a CTA",
        lambda facts: facts.shared_bytes, needs_sass=False,
    ),
    _at_most(
        "C75xx lines", 0, "ptxas serializes wgmma or ignores setmaxnreg",
        lambda facts: len(facts.serialization), needs_sass=False,
    ),
    _at_least(
        MAIN_LOOPS, 1, "no loop with wgmma was found, so nothing about it can be checked",
        lambda facts: len(_sass(facts).loops), applies=_multiplies,
    ),
    _at_most(
        "registers with 512 threads together", REGISTER_FILE // QUANTIZE_THREADS, "so many hide each other's waits",
        lambda facts: facts.ptxas.registers, applies=_quantizes, needs_sass=False,
    ),
    _at_most(
        "shared memory with 512 threads together", MULTIPROCESSOR_SHARED_BYTES, "so many keep bytes under way",
        lambda facts: (facts.shared_bytes + SYSTEM_SHARED_BYTES) * QUANTIZE_THREADS // facts.variant.threads,
        applies=_quantizes, needs_sass=False,
    ),
    _at_most(
        "bytes spilled", 0, "nothing of it runs outside the loop over tiles", _spilled_bytes,
        applies=_quantizes, needs_sass=False,
    ),
    _at_most(
        "LDL/STL in the main loop or between wgmma", 0, "spilled registers",
        lambda facts: _sass(facts).main_spills,
    ),
    _at_most(
        "WARPGROUP.ARRIVE per wgmma", 0.5, "one for each wgmma is the mark of serialization",
        lambda facts: _sass(facts).arrive / (_sass(facts).hgmma + _sass(facts).qgmma),
    ),
    _at_least("steps in a pass of the main loop", 1, "the tile needs more wgmma than there are", _loop_steps),
    _at_most(
        "part of a step in the main loop", 0, "the count of wgmma does not follow from the tile",
        lambda facts: _loop_steps(facts) % 1,
    ),
    _at_least(
        "EX2 in the main loop", lambda facts: _scores(facts) - _polynomials(facts, MOST_POLYNOMIALS),
        "one exponential for each score, but for polynomials",
        lambda facts: _loop("ex2")(facts) / _loop_steps(facts),
    ),
    _at_most(
        "EX2 in the main loop",
        lambda facts: _scores(facts) - _polynomials(facts, FEWEST_POLYNOMIALS) + EX2_RESCALE * _row_blocks(facts),
        "one exponential for each score and one for each row",
        lambda facts: _loop("ex2")(facts) / _loop_steps(facts),
    ),
    _at_least(
        "FFMA in the main loop", _scores, "scale and maximum must fold into one FFMA for each score",
        lambda facts: _loop("ffma")(facts) / _loop_steps(facts),
    ),
    # Without a producer the main loop issues TMA copies too, whose coordinates come through R2UR.
    _at_most(
        "R2UR in the main loop", 0, "descriptors must be uniform over the warp",
        _loop("r2ur"), applies=_has("warp_specialized"),
    ),
    _at_most(
        "instructions of the main loop", _loop_budget, "issue slots bound the overlap",
        _loop("instructions"), applies=_has("overlap", "warp_specialized"),
    ),
    _at_least("UTMALDG", 3, "q, k and v come by TMA", lambda facts: _sass(facts).utmaldg),
    _at_least(
        "setmaxnreg alloc", 1, "consumers take the producer's registers",
        lambda facts: _sass(facts).setmaxnreg_alloc, applies=_has("warp_specialized"),
    ),
    _at_least(
        "setmaxnreg dealloc", 1, "the producer gives its registers up",
        lambda facts: _sass(facts).setmaxnreg_dealloc, applies=_has("warp_specialized"),
    ),
    _at_most(
        "registers after setmaxnreg", _registers_started_with,
        "a consumer would wait for ever for what nobody gives up", _registers_held, applies=_has("warp_specialized"),
    ),
    _at_least(
        "share of EX2 before the last wait", 1, "ptxas moved the wait above the exponentials",
        lambda facts: _sass(facts).ex2_before_last_wait_share or 0, applies=_has("overlap"),
    ),
    _at_least(
        "share of EX2 with wgmma in flight", 1, "exponentials while the warpgroup's tensor work is done",
        lambda facts: _sass(facts).ex2_in_flight_share or 0, applies=_has("overlap"),
    ),
)  # fmt: skip


def violations(facts: Sequence[KernelFacts]) -> list[Violation]:
    """Every limit that some variant breaks. Limits on the machine code are skipped where it could not be read."""
    found = []
    for one in facts:
        for limit in LIMITS:
            if not limit.applies(one):
                continue
            if limit.needs_sass and (one.sass is None or (limit.name != MAIN_LOOPS and not one.sass.loops)):
                continue
            value, bound = limit.value(one), limit.bound(one)
            if value < bound if limit.is_minimum else value > bound:
                found.append(Violation(one.key, limit.name, value, bound, limit.is_minimum, limit.why))
    return found

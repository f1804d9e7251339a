"""What ptxas made of each kernel variant: registers, spills, shared memory, instructions, and the overlap it kept.

Two sources: what ptxas printed while it compiled (always there), and the machine code itself (needs cuobjdump and
nvdisasm; without them those figures are None, which a table shows as missing, never as zero).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from attnbench.kernel_build import Build, build_all, is_stale, kernel_sources, library_path, read_build
from attnbench.kernel_library import Variant
from attnbench.kernel_ptxas import PtxasFacts, ptxas_facts
from attnbench.kernel_sass import SassFacts, parse_sass, sass_facts
from attnbench.kernel_toolchain import ToolMissing, find_disassembler


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
        functions = parse_sass(find_disassembler().sass(library, only and only.kernel))
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

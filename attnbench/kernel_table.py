"""What `attnbench kernels build` and `attnbench kernels inspect` print."""
from __future__ import annotations

from typing import Sequence

from rich.console import Console
from rich.table import Table

from attnbench.kernel_build import Build
from attnbench.kernel_inspect import KernelFacts
from attnbench.kernel_limits import violations

# Shown where the machine code could not be read; never a number.
UNREAD = "-"

_HEADINGS = (
    "kernel", "regs", "spill B", "smem KiB", "C75xx", "wgmma", "arrive", "TMA ld/st/red", "setmaxnreg",
    "EX2 < wait", "EX2 in flight", "loop instr", "loop EX2", "loop FFMA", "loop R2UR", "loop LDL/STL",
)  # fmt: skip


def build_line(build: Build) -> str:
    """One line about a finished build."""
    return f"{build.name}: {len(build.variants)} variants, {build.compile_s:.1f} s with {build.compiler}"


def facts_table(facts: Sequence[KernelFacts]) -> Table:
    """One row a variant. Columns of the machine code show "-" where no disassembler was there to read it."""
    table = Table(title="Static figures of the compiled kernels", caption=_caption(facts))
    for heading in _HEADINGS:
        table.add_column(heading, justify="left" if heading == "kernel" else "right", no_wrap=True)
    for one in facts:
        table.add_row(*_cells(one))
    return table


def _caption(facts: Sequence[KernelFacts]) -> str:
    parts = [", ".join(sorted({one.compiler for one in facts})) or "nothing built"]
    if any(one.sass is None for one in facts):
        parts.append(f"{UNREAD}: not read, no disassembler (cuobjdump, nvdisasm)")
    parts.append("loop columns: the main loop without masking, per pass")
    return " · ".join(parts)


def _cells(facts: KernelFacts) -> tuple[str, ...]:
    ptxas = (
        facts.key,
        str(facts.ptxas.registers),
        f"{facts.ptxas.spill_store_bytes}/{facts.ptxas.spill_load_bytes}",
        f"{facts.shared_bytes / 1024:.1f}",
        str(len(facts.serialization)),
    )
    sass = facts.sass
    if sass is None:
        return ptxas + (UNREAD,) * (len(_HEADINGS) - len(ptxas))
    loop = sass.steady_loop
    loop_cells = (loop.instructions, loop.ex2, loop.ffma, loop.r2ur, loop.spills) if loop else (UNREAD,) * 5
    machine_code = (
        sass.hgmma + sass.qgmma,
        sass.arrive,
        f"{sass.utmaldg}/{sass.utmastg}/{sass.utmaredg}",
        f"{sass.setmaxnreg_alloc}/{sass.setmaxnreg_dealloc}",
        _percent(sass.ex2_before_last_wait_share),
        _percent(sass.ex2_in_flight_share),
    )
    return ptxas + tuple(map(str, machine_code + loop_cells))


def _percent(share: float | None) -> str:
    return UNREAD if share is None else f"{share:.0%}"


def print_inspection(facts: Sequence[KernelFacts], console: Console | None = None) -> int:
    """Prints the table and every broken limit. Returns how many limits are broken."""
    console = console or Console()
    console.print(facts_table(facts))
    broken = violations(facts)
    for violation in broken:
        console.print(str(violation), style="red", highlight=False, soft_wrap=True)
    if not broken:
        unread = " that need no disassembler" if any(one.sass is None for one in facts) else ""
        console.print(f"All limits{unread} hold for {len(facts)} variants.", highlight=False)
    return len(broken)

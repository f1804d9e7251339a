"""What `attnbench kernels build` and `attnbench kernels inspect` print."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console, RenderableType
from rich.text import Text

from attnbench import screen
from attnbench.errors import UserError
from attnbench.hopper.build import Build, build_all
from attnbench.hopper.inspect import KernelFacts, inspect_all, record_facts, violations
from attnbench.hopper.loads import update_loads
from attnbench.hopper.recorded import NotComparable, compare_recorded, read_recorded, update_recorded
from attnbench.machine_code.disassembler import DISASSEMBLER_WHEELS
from attnbench.screen import FIGURE, NAME, Column, Row, sheet

# Shown where the machine code could not be read; never a number.
UNREAD = "-"

_HEADINGS = (
    "variant", "regs", "spill\nbytes", "smem\nKiB", "C75xx", "wgmma", "arrive", "TMA\nld/st/red",
    "setmaxnreg\nup/down", "EX2\nbefore wait", "EX2\nin flight",
    "loop\ninstr", "loop\nEX2", "loop\nFFMA", "loop\nR2UR", "LDL/\nSTL",
)  # fmt: skip


def build_line(build: Build) -> str:
    """One line about a finished build."""
    return f"{build.name}: {len(build.variants)} variants, {build.compile_s:.1f} s with {build.compiler}"


def facts_table(library: str, facts: Sequence[KernelFacts], width: int) -> Iterator[RenderableType]:
    """One row a variant of one library, in parts where it is wider than the terminal.

    Figures of the machine code show "-" where nothing was there to read it. The loop columns are those of the main loop
    without masking, per pass; LDL/STL counts those in any main loop or between wgmma.
    """
    compiler = ", ".join(sorted({one.compiler for one in facts}))
    yield Text(f"{library} ({compiler})", "bold")
    heads = [Column(heading, NAME if heading == "variant" else FIGURE) for heading in _HEADINGS]
    yield from sheet(heads, [Row(_cells(one)) for one in facts], width)
    yield Text("")


def _cells(facts: KernelFacts) -> tuple[str, ...]:
    ptxas = (
        facts.variant.key,
        str(facts.ptxas.registers),
        f"{facts.ptxas.spill_store_bytes}/{facts.ptxas.spill_load_bytes}",
        f"{facts.shared_bytes / 1024:.1f}",
        str(len(facts.serialization)),
    )
    sass = facts.sass
    if sass is None:
        return ptxas + (UNREAD,) * (len(_HEADINGS) - len(ptxas))
    loop = sass.steady_loop
    loop_cells = (loop.instructions, loop.ex2, loop.ffma, loop.r2ur) if loop else (UNREAD,) * 4
    machine_code = (
        sass.hgmma + sass.qgmma,
        sass.arrive,
        f"{sass.utmaldg}/{sass.utmastg}/{sass.utmaredg}",
        f"{sass.setmaxnreg_alloc}/{sass.setmaxnreg_dealloc}",
        _percent(sass.ex2_before_last_wait_share),
        _percent(sass.ex2_in_flight_share),
    )
    return ptxas + tuple(map(str, (*machine_code, *loop_cells, sass.main_spills)))


def _percent(share: float | None) -> str:
    return UNREAD if share is None else f"{share:.0%}"


def print_inspection(facts: Sequence[KernelFacts], console: Console | None = None) -> int:
    """Prints a table for each library and every broken limit. Returns how many limits are broken."""
    console = console or screen.console()
    for library in dict.fromkeys(one.library for one in facts):
        for part in facts_table(library, [one for one in facts if one.library == library], console.width):
            console.print(part)
    unread = any(one.sass is None for one in facts)
    if unread:
        console.print(f"{UNREAD}: not read, there is no disassembler: pip install {' '.join(DISASSEMBLER_WHEELS)}")
    broken = violations(facts)
    for violation in broken:
        console.print(str(violation), style="red", highlight=False)
    if not facts:
        console.print("No kernel is built: attnbench kernels build")
    elif not broken:
        kind = "limits that need no disassembler" if unread else "limits"
        console.print(f"All {kind} hold for {len(facts)} variants.", highlight=False)
    return len(broken)


def print_changes(facts: Sequence[KernelFacts], console: Console | None = None) -> int:
    """Prints what differs from kernels/static.json, or why that cannot be said. Returns how many figures changed."""
    console = console or screen.console()
    try:
        lines = compare_recorded(facts, read_recorded())
    except NotComparable as error:
        console.print(f"Not compared with kernels/static.json: {error}", highlight=False)
        return 0
    for line in lines:
        console.print(line, style="yellow", highlight=False)
    if lines:
        console.print("If these changes are meant: attnbench kernels inspect --update", highlight=False)
    else:
        console.print("All figures are those of kernels/static.json.", highlight=False)
    return len(lines)


def inspection_json(facts: Sequence[KernelFacts]) -> str:
    """All facts as JSON: a list of variants, each with its flat figures, every main loop and the limits it breaks.

    "sass" is null where the machine code could not be read, and "figures" then lacks what comes from it.
    """
    rows = [
        {
            "key": one.key,
            "figures": record_facts(one),
            "violations": [str(violation) for violation in violations([one])],
            **asdict(one),
        }
        for one in facts
    ]
    return json.dumps(rows, indent=1)


def machine_code_files(names: Sequence[str], only: Sequence[str], update: bool) -> list[Path]:
    """The arguments of `inspect` as files; none where they name kernels of ours. Raises UserError where both are there.

    A kernel's name has neither a folder nor a suffix.
    """
    files = [Path(name) for name in names if "/" in name or "." in name]
    if files and len(files) < len(names):
        other = next(name for name in names if Path(name) not in files)
        library = f"build/kernels/sm_90a/{other}.so"
        raise UserError(f'"{other}" is no file; of our own kernels, name the library too: {library}')
    if files and update:
        raise UserError("--update records our own kernels, no files")
    if only and not files:
        raise UserError("--only keeps kernels of files; name one, such as build/kernels/sm_90a/fwd_overlap.so")
    return files


def inspect_files(files: Sequence[Path], only: Sequence[str], as_json: bool) -> None:
    """Prints what the machine code of files shows, as tables or as JSON."""
    from attnbench.machine_code.only import Only
    from attnbench.machine_code.read import read_files
    from attnbench.machine_code.report import kernels_json, print_kernels

    kernels = read_files(files, Only.parse(only))
    if as_json:
        print(kernels_json(kernels))
    else:
        print_kernels(kernels)


def inspect_built(names: Sequence[str], as_json: bool, update: bool) -> int:
    """Prints what the compiler made of our kernels; the exit status: 1 for a broken limit or a figure that changed."""
    facts = inspect_all(names)
    if update:
        update_recorded(facts)
        update_loads([build for build in build_all(names) if build.name.startswith("fwd_")])
    if as_json:
        print(inspection_json(facts))
        return 1 if violations(facts) else 0
    return 1 if print_inspection(facts) + print_changes(facts) else 0

"""Kernels' machine code as a table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import zip_longest
from typing import Any

from rich.console import Console, RenderableType
from rich.text import Text

from attnbench import screen
from attnbench.machine_code.kernel import KEYS, LoopFacts, MachineKernel
from attnbench.machine_code.names import EXTRAS
from attnbench.screen import FIGURE, NAME, TEXT, Column, Kind, Row, sheet

# Shown where a figure does not exist; never a number.
NONE = "-"

_HEADINGS = (
    "kernel", "regs", "shared\nKiB", "spills\nloop/all", "loop", "keys", "products", "instr", "path", "exposed",
    "EX2 in\nflight", "chain", "tensor", "issue", "MUFU", "ALU", "FP32", "rescales", "limit",
)  # fmt: skip
# The other columns hold figures.
_KINDS: Mapping[str, Kind] = {"file": NAME, "kernel": NAME, "products": TEXT, "rescales": TEXT, "limit": TEXT}
# Arguments that a table names where they are set, besides dtype, head_dim and tile.
_FLAGS = ("causal", *EXTRAS)


def described(kernel: MachineKernel) -> str:
    """A kernel in a few words: FlashAttnFwdSm90 bf16 d128 tile 128x176 causal."""
    arguments = kernel.arguments
    words = [kernel.short]
    if kernel.short == kernel.symbol and "schedule" in arguments:
        return kernel.short
    words += [str(arguments["dtype"])] if arguments.get("dtype") else []
    words += [f"d{arguments['head_dim']}"] if "head_dim" in arguments else []
    if "head_dim_v" in arguments and arguments["head_dim_v"] != arguments.get("head_dim"):
        words.append(f"dv{arguments['head_dim_v']}")
    if "tile_m" in arguments:
        words.append(f"tile {arguments['tile_m']}x{arguments.get('tile_n', '?')}")
    if "cluster" in arguments:
        words.append(f"cluster {arguments['cluster']}")
    words += [kernel.arch] if kernel.arch == "sm_80" else []
    return " ".join([*words, *(flag for flag in _FLAGS if arguments.get(flag) is True)])


def kernels_table(kernels: Sequence[MachineKernel], width: int) -> Iterator[RenderableType]:
    """One row a main loop; clocks of pipes are of all warpgroups, the rest of one. Figures that do not fit the terminal
    are continued in a further table.

    Kernels of one file stand in their order. Those of several are held against each other: by dtype, head_dim and
    causal, with their files.
    """
    files = list(dict.fromkeys(kernel.file for kernel in kernels))
    compilers = ", ".join(sorted({kernel.compiler for kernel in kernels} - {""})) or "compiler not noted"
    arches = ", ".join(sorted({kernel.arch for kernel in kernels}))
    yield Text(f"{files[0] if len(files) == 1 else f'{len(files)} files'} ({arches}; {compilers})", "bold")
    headings = _HEADINGS if len(files) == 1 else ("file", *_HEADINGS)
    heads = [Column(heading, _KINDS.get(heading, FIGURE)) for heading in headings]
    rows: list[Row] = []
    ordered = sorted(kernels, key=lambda kernel: (_problem(kernel), files.index(kernel.file)))
    for kernel, following in zip_longest(kernels if len(files) == 1 else ordered, ordered[1:]):
        file = () if len(files) == 1 else (_file_in_short(kernel.file),)
        ends = len(files) > 1 and following is not None and _problem(following) != _problem(kernel)
        rows += _rows(kernel, file, ends)
    yield from sheet(heads, rows, width)
    yield Text("")


def _problem(kernel: MachineKernel) -> tuple[str, int, bool]:
    said = kernel.arguments
    return str(said.get("dtype", "")), int(said.get("head_dim", 0)), bool(said.get("causal", False))


def _file_in_short(file: str) -> str:
    """The wheel's name without its tags, the file's otherwise."""
    wheel, _, _ = file.partition(":")
    return "-".join(wheel.split("-")[:2]) if wheel.endswith(".whl") else file


def _rows(kernel: MachineKernel, file: tuple[str, ...], ends: bool) -> Iterator[Row]:
    for number, loop in enumerate(kernel.loops):
        first = (*file, described(kernel), str(kernel.registers), f"{kernel.shared_bytes / 1024:.1f}")
        yield Row(
            (
                *(first if number == 0 else ("",) * len(first)),
                f"{loop.spills}/{kernel.spills}",
                *_loop_cells(loop, kernel.warpgroups),
            ),
            ends=ends and number == len(kernel.loops) - 1,
        )


def _loop_cells(loop: LoopFacts, warpgroups: int) -> tuple[str, ...]:
    tensor = " + ".join(f"{count}·{shape}" for shape, count in loop.tensor.items())
    return (
        "masked" if loop.masked else "plain",
        f"{loop.keys or NONE}",
        f"{warpgroups} x ({tensor})",
        f"{loop.instructions:.0f}",
        f"{loop.common_path:.0f}",
        NONE if loop.exposed is None else f"{loop.exposed:.0f}",
        f"{NONE if loop.in_flight is None else loop.in_flight}/{loop.exponentials}",
        f"{loop.chain:.0f}",
        *(f"{clocks:.0f}" for clocks in asdict(loop.pipes).values()),
        "where needed" if loop.conditional_rescale else "",
        loop.limit,
    )


def print_kernels(kernels: Sequence[MachineKernel], console: Console | None = None) -> None:
    """The table, how many kernels have no row in it, and what its figures are of."""
    console = console or screen.console()
    shown = [kernel for kernel in kernels if kernel.loops]
    if shown:
        for part in kernels_table(shown, console.width):
            console.print(part)
    for file in dict.fromkeys(kernel.file for kernel in kernels):
        if hidden := sum(kernel.file == file and not kernel.loops for kernel in kernels):
            kernels_of = "kernel" if hidden == 1 else "kernels"
            console.print(f"{file}: {hidden} {kernels_of} without a main loop that multiplies", highlight=False)
    console.print(
        f"instr, path, exposed, chain: one warpgroup's, for {KEYS} keys and 64 rows; pipes: clocks of all warpgroups "
        f"of a CTA for the same. Where keys is {NONE}: of one pass. docs/reference/machine-code.md",
        highlight=False,
    )  # fmt: skip


def kernels_json(kernels: Sequence[MachineKernel]) -> str:
    """{"kernels": [...]}: every figure; docs/reference/machine-code.md has the keys."""
    return json.dumps({"kernels": [_kernel_row(kernel) for kernel in kernels]}, indent=1)


def _kernel_row(kernel: MachineKernel) -> dict[str, Any]:
    row = asdict(kernel)
    row["spills"] = {"in_loops": sum(loop.spills for loop in kernel.loops), "all": kernel.spills}
    row["loops"] = [_loop_row(loop) for loop in kernel.loops]
    return row


def _loop_row(loop: LoopFacts) -> dict[str, Any]:
    row = asdict(loop)
    row["exponentials"] = {"of_pass": loop.exponentials, "in_flight": row.pop("in_flight")}
    row["pipes"] = {name: round(clocks, 1) for name, clocks in row["pipes"].items()}
    for name in ("instructions", "common_path", "exposed", "chain"):
        row[name] = None if row[name] is None else round(row[name], 1)
    return row

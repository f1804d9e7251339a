"""What `ptxas -v` printed of each kernel: registers, spills, shared memory; and the kernels that spill where it hurts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from attnbench.kernel_sass import parse_sass, sass_facts
from attnbench.kernel_toolchain import ToolMissing, find_disassembler

_ENTRY = re.compile(r"Compiling entry function '(\S+)' for")
_PROPERTIES = re.compile(r"Function properties for '?([^\s']+)'?")
_STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers(?:, used (\d+) barriers)?(?:.*?, (\d+) bytes smem)?")


@dataclass(frozen=True)
class PtxasFacts:
    """What `ptxas -v` printed of one kernel. Registers are per thread at entry, before setmaxnreg moves them."""

    registers: int
    spill_store_bytes: int
    spill_load_bytes: int
    static_shared_bytes: int


def ptxas_facts(log: str) -> dict[str, PtxasFacts]:
    """Figures of every kernel in the output of `ptxas -v`, by symbol."""
    found: dict[str, PtxasFacts] = {}
    entry = described = None
    spills = (0, 0)
    for line in log.splitlines():
        if match := _ENTRY.search(line):
            entry, spills = match.group(1), (0, 0)
        elif match := _PROPERTIES.search(line):
            described = match.group(1)
        elif (match := _STACK.search(line)) and described == entry:
            spills = (int(match.group(2)), int(match.group(3)))
        elif (match := _USED.search(line)) and entry is not None:
            found[entry] = PtxasFacts(int(match.group(1)), *spills, int(match.group(3) or 0))
    return found


def main_loop_spills(log: str, library: Path) -> list[str]:
    """A line for each kernel that reads or writes spilled registers in its main loop or between its wgmma.

    Where the machine code cannot be read, every kernel that spills at all is named: the place is unknown.
    """
    spilling = [name for name, facts in ptxas_facts(log).items() if facts.spill_store_bytes or facts.spill_load_bytes]
    if not spilling:
        return []
    try:
        functions = parse_sass(find_disassembler().sass(library))
    except ToolMissing as error:
        return [f"{name}: spills, and nothing here can tell where ({error})" for name in spilling]
    counts = {name: sass_facts(functions[name]).main_spills for name in spilling}
    return [f"{name}: {count} LDL/STL between wgmma or in the main loop" for name, count in counts.items() if count]

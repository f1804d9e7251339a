"""The recorded static figures of every kernel variant (kernels/static.json), and what changed since.

The limits (kernel_limits) say what must never happen; the record shows what stays within them but moved, so that a
change of a kernel or of the compiler is seen for what it did to the machine code.
"""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Mapping, Sequence

from attnbench.kernel_inspect import KernelFacts, sass_figures
from attnbench.kernel_limits import violations
from attnbench.kernel_recipe import KERNELS
from attnbench.kernel_toolchain import PINNED_NVCC

STATIC = KERNELS / "static.json"

# Figures that kernels/static.json records: each a plain number that a change of kernel or compiler may move.
RECORDED = (
    "registers", "spill_store_bytes", "spill_load_bytes", "shared_bytes", "instructions", "hgmma", "qgmma", "arrive",
    "utmaldg", "utmastg", "utmaredg", "setmaxnreg_alloc", "setmaxnreg_dealloc", "ex2", "main_spills",
    "main_loops", "ex2_in_flight_share", "ex2_before_last_wait_share", "loop_instructions", "loop_tensor",
    "loop_arrive", "loop_waits", "loop_ex2", "loop_ffma", "loop_r2ur", "loop_spills",
)  # fmt: skip


def recorded_figures(facts: KernelFacts) -> dict[str, Any]:
    """One variant's entry of kernels/static.json. Needs the machine code."""
    row = {name: getattr(facts.ptxas, name) for name in ("registers", "spill_store_bytes", "spill_load_bytes")}
    row |= {"shared_bytes": facts.shared_bytes} | sass_figures(facts.sass)
    return {name: row[name] for name in RECORDED if name in row}


def compare_recorded(facts: Sequence[KernelFacts], recorded: Mapping[str, Any]) -> list[str]:
    """Lines that say what differs from the recorded figures; [] when nothing does.

    Only the libraries that `facts` speaks of are compared. Raises ValueError when the compiler is another one than
    the record's: such figures say nothing about each other.
    """
    compilers = {one.compiler for one in facts}
    if compilers != {recorded["compiler"]}:
        built_by = ", ".join(sorted(compilers))
        raise ValueError(f"not comparable: built by {built_by}, recorded with {recorded['compiler']}")
    now = {one.key: recorded_figures(one) for one in facts}
    libraries = {one.library for one in facts}
    before = {key: row for key, row in recorded["variants"].items() if key.split("/")[0] in libraries}
    lines = [f"{key}: no longer there" for key in sorted(before.keys() - now.keys())]
    lines += [f"{key}: not recorded" for key in sorted(now.keys() - before.keys())]
    for key in sorted(now.keys() & before.keys()):
        for name in RECORDED:
            if now[key].get(name) != before[key].get(name):
                lines.append(f"{key}: {name} {before[key].get(name)} -> {now[key].get(name)}")
    return lines


def read_recorded(path: Path = STATIC) -> dict[str, Any]:
    return json.loads(path.read_text())


def update_recorded(facts: Sequence[KernelFacts], path: Path = STATIC) -> None:
    """Writes the figures of all variants as the new record. Raises ValueError where they must not become one."""
    compilers = {one.compiler for one in facts}
    if compilers != {f"nvcc {PINNED_NVCC}"}:
        built_by = ", ".join(sorted(compilers)) or "nothing"
        raise ValueError(f"figures are recorded with nvcc {PINNED_NVCC}, not with {built_by}")
    if any(one.sass is None for one in facts):
        raise ValueError("figures are recorded with the machine code read; install cuobjdump and nvdisasm")
    if broken := violations(facts):
        raise ValueError("a kernel that breaks a limit is not recorded:\n" + "\n".join(map(str, broken)))
    rows = {one.key: recorded_figures(one) for one in sorted(facts, key=lambda one: one.key)}
    path.write_text(json.dumps({"compiler": f"nvcc {PINNED_NVCC}", "variants": rows}, indent=1) + "\n")

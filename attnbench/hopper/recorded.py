"""The recorded static figures of every kernel variant (kernels/static.json), and what changed since.

The limits (kernel_limits) say what must never happen; the record shows what stays within them but moved, so that a
change of a kernel or of the compiler is seen for what it did to the machine code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attnbench.errors import UserError
from attnbench.hopper.inspect import KernelFacts, sass_figures, violations
from attnbench.hopper.toolchain import KERNELS, PINNED_NVCC

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
    assert facts.sass is not None, "figures are recorded where the machine code was read"
    row = {name: getattr(facts.ptxas, name) for name in ("registers", "spill_store_bytes", "spill_load_bytes")}
    row |= {"shared_bytes": facts.shared_bytes} | sass_figures(facts.sass)
    return {name: row[name] for name in RECORDED if name in row}


class NotComparable(UserError, ValueError):
    """Figures that say nothing about the recorded ones; the message says why."""


def compare_recorded(facts: Sequence[KernelFacts], recorded: Mapping[str, Any]) -> list[str]:
    """Lines that say what differs from the recorded figures; [] when nothing does.

    Only the libraries that `facts` speaks of are compared. Raises NotComparable for another compiler than the
    record's, and where the machine code was not read.
    """
    compilers = {one.compiler for one in facts}
    if compilers != {recorded["compiler"]}:
        built_by = ", ".join(sorted(compilers)) or "nothing"
        raise NotComparable(f"built by {built_by}, recorded with {recorded['compiler']}")
    if any(one.sass is None for one in facts):
        raise NotComparable("the machine code was not read, there is no disassembler")
    now = {one.key: recorded_figures(one) for one in facts}
    libraries = {one.library for one in facts}
    before = {key: row for key, row in recorded["variants"].items() if _library(key) in libraries}
    lines = [f"{key}: no longer there" for key in sorted(before.keys() - now.keys())]
    lines += [f"{key}: not recorded" for key in sorted(now.keys() - before.keys())]
    for key in sorted(now.keys() & before.keys()):
        for name in RECORDED:
            if now[key].get(name) != before[key].get(name):
                lines.append(f"{key}: {name} {before[key].get(name)} -> {now[key].get(name)}")
    return lines


def _library(key: str) -> str:
    return key.split("/", 1)[0]


def read_recorded(path: Path = STATIC) -> dict[str, Any]:
    """The record; an empty one where the file does not exist, so that every variant is "not recorded"."""
    if not path.exists():
        return {"compiler": f"nvcc {PINNED_NVCC}", "variants": {}}
    recorded: dict[str, Any] = json.loads(path.read_text())
    return recorded


def update_recorded(facts: Sequence[KernelFacts], path: Path = STATIC) -> None:
    """Records the figures of all variants in `facts`, a line each; those of libraries that it does not speak of stay.

    Raises NotComparable where the figures must not become the record: another compiler than the pinned one, machine
    code not read, or a limit that is broken.
    """
    compilers = {one.compiler for one in facts}
    if compilers != {f"nvcc {PINNED_NVCC}"}:
        built_by = ", ".join(sorted(compilers)) or "nothing"
        raise NotComparable(f"figures are recorded with nvcc {PINNED_NVCC}, not with {built_by}")
    if any(one.sass is None for one in facts):
        raise NotComparable("figures are recorded with the machine code read; install cuobjdump and nvdisasm")
    if broken := violations(facts):
        raise NotComparable("a kernel that breaks a limit is not recorded:\n" + "\n".join(map(str, broken)))
    libraries = {one.library for one in facts}
    rows = {key: row for key, row in read_recorded(path)["variants"].items() if _library(key) not in libraries}
    rows |= {one.key: recorded_figures(one) for one in facts}
    rows = {key: row for key, row in sorted(rows.items()) if (path.parent / f"{_library(key)}.cu").exists()}
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(row)}" for key, row in rows.items())
    path.write_text(f'{{"compiler": "nvcc {PINNED_NVCC}",\n"variants": {{\n{lines}\n}}}}\n')

"""What each pipe of a multiprocessor needs for our kernels' main loops, recorded in kernels/loads.json.

Read from the machine code by `attnbench.machine_code`, where nvcc and a disassembler are; told with a kernel's record
on every other machine too, as long as the kernel's sources are those that were read.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from attnbench.hopper.build import Build, library_path
from attnbench.hopper.library import Variant
from attnbench.hopper.toolchain import KERNELS, source_digest

LOADS = KERNELS / "loads.json"


def measured_loads(builds: Sequence[Build]) -> dict[str, Any]:
    """The loads of every main loop without masking, by library; needs the machine code. Raises UserError without.

    {library: {"compiler", "sources": digest, "variants": {key: {"keys", pipes in clocks, "chain", "limit"}}}}
    """
    from attnbench.machine_code.read import read_files

    found: dict[str, Any] = {}
    for build in builds:
        loops = {one.symbol: one.loops for one in read_files([library_path(build.name)])}
        rows = {}
        for variant in map(Variant.from_row, build.variants):
            plain = [loop for loop in loops.get(variant.kernel, ()) if not loop.masked]
            if plain:
                loop = plain[0]
                pipes = {name: round(clocks, 1) for name, clocks in asdict(loop.pipes).items()}
                rows[variant.key] = {"keys": loop.keys, **pipes, "chain": round(loop.chain, 1), "limit": loop.limit}
        found[build.name] = {"compiler": build.compiler, "sources": build.source_digest, "variants": rows}
    return found


def update_loads(builds: Sequence[Build], path: Path = LOADS) -> None:
    """Records the loads of these libraries; those of others stay."""
    recorded = {**(json.loads(path.read_text()) if path.exists() else {}), **measured_loads(builds)}
    lines = []
    for library, entry in sorted(recorded.items()):
        rows = ",\n".join(f"{json.dumps(key)}: {json.dumps(row)}" for key, row in sorted(entry["variants"].items()))
        head = f'"compiler": {json.dumps(entry["compiler"])}, "sources": {json.dumps(entry["sources"])}'
        lines.append(f'{json.dumps(library)}: {{{head}, "variants": {{\n{rows}\n}}}}')
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def recorded_loads(library: str, key: str) -> Mapping[str, Any] | None:
    """What is recorded of a variant, with the compiler; None where nothing is, or of other sources than those here."""
    entry = _recorded().get(library)
    if entry is None or key not in entry["variants"] or not is_fresh(library):
        return None
    return {"compiler": entry["compiler"], **entry["variants"][key]}


def is_fresh(library: str) -> bool:
    """Whether the recorded loads are those of the sources here."""
    entry = _recorded().get(library)
    return entry is not None and entry["sources"] == source_digest([KERNELS / f"{library}.cu"], [KERNELS / "include"])


@functools.cache
def _recorded() -> dict[str, Any]:
    if not LOADS.exists():
        return {}
    recorded: dict[str, Any] = json.loads(LOADS.read_text())
    return recorded

"""Machine code written by hand with labels, and small files compiled by nvcc."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from attnbench.machine_code.instructions import Instruction

HERE = Path(__file__).parent
NO_SCOREBOARD = 7


def written(code: str) -> tuple[Instruction, ...]:
    """Instructions of code with labels (`name:`, used as `->name`), a line each.

    Behind a bar stand its scheduling bits: `MUFU.EX2 R1, R1 | stall=2 sets=0 waits=0,1`; stall is 1 otherwise.
    """
    labels: dict[str, int] = {}
    lines: list[str] = []
    for line in map(str.strip, code.strip().splitlines()):
        if line.endswith(":"):
            labels[line[:-1]] = 16 * len(lines)
        elif line:
            lines.append(line)
    return tuple(_instruction(16 * index, line, labels) for index, line in enumerate(lines))


def _instruction(address: int, line: str, labels: dict[str, int]) -> Instruction:
    text, _, scheduling = line.partition("|")
    placed = re.sub(r"->(\w+)", lambda match: f"{labels[match[1]]:#x}", text.strip())
    found = re.fullmatch(r"(?:@(\S+)\s+)?(\S+)\s*(.*)", placed)
    bits = dict(re.findall(r"(\w+)=([\d,]+)", scheduling))
    waits = sum(1 << int(board) for board in bits.get("waits", "").split(",") if board)
    control = int(bits.get("stall", 1)) | int(bits.get("sets", NO_SCOREBOARD)) << 5 | NO_SCOREBOARD << 8 | waits << 11
    predicate, opcode, operands = found.groups()
    return Instruction(address, predicate or "", opcode, operands, opcode.split(".")[0], control)


def compiled(nvcc, folder: Path, arch: str, *options: str) -> Path:
    """A file made of products.cu: a cubin, or what `options` ask for instead. One that is there is not made again."""
    kind = options or ("-cubin",)
    suffix = {"-cubin": "cubin", "-fatbin": "fatbin", "-c": "o", "-shared": "so"}[kind[0]]
    made = folder / arch / f"products.{suffix}"
    if made.exists():
        return made
    made.parent.mkdir(exist_ok=True)
    # Not told by the architecture: the host's half of a library must declare the same kernels.
    flags = {"sm_90a": ("-DWGMMA",), "sm_80": ("-DMMA_SYNC",)}.get(arch, ())
    flags += ("-Xcompiler", "-fPIC") if suffix in ("o", "so") else ()
    extra = [f"-L{folder}" for folder in nvcc.library_dirs]
    code = f"-gencode=arch=compute_{arch[3:]},code={arch}"
    command = [str(nvcc.path), *kind, code, *flags, *extra, "-o", str(made), str(HERE / "products.cu")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return made

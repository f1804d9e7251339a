"""Machine code to instructions, by nvdisasm, each different encoding once.

A library of attention kernels holds millions of instructions, most of them again and again: nvdisasm takes some 25 us
for each. So encodings are gathered over many kernels, their scheduling bits set aside (they are read here and mean the
same in every instruction), and nvdisasm is given each that is left once, as raw code. What an instruction says of its
own place (a branch's target) is relative in the encoding, and is moved to where the kernel has it.
"""

from __future__ import annotations

import re
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from attnbench.errors import UserError
from attnbench.machine_code.disassembler import Disassembler
from attnbench.machine_code.instructions import INSTRUCTION, Instruction

# Bits 105 to 125 of an instruction's 128: stall count (4), yield (1), barrier to set on writing and on reading (3
# each), barriers to wait for (6), operands to reuse (4). Jia et al., arXiv:1804.06826, section 2.1.
CONTROL_SHIFT = 41
_CONTROL = ((1 << 21) - 1) << CONTROL_SHIFT
_WORD = (1 << 64) - 1
# One that fits every instruction: stall 1, no barrier set (7), none waited for.
_NEUTRAL = 0x7F1 << CONTROL_SHIFT
INSTRUCTION_BYTES = 16
# Encodings that are kept; at some 300 bytes each, a few hundred MB at most.
_KEPT = 600_000

_PLACED = re.compile(r"0x([0-9a-f]+)\s*$")
# Instructions whose last operand is a place relative to their own.
_RELATIVE = ("BRA", "BSSY", "CALL")

_Decoded = tuple[str, str, str, str, int | None]


class Decoder:
    """Instructions of code, with the encodings that it has seen. One architecture's ("sm_90a")."""

    def __init__(self, tool: Disassembler, arch: str) -> None:
        self._tool = tool
        self._arch = arch.replace("sm_", "SM")
        self._known: dict[tuple[int, int], _Decoded] = {}

    def learn(self, codes: Sequence[bytes]) -> None:
        """Asks nvdisasm about every encoding of these that is new, all at once. Raises UserError where it fails."""
        if len(self._known) > _KEPT:
            self._known.clear()
        new = {
            (low, high & ~_CONTROL & _WORD): None for code in codes for low, high in struct.iter_unpack("<QQ", code)
        }.keys() - self._known.keys()
        if not new:
            return
        order = sorted(new)
        with tempfile.NamedTemporaryFile(suffix=".bin") as raw:
            raw.write(b"".join(struct.pack("<QQ", low, high | _NEUTRAL) for low, high in order))
            raw.flush()
            self._read(order, Path(raw.name))

    def _read(self, order: Sequence[tuple[int, int]], raw: Path) -> None:
        command = [str(self._tool.nvdisasm), "--binary", self._arch, "--no-dataflow", "--print-raw", str(raw)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            assert process.stdout is not None
            said = []
            for line in process.stdout:
                found = INSTRUCTION.match(line)
                if found is None:
                    said.append(line.strip())
                    continue
                address, predicate, opcode, operands = found.groups()
                at, name = int(address, 16), opcode.split(".", 1)[0]
                self._known[order[at // INSTRUCTION_BYTES]] = (
                    predicate or "", opcode, operands.strip(), name, _offset(name, opcode, operands, at)
                )  # fmt: skip
        missing = sum(key not in self._known for key in order)
        if process.returncode or missing:
            words = next((line for line in said if line), f"{missing} instructions are not in its output")
            raise UserError(f"nvdisasm cannot read this code as {self._arch}: {words}")

    def instructions(self, code: bytes) -> tuple[Instruction, ...]:
        """Code that was learned, instruction by instruction."""
        return tuple(
            _placed(self._known[low, high & ~_CONTROL & _WORD], index, high)
            for index, (low, high) in enumerate(struct.iter_unpack("<QQ", code))
        )


def _offset(name: str, opcode: str, operands: str, at: int) -> int | None:
    """How far behind itself an instruction points; None for one that points nowhere."""
    if name not in _RELATIVE or opcode.startswith("CALL.ABS"):
        return None
    found = _PLACED.search(operands)
    return int(found[1], 16) - at if found else None


def _placed(decoded: _Decoded, index: int, high: int) -> Instruction:
    predicate, opcode, operands, name, offset = decoded
    address = index * INSTRUCTION_BYTES
    if offset is not None:
        operands = _PLACED.sub(f"{(address + offset) & _WORD:#x}", operands)
    return Instruction(address, predicate, opcode, operands, name, (high & _CONTROL) >> CONTROL_SHIFT)

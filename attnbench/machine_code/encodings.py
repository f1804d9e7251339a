"""Machine code to instructions, by nvdisasm, as little of it as is needed and each encoding once.

A library of attention kernels holds millions of instructions; nvdisasm takes some 30 us for each. So a kernel is first
outlined: what an instruction is called follows from the lowest 12 bits of its encoding (the operation and the kind of
its operands), of which nvdisasm reads one example each, and only what decides control flow is decoded in full. Then the
instructions that somebody wants, those of loops, are.

Encodings are gathered over many kernels, their scheduling bits set aside (they are read here and mean the same in every
instruction), and nvdisasm is given each that is left once, as raw code. What an instruction says of its own place (a
branch's target) is relative in the encoding, and is moved to where the kernel has it.
"""

from __future__ import annotations

import re
import struct
import subprocess
import tempfile
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path

from attnbench.errors import UserError
from attnbench.machine_code.disassembler import Disassembler
from attnbench.machine_code.flow import ENDS_BLOCK
from attnbench.machine_code.instructions import INSTRUCTION, Instruction
from attnbench.machine_code.products import MULTIPLIES

# Bits 105 to 125 of an instruction's 128: stall count (4), yield (1), barrier to set on writing and on reading (3
# each), barriers to wait for (6), operands to reuse (4). Jia et al., arXiv:1804.06826, section 2.1.
CONTROL_SHIFT = 41
_CONTROL = ((1 << 21) - 1) << CONTROL_SHIFT
_WORD = (1 << 64) - 1
# One that fits every instruction: stall 1, no barrier set (7), none waited for.
_NEUTRAL = 0x7F1 << CONTROL_SHIFT
INSTRUCTION_BYTES = 16

# NOTE: of raw code, nvdisasm prints a place before the first instruction as a negative one.
_PLACED = re.compile(r"(-?0x[0-9a-f]+)\s*$")
# Instructions whose last operand is a place relative to their own.
_RELATIVE = ("BRA", "BSSY", "CALL.REL", "RET.REL", "WARPSYNC.COLLECTIVE")

# Decoded in an outline: jumps and exits, tensor instructions and the waits for them, and what moves registers.
OUTLINED = frozenset((*ENDS_BLOCK, *MULTIPLIES, "WARPGROUP", "USETMAXREG"))

_Key = tuple[int, int]
_Decoded = tuple[str, str, str, str, int | None]


class Decoder:
    """Instructions of code, with the encodings that it has seen. One architecture's ("sm_90a")."""

    def __init__(self, tool: Disassembler, arch: str) -> None:
        self._tool = tool
        self._arch = arch.replace("sm_", "SM")
        self._known: dict[_Key, _Decoded] = {}
        self._names: dict[int, str] = {}

    def outlines(self, codes: Sequence[bytes]) -> list[tuple[Instruction, ...]]:
        """Every instruction of each code: its name, and all of it where it is one of OUTLINED.

        Raises UserError for what nvdisasm cannot read.
        """
        operations = [_operations(code) for code in codes]
        examples = {
            operation: _key_at(code, place.index(operation))
            for code, place in zip(codes, operations)
            for operation in set(place) - self._names.keys()
        }
        self._learn(examples.values())
        self._names |= {operation: self._known[key][3] for operation, key in examples.items()}
        outlined = {operation for operation, name in self._names.items() if name in OUTLINED}
        places = [[index for index, one in enumerate(of_code) if one in outlined] for of_code in operations]
        self._learn(_key_at(code, index) for code, indices in zip(codes, places) for index in indices)
        return [self._outline(*one) for one in zip(codes, operations, places)]

    def _outline(self, code: bytes, operations: Sequence[int], places: Sequence[int]) -> tuple[Instruction, ...]:
        names = self._names
        outline = [
            Instruction(INSTRUCTION_BYTES * index, "", names[operation], "", names[operation])
            for index, operation in enumerate(operations)
        ]
        for index in places:
            outline[index] = _placed(self._known[_key_at(code, index)], index, 0)
        return tuple(outline)

    def details(self, wanted: Sequence[tuple[bytes, Sequence[int]]]) -> list[dict[int, Instruction]]:
        """Instructions of each code at the addresses asked for, decoded in full, with their scheduling bits."""
        words = [
            {address: struct.unpack_from("<QQ", code, address) for address in addresses} for code, addresses in wanted
        ]
        self._learn(_key(*word) for code in words for word in code.values())
        return [
            {
                address: _placed(self._known[_key(*word)], address // INSTRUCTION_BYTES, word[1])
                for address, word in code.items()
            }
            for code in words
        ]

    def _learn(self, keys: Iterable[_Key]) -> None:
        """Asks nvdisasm about every encoding of these that is new, all at once. Raises UserError where it fails."""
        new = set(keys) - self._known.keys()
        if not new:
            return
        order = list(new)
        with tempfile.NamedTemporaryFile(suffix=".bin") as raw:
            raw.write(b"".join(struct.pack("<QQ", low, high | _NEUTRAL) for low, high in order))
            raw.flush()
            self._read(order, Path(raw.name))

    def _read(self, order: Sequence[_Key], raw: Path) -> None:
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
                    predicate or "", opcode, operands.strip(), name, _offset(opcode, operands, at)
                )  # fmt: skip
        missing = sum(key not in self._known for key in order)
        if process.returncode or missing:
            words = next((line for line in said if line), f"{missing} instructions are not in its output")
            raise UserError(f"nvdisasm cannot read this code as {self._arch}: {words}")


def _operations(code: bytes) -> array[int]:
    """The 12 bits of each instruction that say its operation."""
    return array("H", (low | (high & 0xF) << 8 for low, high in zip(code[::16], code[1::16])))


def _key(low: int, high: int) -> _Key:
    return low, high & ~_CONTROL & _WORD


def _key_at(code: bytes, index: int) -> _Key:
    return _key(*struct.unpack_from("<QQ", code, INSTRUCTION_BYTES * index))


def _offset(opcode: str, operands: str, at: int) -> int | None:
    """How far behind itself an instruction points; None for one that points nowhere."""
    if not opcode.startswith(_RELATIVE):
        return None
    found = _PLACED.search(operands)
    return int(found[1], 16) - at if found else None


def _placed(decoded: _Decoded, index: int, high: int) -> Instruction:
    predicate, opcode, operands, name, offset = decoded
    address = index * INSTRUCTION_BYTES
    if offset is not None:
        operands = _PLACED.sub(f"{(address + offset) & _WORD:#x}", operands)
    return Instruction(address, predicate, opcode, operands, name, (high & _CONTROL) >> CONTROL_SHIFT)

"""Instructions of Hopper machine code, as cuobjdump -sass lists them."""

from __future__ import annotations

import re
from dataclasses import dataclass

_FUNCTION = re.compile(r"^\s*Function : (\S+)")
_INSTRUCTION = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@(!?U?P\w+)\s+)?([A-Z][A-Z0-9_.]*)\s*([^;]*);")
_TENSOR = ("HGMMA", "QGMMA")


@dataclass(frozen=True, slots=True)
class Instruction:
    """One machine instruction. predicate: "P0", "!UP1", or "" when it always runs."""

    address: int
    predicate: str
    opcode: str
    operands: str

    @property
    def name(self) -> str:
        """The opcode without its modifiers: MUFU of MUFU.EX2."""
        return self.opcode.split(".", 1)[0]

    @property
    def is_tensor(self) -> bool:
        return self.name in _TENSOR

    @property
    def commits(self) -> bool:
        """Closes a wgmma group: ptxas folds wgmma.commit_group into the group's last instruction."""
        return self.is_tensor and self.operands.endswith("gsb0")

    @property
    def groups_left(self) -> int | None:
        """N of wgmma.wait_group N; None for any other instruction."""
        if self.opcode != "WARPGROUP.DEPBAR.LE":
            return None
        return int(self.operands.rsplit(",", 1)[1].strip(), 16)


def parse_sass(text: str) -> dict[str, tuple[Instruction, ...]]:
    """Instructions of every function in cuobjdump's listing, by symbol."""
    functions: dict[str, list[Instruction]] = {}
    current: list[Instruction] | None = None
    for line in text.splitlines():
        if header := _FUNCTION.match(line):
            current = functions.setdefault(header.group(1), [])
        elif current is not None and (found := _INSTRUCTION.match(line)):
            address, predicate, opcode, operands = found.groups()
            current.append(Instruction(int(address, 16), predicate or "", opcode, operands.strip()))
    return {name: tuple(instructions) for name, instructions in functions.items()}

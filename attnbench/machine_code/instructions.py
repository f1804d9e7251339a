"""Instructions of Hopper machine code, as cuobjdump -sass lists them."""

from __future__ import annotations

import re
from typing import NamedTuple

_FUNCTION = re.compile(r"^\s*Function : (\S+)")
INSTRUCTION = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@(!?U?P\w+)\s+)?([A-Z][A-Z0-9_.x]*)\s*([^;]*);")
_TENSOR = ("HGMMA", "QGMMA")
# Of each warp; 7 in an encoding stands for none.
SCOREBOARDS = 6


class Instruction(NamedTuple):
    """One machine instruction. predicate: "P0", "!UP1", or "" when it always runs.

    name: the opcode without its modifiers, MUFU of MUFU.EX2. control: its scheduling bits where they were read
    (attnbench/machine_code/encodings.py says which). A tuple, since files hold millions.
    """

    address: int
    predicate: str
    opcode: str
    operands: str
    name: str
    control: int = 0

    @property
    def stall(self) -> int:
        """Clocks before the warp may issue the next one."""
        return self.control & 0xF

    @property
    def sets_barriers(self) -> tuple[int, ...]:
        """Scoreboards that it holds until it has written its result, or read its operands."""
        return tuple(one for one in (self.control >> 5 & 7, self.control >> 8 & 7) if one < SCOREBOARDS)

    @property
    def waits_for(self) -> int:
        """Scoreboards that must be free before it issues, as a bit set."""
        return self.control >> 11 & 0x3F

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
        elif current is not None and (found := INSTRUCTION.match(line)):
            address, predicate, opcode, operands = found.groups()
            name = opcode.split(".", 1)[0]
            current.append(Instruction(int(address, 16), predicate or "", opcode, operands.strip(), name))
    return {name: tuple(instructions) for name, instructions in functions.items()}

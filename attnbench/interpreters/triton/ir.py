"""What Triton's intermediate representation (TTIR) consists of: functions, blocks, operations, types."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field


class IRError(Exception):
    """Text that this reader does not know."""


@dataclass(frozen=True, slots=True)
class Type:
    """A scalar (shape ()) or a tensor of `element`: "f32", "bf16", "i1", or "ptr<bf16>"; other types as they stand."""

    element: str
    shape: tuple[int, ...] = ()

    @property
    def pointee(self) -> str:
        """The element type that a pointer points to."""
        return self.element[4:-1]

    @property
    def is_pointer(self) -> bool:
        return self.element.startswith("ptr<")


@dataclass(slots=True)
class Block:
    """A label's operations, and the names and types of what a branch hands to it."""

    arguments: tuple[tuple[str, Type], ...]
    operations: list[Operation]
    label: str = ""


@dataclass(slots=True)
class Operation:
    """name: as in "arith.addf". types: of operands or results, as written after the colon; result_types: after `->` or
    `to`. place: "file.py:12", the innermost source line outside of Triton's own library."""

    name: str
    results: tuple[str, ...] = ()
    operands: tuple[str, ...] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)
    types: tuple[Type, ...] = ()
    result_types: tuple[Type, ...] = ()
    regions: tuple[tuple[Block, ...], ...] = ()
    successors: tuple[tuple[str, tuple[str, ...]], ...] = ()
    text: str = ""
    place: str = ""

    @property
    def type(self) -> Type:
        """Of the first result."""
        return (self.result_types or self.types)[-1 if not self.result_types else 0]


@dataclass(slots=True)
class Function:
    name: str
    arguments: tuple[tuple[str, Type], ...]
    blocks: tuple[Block, ...]


_DIMENSIONS = re.compile(r"((?:\d+x)*)(.*)", re.DOTALL)


def type_of(text: str) -> Type:
    """`tensor<64x1x!tt.ptr<bf16>>` and the like."""
    text = text.strip().replace("!tt.", "").replace("!", "")
    if text.startswith("tensor<"):
        found = _DIMENSIONS.match(text[7:-1])
        assert found is not None
        dimensions = tuple(int(size) for size in found[1].split("x") if size)
        return Type(found[2].split(",")[0].strip(), dimensions)
    if re.fullmatch(r"<\w+>", text):  # a pointer's, where an operation leaves its name out
        text = f"ptr{text}"
    if text.startswith("ptr<"):
        return Type(f"ptr<{text[4:-1].split(',')[0].strip()}>")
    return Type(text)

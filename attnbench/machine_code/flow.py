"""Control flow of Hopper machine code: basic blocks, natural loops, and which wgmma groups are in flight where."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from attnbench.machine_code.instructions import Instruction

_TARGET = re.compile(r"0x([0-9a-f]+)\s*$")
# Ends a block without falling through. BRX and JMX jump to a computed address, which this reader does not follow.
_LEAVES = ("EXIT", "RET", "BRX", "JMX")
ENDS_BLOCK = ("BRA", *_LEAVES)


@dataclass(frozen=True)
class FlowGraph:
    """Basic blocks in address order (block 0 is the entry), and the edges between them."""

    blocks: tuple[tuple[Instruction, ...], ...]
    successors: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, instructions: Sequence[Instruction]) -> FlowGraph:
        place = {instruction.address: index for index, instruction in enumerate(instructions)}
        starts = {0}
        for index, instruction in enumerate(instructions):
            target = _branch_target(instruction)
            if target is not None and target in place:
                starts.add(place[target])
            if instruction.name in ENDS_BLOCK:
                starts.add(index + 1)
        bounds = [*sorted(starts - {len(instructions)}), len(instructions)]
        blocks = tuple(tuple(instructions[begin:end]) for begin, end in pairwise(bounds))
        block_at = {block[0].address: index for index, block in enumerate(blocks) if block}
        edges = (_successors(block, index, block_at, len(blocks)) for index, block in enumerate(blocks))
        return cls(blocks, tuple(edges))

    def predecessors(self) -> list[list[int]]:
        found: list[list[int]] = [[] for _ in self.blocks]
        for block, targets in enumerate(self.successors):
            for target in targets:
                found[target].append(block)
        return found

    def reverse_postorder(self) -> list[int]:
        """Reachable blocks, each before its successors except over the edges that close a loop."""
        order, seen, stack = [], {0}, [(0, iter(self.successors[0]))]
        while stack:
            block, remaining = stack[-1]
            following = next((target for target in remaining if target not in seen), None)
            if following is None:
                order.append(block)
                stack.pop()
            else:
                seen.add(following)
                stack.append((following, iter(self.successors[following])))
        return order[::-1]


def _branch_target(instruction: Instruction) -> int | None:
    if instruction.name != "BRA":
        return None
    found = _TARGET.search(instruction.operands)
    return int(found.group(1), 16) if found else None


def _successors(
    block: tuple[Instruction, ...], index: int, block_at: Mapping[int, int], block_count: int
) -> tuple[int, ...]:
    last = block[-1]
    targets = []
    # `BRA P2, target` and `BRA.U.ANY target` are conditional too, though they carry no @predicate.
    conditional = bool(last.predicate) or "," in last.operands or ".ANY" in last.opcode or ".DIV" in last.opcode
    falls_through = last.name not in ENDS_BLOCK or conditional
    if falls_through and index + 1 < block_count:
        targets.append(index + 1)
    target = _branch_target(last)
    if target is not None and block_at.get(target) is not None:
        targets.append(block_at[target])
    return tuple(dict.fromkeys(targets))


def natural_loops(graph: FlowGraph, order: Sequence[int]) -> dict[int, frozenset[int]]:
    """Blocks of each natural loop by its header (Aho, Sethi, Ullman, Compilers, section 9.6)."""
    predecessors = graph.predecessors()
    dominators = _dominators(predecessors, order)
    loops: dict[int, frozenset[int]] = {}
    for block in order:
        for header in graph.successors[block]:
            if not dominators[block] >> header & 1:
                continue
            body, waiting = {header}, [block]
            while waiting:
                member = waiting.pop()
                if member not in body:
                    body.add(member)
                    waiting.extend(one for one in predecessors[member] if one in dominators)
            loops[header] = loops.get(header, frozenset()) | body
    return loops


def _dominators(predecessors: Sequence[Sequence[int]], order: Sequence[int]) -> dict[int, int]:
    """Blocks that every path from the entry to a block passes, as a bit set, for each reachable block."""
    everything = (1 << len(predecessors)) - 1
    dominators = dict.fromkeys(order, everything)
    dominators[order[0]] = 1 << order[0]
    changed = True
    while changed:
        changed = False
        for block in order[1:]:
            common = everything
            for one in predecessors[block]:
                common &= dominators.get(one, everything)
            common |= 1 << block
            changed = changed or common != dominators[block]
            dominators[block] = common
    return dominators


# (committed groups unfinished, an uncommitted wgmma issued): what is surely in flight at a point of the code.
Flight = tuple[int, bool]
_UNKNOWN: Flight = (1 << 30, True)


def step(flight: Flight, instruction: Instruction) -> Flight:
    groups, is_open = flight
    if instruction.is_tensor:
        return (groups + 1, False) if instruction.commits else (groups, True)
    left = instruction.groups_left
    return flight if left is None else (min(groups, left), is_open)


def in_flight_before(graph: FlowGraph, order: Sequence[int]) -> dict[int, Flight]:
    """What is in flight on entry to each block on every path: the least over the predecessors, to a fixed point."""
    predecessors = graph.predecessors()
    issued_or_awaited = [
        [one for one in block if one.is_tensor or one.groups_left is not None] for block in graph.blocks
    ]
    before = dict.fromkeys(order, _UNKNOWN)
    after = dict(before)
    before[order[0]] = (0, False)
    changed = True
    while changed:
        changed = False
        for block in order:
            flight = before[block]
            for one in predecessors[block]:
                if one in after:
                    flight = (min(flight[0], after[one][0]), flight[1] and after[one][1])
            before[block] = flight
            for instruction in issued_or_awaited[block]:
                flight = step(flight, instruction)
            changed = changed or flight != after[block]
            after[block] = flight
    return before

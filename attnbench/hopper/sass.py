"""Reads Hopper machine code (cuobjdump -sass): instructions, main loops, and what runs under tensor work in them.

A main loop is an innermost loop that holds tensor instructions (HGMMA for 16-bit, QGMMA for 8-bit inputs). Loops are
natural loops of the control-flow graph, so that blocks which ptxas moved out of line still count as theirs.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

_FUNCTION = re.compile(r"^\s*Function : (\S+)")
_INSTRUCTION = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@(!?U?P\w+)\s+)?([A-Z][A-Z0-9_.]*)\s*([^;]*);")
_TENSOR = ("HGMMA", "QGMMA")
_SPILL = ("LDL", "STL")


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


@dataclass(frozen=True, slots=True)
class LoopFacts:
    """Counts over one pass of a main loop.

    ex2_in_flight: exponentials at which some wgmma group is surely unfinished (on every path). ex2_before_last_wait:
    exponentials between the first wgmma of an iteration and its last wait.
    """

    instructions: int
    tensor: int
    arrive: int
    waits: int
    ex2: int
    ex2_in_flight: int
    ex2_before_last_wait: int
    ffma: int
    r2ur: int
    spills: int


@dataclass(frozen=True, slots=True)
class SassFacts:
    """Counts over one kernel's machine code.

    main_spills: LDL and STL that stand from the first to the last wgmma by address, or anywhere in a main loop; without
    any wgmma, all there are.
    registers_alloc, registers_dealloc: per thread after setmaxnreg.inc and .dec, the most where there are several; 0
    where there is none.
    """

    instructions: int
    hgmma: int
    qgmma: int
    arrive: int
    utmaldg: int
    utmastg: int
    utmaredg: int
    setmaxnreg_alloc: int
    setmaxnreg_dealloc: int
    ex2: int
    main_spills: int
    loops: tuple[LoopFacts, ...]
    registers_alloc: int = 0
    registers_dealloc: int = 0

    @property
    def steady_loop(self) -> LoopFacts | None:
        """The shortest main loop: the one without masking."""
        return min(self.loops, key=lambda loop: loop.instructions, default=None)

    @property
    def ex2_in_flight_share(self) -> float | None:
        """Over all main loops; None where they hold no exponential."""
        return _share(self.loops, "ex2_in_flight")

    @property
    def ex2_before_last_wait_share(self) -> float | None:
        return _share(self.loops, "ex2_before_last_wait")


def _share(loops: Iterable[LoopFacts], name: str) -> float | None:
    total = sum(loop.ex2 for loop in loops)
    return sum(getattr(loop, name) for loop in loops) / total if total else None


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


def sass_facts(instructions: Sequence[Instruction]) -> SassFacts:
    """What one kernel's machine code shows."""
    names = Counter(instruction.name for instruction in instructions)
    opcodes = Counter(instruction.opcode for instruction in instructions)
    bodies, loops = _main_loops(instructions)
    return SassFacts(
        instructions=len(instructions),
        hgmma=names["HGMMA"],
        qgmma=names["QGMMA"],
        arrive=opcodes["WARPGROUP.ARRIVE"],
        utmaldg=names["UTMALDG"],
        utmastg=names["UTMASTG"],
        utmaredg=names["UTMAREDG"],
        setmaxnreg_alloc=sum(opcodes[name] for name in opcodes if name.startswith("USETMAXREG.TRY_ALLOC")),
        setmaxnreg_dealloc=sum(opcodes[name] for name in opcodes if name.startswith("USETMAXREG.DEALLOC")),
        ex2=opcodes["MUFU.EX2"],
        main_spills=_main_spills(instructions, bodies),
        loops=loops,
        registers_alloc=_setmaxnreg(instructions, "USETMAXREG.TRY_ALLOC"),
        registers_dealloc=_setmaxnreg(instructions, "USETMAXREG.DEALLOC"),
    )


def _setmaxnreg(instructions: Sequence[Instruction], opcode: str) -> int:
    """Registers per thread that the instruction asks for: its last operand."""
    found = (one.operands.rsplit(",", 1)[-1] for one in instructions if one.opcode.startswith(opcode))
    return max((int(operand.strip(), 16) for operand in found), default=0)


def _main_spills(instructions: Sequence[Instruction], bodies: Iterable[Instruction]) -> int:
    places = [index for index, instruction in enumerate(instructions) if instruction.is_tensor]
    if not places:
        return sum(instruction.name in _SPILL for instruction in instructions)
    suspects = {*bodies, *instructions[places[0] : places[-1]]}
    return sum(instruction.name in _SPILL for instruction in suspects)


def _main_loops(instructions: Sequence[Instruction]) -> tuple[tuple[Instruction, ...], tuple[LoopFacts, ...]]:
    """All instructions that stand in some main loop, and the facts of each main loop."""
    if not any(instruction.is_tensor for instruction in instructions):
        return (), ()
    graph = FlowGraph.of(instructions)
    order = graph.reverse_postorder()
    in_flight = in_flight_before(graph, order)
    loops = [
        body
        for body in natural_loops(graph, order).values()
        if any(instruction.is_tensor for block in body for instruction in graph.blocks[block])
    ]
    innermost = [body for body in loops if not any(other < body for other in loops)]
    rank = {block: position for position, block in enumerate(order)}
    facts = tuple(_loop_facts(graph, sorted(body, key=rank.__getitem__), in_flight) for body in innermost)
    members = frozenset().union(*innermost)
    return tuple(instruction for block in members for instruction in graph.blocks[block]), facts


def _loop_facts(graph: FlowGraph, body: Sequence[int], in_flight: Mapping[int, Flight]) -> LoopFacts:
    instructions, ex2_in_flight = [], 0
    for block in body:
        flight = in_flight[block]
        for instruction in graph.blocks[block]:
            ex2_in_flight += instruction.opcode == "MUFU.EX2" and (flight[0] > 0 or flight[1])
            flight = step(flight, instruction)
            instructions.append(instruction)
    names = Counter(instruction.name for instruction in instructions)
    opcodes = Counter(instruction.opcode for instruction in instructions)
    return LoopFacts(
        instructions=len(instructions),
        tensor=names["HGMMA"] + names["QGMMA"],
        arrive=opcodes["WARPGROUP.ARRIVE"],
        waits=opcodes["WARPGROUP.DEPBAR.LE"],
        ex2=opcodes["MUFU.EX2"],
        ex2_in_flight=ex2_in_flight,
        ex2_before_last_wait=_ex2_before_last_wait(instructions),
        ffma=names["FFMA"],
        r2ur=names["R2UR"],
        spills=names["LDL"] + names["STL"],
    )


def _ex2_before_last_wait(instructions: Sequence[Instruction]) -> int:
    """Counts from an iteration's first wgmma to its last wait, the one that leaves no group unfinished.

    NOTE: ptxas may rotate a loop, so the iteration is taken to begin after that wait, wherever the loop does.
    """
    waits = [
        (left, index) for index, instruction in enumerate(instructions) if (left := instruction.groups_left) is not None
    ]
    if not waits:
        return 0
    fewest, _ = min(waits)
    last = max(index for left, index in waits if left == fewest)
    rotated = [*instructions[last + 1 :], *instructions[: last + 1]]
    first = next(index for index, instruction in enumerate(rotated) if instruction.is_tensor)
    return sum(instruction.opcode == "MUFU.EX2" for instruction in rotated[first:])


# Control flow of Hopper machine code: basic blocks, natural loops, and which wgmma groups are in flight where.

_TARGET = re.compile(r"0x([0-9a-f]+)\s*$")
# Ends a block without falling through. BRX and JMX jump to a computed address, which this reader does not follow.
_LEAVES = ("EXIT", "RET", "BRX", "JMX")


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
            if instruction.name == "BRA" or instruction.name in _LEAVES:
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
    falls_through = last.name not in ("BRA", *_LEAVES) or conditional
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
            for instruction in graph.blocks[block]:
                flight = step(flight, instruction)
            changed = changed or flight != after[block]
            after[block] = flight
    return before

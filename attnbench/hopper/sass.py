"""Reads Hopper machine code (cuobjdump -sass): instructions, main loops, and what runs under tensor work in them.

A main loop is an innermost loop that holds tensor instructions (HGMMA for 16-bit, QGMMA for 8-bit inputs). Loops are
natural loops of the control-flow graph, so that blocks which ptxas moved out of line still count as theirs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from attnbench.machine_code.flow import Flight, FlowGraph, in_flight_before, natural_loops, step
from attnbench.machine_code.instructions import Instruction

_SPILL = ("LDL", "STL")


@dataclass(frozen=True, slots=True)
class LoopCounts:
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
    loops: tuple[LoopCounts, ...]
    registers_alloc: int = 0
    registers_dealloc: int = 0

    @property
    def steady_loop(self) -> LoopCounts | None:
        """The shortest main loop: the one without masking."""
        return min(self.loops, key=lambda loop: loop.instructions, default=None)

    @property
    def ex2_in_flight_share(self) -> float | None:
        """Over all main loops; None where they hold no exponential."""
        return _share(self.loops, "ex2_in_flight")

    @property
    def ex2_before_last_wait_share(self) -> float | None:
        return _share(self.loops, "ex2_before_last_wait")


def _share(loops: Iterable[LoopCounts], name: str) -> float | None:
    total = sum(loop.ex2 for loop in loops)
    return sum(getattr(loop, name) for loop in loops) / total if total else None


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


def _main_loops(instructions: Sequence[Instruction]) -> tuple[tuple[Instruction, ...], tuple[LoopCounts, ...]]:
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
    facts = tuple(_loop_counts(graph, sorted(body, key=rank.__getitem__), in_flight) for body in innermost)
    members = frozenset().union(*innermost)
    return tuple(instruction for block in members for instruction in graph.blocks[block]), facts


def _loop_counts(graph: FlowGraph, body: Sequence[int], in_flight: Mapping[int, Flight]) -> LoopCounts:
    instructions, ex2_in_flight = [], 0
    for block in body:
        flight = in_flight[block]
        for instruction in graph.blocks[block]:
            ex2_in_flight += instruction.opcode == "MUFU.EX2" and (flight[0] > 0 or flight[1])
            flight = step(flight, instruction)
            instructions.append(instruction)
    names = Counter(instruction.name for instruction in instructions)
    opcodes = Counter(instruction.opcode for instruction in instructions)
    return LoopCounts(
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

"""Main loops of a kernel: innermost loops that multiply matrices, and the path that a pass of each mostly takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from attnbench.machine_code.flow import Flight, FlowGraph, in_flight_before, natural_loops, step
from attnbench.machine_code.instructions import Instruction
from attnbench.machine_code.products import MULTIPLIES


@dataclass(frozen=True)
class MainLoop:
    """One innermost loop that multiplies.

    body: every instruction that stands in it, retries of barriers and conditional parts included. path: those of the
    shortest way once around it that issues the most products, in order: barriers are ready, and what is conditional
    and holds no product does not run. in_flight: for each of the path, whether a wgmma group that the warp itself has
    issued is surely unfinished there, whichever way it came.
    """

    body: tuple[Instruction, ...]
    path: tuple[Instruction, ...]
    in_flight: tuple[bool, ...]

    def detailed(self, instructions: Mapping[int, Instruction]) -> MainLoop:
        """The same of instructions decoded in full, by address, where it was found in an outline."""
        body, path = (tuple(instructions[one.address] for one in part) for part in (self.body, self.path))
        return MainLoop(body, path, self.in_flight)


def main_loops(instructions: Sequence[Instruction]) -> tuple[MainLoop, ...]:
    """The main loops of a kernel's code, in the order in which its control flow reaches them."""
    if not any(instruction.name in MULTIPLIES for instruction in instructions):
        return ()
    graph = FlowGraph.of(instructions)
    order = graph.reverse_postorder()
    rank = {block: position for position, block in enumerate(order)}
    multiply = [sum(one.name in MULTIPLIES for one in block) for block in graph.blocks]
    bodies = {
        header: body for header, body in natural_loops(graph, order).items() if any(multiply[block] for block in body)
    }
    innermost = {header: body for header, body in bodies.items() if not any(other < body for other in bodies.values())}
    before = in_flight_before(graph, order)
    return tuple(
        _main_loop(graph, header, sorted(innermost[header], key=rank.__getitem__), rank, multiply, before)
        for header in sorted(innermost, key=rank.__getitem__)
    )


def _main_loop(
    graph: FlowGraph,
    header: int,
    body: Sequence[int],
    rank: Mapping[int, int],
    multiply: Sequence[int],
    before: Mapping[int, Flight],
) -> MainLoop:
    path, in_flight = [], []
    for block in _common_path(graph, header, body, rank, multiply):
        flight = before[block]
        for instruction in graph.blocks[block]:
            in_flight.append(flight[0] > 0 or flight[1])
            flight = step(flight, instruction)
            path.append(instruction)
    everything = tuple(instruction for block in body for instruction in graph.blocks[block])
    return MainLoop(everything, tuple(path), tuple(in_flight))


def _common_path(
    graph: FlowGraph, header: int, body: Sequence[int], rank: Mapping[int, int], multiply: Sequence[int]
) -> list[int]:
    """Blocks from the header round to it: the most products, and of such ways the fewest instructions.

    Edges that lead back in the order of `rank` close loops (inner ones are retries of a barrier), so that without them
    the best way to each block follows from the best ways to those before it.
    """
    inside = set(body)
    best: dict[int, tuple[int, int]] = {}
    came_from: dict[int, int] = {}
    for block in body:
        own = (multiply[block], -len(graph.blocks[block]))
        if block == header:
            best[block] = own
        if block not in best:
            continue
        for target in graph.successors[block]:
            if target not in inside or rank[target] <= rank[block]:
                continue
            reached = (
                best[block][0] + multiply[target],
                best[block][1] - len(graph.blocks[target]),
            )
            if target not in best or reached > best[target]:
                best[target], came_from[target] = reached, block
    latches = [block for block in body if header in graph.successors[block] and block in best]
    block = max(latches, key=best.__getitem__)
    path = [block]
    while block != header:
        block = came_from[block]
        path.append(block)
    return path[::-1]

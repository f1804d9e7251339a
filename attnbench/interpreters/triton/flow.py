"""What can be read of a kernel before it runs: where its stores may go, whether its programs wait for each other."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

from attnbench.interpreters.triton.ir import Block, Function, Operation

ATOMICS = frozenset({"tt.atomic_rmw", "tt.atomic_cas"})
STORES = frozenset({"tt.store", "tt.descriptor_store"}) | ATOMICS
# What is stored where is no part of these operations' results.
MEMORY_READS = frozenset({"tt.load", "tt.descriptor_load", "tt.dot"})


def operations(blocks: Iterable[Block]) -> Iterator[Operation]:
    """All of them, those of regions included."""
    for block in blocks:
        for operation in block.operations:
            yield operation
            for region in operation.regions:
                yield from operations(region)


def largest_tensor(functions: Iterable[Function]) -> int:
    """Elements of the largest tensor that some operation makes."""
    kinds = (
        kind
        for function in functions
        for operation in operations(function.blocks)
        for kind in (*operation.types, *operation.result_types)
    )
    return max((math.prod(kind.shape) for kind in kinds), default=1)


def has_atomics(functions: Iterable[Function]) -> bool:
    return any(operation.name in ATOMICS for function in functions for operation in operations(function.blocks))


def orders_programs(function: Function) -> bool:
    """Whether what an atomic operation returns is used: programs can wait for each other by it."""
    used = {name for operation in operations(function.blocks) for name in _uses(operation)}
    return any(
        name in used
        for operation in operations(function.blocks)
        if operation.name in ATOMICS
        for name in operation.results
    )


def _uses(operation: Operation) -> Iterator[str]:
    yield from operation.operands
    for _, given in operation.successors:
        yield from given


def stored_arguments(functions: Mapping[str, Function], entry: Function) -> set[int]:
    """Places of the entry's arguments through which some operation may store. Too many rather than too few."""
    sources = {name: {place} for place, (name, _) in enumerate(entry.arguments)}
    everything = set(range(len(entry.arguments)))
    found: set[int] = set()
    all_operations = list(operations(entry.blocks))
    if any(
        operation.name == "tt.int_to_ptr"
        for function in functions.values()
        for operation in operations(function.blocks)
    ):
        return everything
    changed = True
    while changed:
        changed = False
        for operation in all_operations:
            given = [sources.get(name, set()) for name in operation.operands]
            if operation.name in STORES and given:
                found |= given[0]
            if operation.name == "tt.call" and any(given):
                found |= set().union(*given)
            reached = set() if operation.name in MEMORY_READS else set().union(*given) if given else set()
            targets = [*operation.results]
            for region in operation.regions:
                for block in region:
                    targets += [name for name, _ in block.arguments]
                    for inner in block.operations[-1:]:
                        reached |= set().union(*(sources.get(name, set()) for name in inner.operands))
            for name in targets:
                if not reached <= sources.get(name, set()):
                    sources[name] = sources.get(name, set()) | reached
                    changed = True
            for label, values in operation.successors:
                block = next(block for block in entry.blocks if block.label == label)
                for (name, _), value in zip(block.arguments, values):
                    if not sources.get(value, set()) <= sources.get(name, set()):
                        sources[name] = sources.get(name, set()) | sources.get(value, set())
                        changed = True
    return found

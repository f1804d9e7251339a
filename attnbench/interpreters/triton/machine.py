"""Runs the programs of one launch: many at a time, each operation once for all of them.

A value has the programs as its first dimension, or length 1 there where it is the same for all; a dimension of a tensor
in which it is constant may have length 1, too. Where programs part (a branch, a loop of another length), each way runs
with those that take it. What a program computes does not depend on which others run beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from attnbench.interpreters.triton.ir import Block, Function, Operation
from attnbench.interpreters.triton.memory import Memory
from attnbench.interpreters.triton.numbers import NotInterpreted, common_shape

# A value: a tensor, or a tensor descriptor (`operations.Descriptor`), which is cut to some programs the same way.
Value = Any
Handler = Callable[["Machine", Operation, "Scope"], None]


class Scope:
    """Values by name for some programs of the launch: those of the scope around it are cut to them when asked for.

    programs: their numbers in the launch. index: which of the outer scope's they are; None: all.
    """

    __slots__ = ("index", "outer", "programs", "values")

    def __init__(self, programs: Tensor, outer: Scope | None = None, index: Tensor | None = None):
        self.programs, self.outer, self.index = programs, outer, index
        self.values: dict[str, Value] = {}

    def __getitem__(self, name: str) -> Value:
        found = self.values.get(name)
        if found is None:
            if self.outer is None:
                raise NotInterpreted(f"{name} is used where it has no value")
            found = cut(self.outer[name], self.index)
            self.values[name] = found
        return found

    def __setitem__(self, name: str, value: Value) -> None:
        self.values[name] = value

    def of(self, names: Sequence[str]) -> list[Value]:
        return [self[name] for name in names]

    def inside(self, index: Tensor | None = None) -> Scope:
        """A scope for those of its programs at `index`."""
        return Scope(self.programs if index is None else self.programs[index], self, index)


def full(value: Tensor, shape: Sequence[int]) -> Tensor:
    """With every dimension of its type as long as that says (a view)."""
    return value.expand(value.shape[0], *shape)


def cut(value: Value, index: Tensor | None) -> Value:
    return value if index is None or value.shape[0] == 1 else value[index]


@dataclass(slots=True)
class Machine:
    """functions: of the module. handlers: by the operation's name. grid: programs in x, y, z."""

    functions: Mapping[str, Function]
    handlers: Mapping[str, Handler]
    memory: Memory
    grid: tuple[int, int, int]
    printed: list[str] = field(default_factory=list)

    def run_programs(self, entry: Function, arguments: Sequence[Value], programs: Tensor) -> None:
        """These programs of the launch, from its arguments on."""
        self.call(entry, arguments, Scope(programs))

    def call(self, function: Function, arguments: Sequence[Value], scope: Scope) -> list[Value]:
        """What the function returns for the programs of the scope."""
        inner = Scope(scope.programs)
        for (name, _), value in zip(function.arguments, arguments):
            inner[name] = value
        labels = {block.label: block for block in function.blocks}
        count = len(scope.programs)
        todo = [(function.blocks[0], inner, torch.arange(count))]
        results = Merged(count)
        while todo:
            block, inside, members = todo.pop()
            ended = self.run(block, inside)
            if ended is None or ended.name == "tt.return":
                results.add(inside.of(ended.operands) if ended else [], members)
                continue
            for chosen, (label, given) in self.ways(ended, inside):
                target = labels[label]
                following = inside.inside(chosen)
                for (name, _), value in zip(target.arguments, following.of(given)):
                    following[name] = value
                todo.append((target, following, members if chosen is None else members[chosen]))
        return results.values

    def ways(self, ended: Operation, scope: Scope) -> list[tuple[Tensor | None, tuple[str, tuple[str, ...]]]]:
        """Which programs go where from a block's end."""
        if ended.name == "cf.br":
            return [(None, ended.successors[0])]
        yes, no = parted(scope[ended.operands[0]], len(scope.programs))
        return [
            (chosen, successor)
            for chosen, successor in zip((yes, no), ended.successors)
            if chosen is None or len(chosen)
        ]

    def run(self, block: Block, scope: Scope) -> Operation | None:
        """A block's operations up to the one that leaves it, which is returned."""
        handlers = self.handlers
        for operation in block.operations:
            handler = handlers.get(operation.name)
            if handler is None:
                if operation.name in LEAVING:
                    return operation
                raise NotInterpreted(f"{operation.name} is not interpreted ({operation.place})")
            handler(self, operation, scope)
        return None

    def yielded(self, block: Block, scope: Scope) -> list[Value]:
        """A region's block: what it hands on."""
        ended = self.run(block, scope)
        return [] if ended is None else scope.of(ended.operands)


LEAVING = frozenset({
    "tt.return", "cf.br", "cf.cond_br", "scf.yield", "scf.condition", "tt.reduce.return", "tt.scan.return",
    "tt.map_elementwise.return",
})  # fmt: skip
NOBODY = torch.empty(0, dtype=torch.int64)


def parted(condition: Tensor, count: int) -> tuple[Tensor | None, Tensor | None]:
    """(those for whom it is true, the others); None stands for all of them, an empty one for nobody."""
    flat = condition.flatten()
    if bool(flat.all()):
        return None, NOBODY
    if not bool(flat.any()):
        return NOBODY, None
    return flat.nonzero()[:, 0], (~flat).nonzero()[:, 0]


class Merged:
    """Results of groups of programs that went different ways, side by side again."""

    def __init__(self, count: int):
        self.count, self.values = count, list[Value]()
        self.filled = 0

    def add(self, values: Sequence[Value], members: Tensor | None) -> None:
        """members: which of the programs these are of; None: all."""
        if members is None or len(members) == self.count:
            self.values = list(values)
            return
        if self.filled == 0:
            self.values = [None] * len(values)
        self.filled += len(members)
        for place, value in enumerate(values):
            self.values[place] = merged(self.values[place], value, members, self.count)


def merged(whole: Value, part: Value, members: Tensor, count: int) -> Value:
    if not isinstance(part, Tensor):
        return part.merged(whole, members, count)
    if whole is None:
        whole = part.new_zeros((count, *part.shape[1:]))
    elif whole.shape[1:] != part.shape[1:] or whole.shape[0] != count:
        shape = common_shape(whole.shape[1:], part.shape[1:])
        whole = whole.expand(count, *shape).clone()
    if part.dtype.itemsize == 1 and part.dtype.is_floating_point:
        whole.view(torch.uint8)[members] = part.view(torch.uint8)
    else:
        whole[members] = part
    return whole


# Control flow with regions.


def if_else(machine: Machine, op: Operation, scope: Scope) -> None:
    yes, no = parted(scope[op.operands[0]], len(scope.programs))
    results = Merged(len(scope.programs))
    for chosen, place in ((yes, 0), (no, 1)):
        if chosen is not None and not len(chosen):
            continue
        values = []
        if place < len(op.regions) and op.regions[place]:
            values = machine.yielded(op.regions[place][0], scope.inside(chosen))
        results.add(values, chosen)
    for name, value in zip(op.results, results.values):
        scope[name] = value


def for_loop(machine: Machine, op: Operation, scope: Scope) -> None:
    """Programs whose loop is shorter leave; the others go on together."""
    lower, upper, step = (x.flatten() for x in scope.of(op.operands[:3]))
    carried = scope.of(op.operands[3:])
    count, (body,) = len(scope.programs), op.regions[0]
    counter = lower
    # None: all programs of the scope.
    active: Tensor | None = None
    inside, results = scope.inside(), Merged(count)
    while True:
        goes_on = counter < upper
        if not bool(goes_on.all()):
            stay = goes_on.nonzero()[:, 0] if bool(goes_on.any()) else NOBODY
            members = torch.arange(count) if active is None else active
            leave = NOBODY if goes_on.shape[0] == 1 and len(stay) else (~goes_on).nonzero()[:, 0]
            if not len(stay):
                results.add(carried, active)
                break
            results.add([cut(value, leave) for value in carried], members[leave])
            active = members[stay]
            carried, counter, upper, step = (
                [cut(value, stay) for value in carried],
                *(cut(x, stay) for x in (counter, upper, step)),
            )
            inside = scope.inside(active)
        again = inside.inside()
        for (name, _), value in zip(body.arguments, (counter, *carried)):
            again[name] = value
        carried = machine.yielded(body, again)
        counter = counter + step
    for name, value in zip(op.results, results.values):
        scope[name] = value


def while_loop(machine: Machine, op: Operation, scope: Scope) -> None:
    count, carried = len(scope.programs), scope.of(op.operands)
    (before,), (after,) = op.regions[0], op.regions[1]
    active: Tensor | None = None
    inside, results = scope.inside(), Merged(count)
    while True:
        asked = inside.inside()
        for (name, _), value in zip(before.arguments, carried):
            asked[name] = value
        ended = machine.run(before, asked)
        assert ended is not None and ended.name == "scf.condition", (
            "a while loop's first region ends with its condition"
        )
        condition, *carried = asked.of(ended.operands)
        stay, leave = parted(condition, len(inside.programs))
        members = torch.arange(count) if active is None else active
        if stay is not None:
            results.add(
                carried if leave is None else [cut(value, leave) for value in carried],
                active if leave is None else members[leave],
            )
            if not len(stay):
                break
            active = members[stay]
            carried = [cut(value, stay) for value in carried]
            inside = scope.inside(active)
        again = inside.inside()
        for (name, _), value in zip(after.arguments, carried):
            again[name] = value
        carried = machine.yielded(after, again)
    for name, value in zip(op.results, results.values):
        scope[name] = value


CONTROL: Mapping[str, Handler] = {"scf.if": if_else, "scf.for": for_loop, "scf.while": while_loop}

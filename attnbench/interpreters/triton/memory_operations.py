"""What the operations of `tt` do that touch memory: loads, stores, atomics, tensor descriptors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attnbench.interpreters.triton.ir import Operation
from attnbench.interpreters.triton.machine import Handler, Machine, Scope, full, merged
from attnbench.interpreters.triton.numbers import NotInterpreted, common_shape, dtype_of, size_of, unsigned


def add_pointer(machine: Machine, op: Operation, scope: Scope) -> None:
    pointer, offset = scope.of(op.operands)
    scope[op.results[0]] = pointer + offset.to(torch.int64) * size_of(op.types[0].pointee)


def address_bits(machine: Machine, op: Operation, scope: Scope) -> None:
    scope[op.results[0]] = scope[op.operands[0]].to(torch.int64)


def load(machine: Machine, op: Operation, scope: Scope) -> None:
    address, *rest = scope.of(op.operands)
    mask, other = (*rest, None, None)[:2]
    kind = op.types[0]
    value = machine.memory.load(op, full(address, kind.shape), mask, other, kind.pointee, scope.programs)
    scope[op.results[0]] = as_bool(value) if kind.pointee == "i1" else value


def store(machine: Machine, op: Operation, scope: Scope) -> None:
    address, value, *rest = scope.of(op.operands)
    kind = op.types[0]
    machine.memory.store(op, full(address, kind.shape), value, rest[0] if rest else None, scope.programs)


def as_bool(value: Tensor) -> Tensor:
    return value if value.dtype == torch.bool else value != 0


def atomic(machine: Machine, op: Operation, scope: Scope) -> None:
    """One lane after another where they meet. What it returns is what was there, which orders programs: see launch."""
    address, *rest = scope.of(op.operands)
    value, mask = (rest[1], None) if op.name == "tt.atomic_cas" else (rest[0], rest[1] if len(rest) > 1 else None)
    kind = op.types[0]
    shape = common_shape((len(scope.programs), *kind.shape), address.shape, value.shape)
    old = torch.zeros(shape, dtype=dtype_of(kind.pointee))
    address, value = address.expand(shape), value.expand(shape)
    mask = None if mask is None else mask.expand(shape)
    compared = rest[0].expand(shape) if op.name == "tt.atomic_cas" else None
    memory, size = machine.memory, old.dtype.itemsize
    for lanes in memory.lanes(op, address, mask, size, scope.programs):
        where = lanes.where if lanes.where is not None else mask
        index = lanes.index if lanes.where is not None or mask is None else lanes.index[mask]
        memory.counts.read_bytes += index.numel() * size
        memory.counts.written_bytes += index.numel() * size
        operands = [x if where is None else x[where] for x in (value, *(() if compared is None else (compared,)))]
        found = changed_in_order(op, lanes.storage.view(old.dtype), index, *operands)
        if where is None:
            old = found.view(shape)
        else:
            old[where] = found
    if op.results:
        scope[op.results[0]] = old


def changed_in_order(
    op: Operation, view: Tensor, index: Tensor, value: Tensor, compared: Tensor | None = None
) -> Tensor:
    """The values before each change. Lanes that meet at an address come one after another."""
    what, flat, old = op.text.split()[0], index.flatten(), value.clone().flatten()
    values, expected = value.flatten(), None if compared is None else compared.flatten()
    order = flat.argsort(stable=True)
    turn = torch.zeros_like(flat)
    if len(flat) > 1:
        sorted_index = flat[order]
        fresh = torch.cat((torch.tensor([True]), sorted_index[1:] != sorted_index[:-1]))
        places = torch.arange(len(flat))
        turn[order] = places - torch.where(fresh, places, torch.zeros_like(places)).cummax(0)[0]
    for number_of_turn in range(int(turn.max()) + 1 if len(flat) else 0):
        chosen = (turn == number_of_turn).nonzero()[:, 0]
        here = flat[chosen]
        before = view[here]
        old[chosen] = before
        view[here] = changed(op, what, before, values[chosen], None if expected is None else expected[chosen])
    return old


def changed(op: Operation, what: str, before: Tensor, value: Tensor, expected: Tensor | None) -> Tensor:
    if expected is not None:
        return torch.where(before == expected, value, before)
    if what not in ATOMICS:
        raise NotInterpreted(f"the atomic operation {what} is not interpreted ({op.place})")
    return ATOMICS[what](before, value)


def _unsigned_pick(larger: bool) -> Callable[[Tensor, Tensor], Tensor]:
    sign = torch.iinfo(torch.int64).min

    def pick(before: Tensor, value: Tensor) -> Tensor:
        low, high = (unsigned(x) if x.dtype != torch.int64 else x ^ sign for x in (before, value))
        return torch.where((low < high) == larger, value, before)

    return pick


ATOMICS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "fadd": torch.add, "add": torch.add, "max": torch.maximum, "min": torch.minimum, "and": torch.bitwise_and,
    "or": torch.bitwise_or, "xor": torch.bitwise_xor, "exch": lambda before, value: value,
    "umax": _unsigned_pick(True), "umin": _unsigned_pick(False),
}  # fmt: skip


# Tensor descriptors (TMA): a tensor in memory of which boxes are loaded and stored; outside of it are zeros.


@dataclass(frozen=True)
class Descriptor:
    """base: (programs,) addresses; sizes, strides: (programs,) each, in elements; block: of a box, as in its type."""

    base: Tensor
    sizes: tuple[Tensor, ...]
    strides: tuple[Tensor, ...]
    element: str
    not_a_number: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        return (max(x.shape[0] for x in (self.base, *self.sizes, *self.strides)),)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Descriptor:
        return replace(
            self,
            base=change(self.base),
            sizes=tuple(change(x) for x in self.sizes),
            strides=tuple(change(x) for x in self.strides),
        )

    def __getitem__(self, index: Tensor) -> Descriptor:
        return self._each(lambda x: x if x.shape[0] == 1 else x[index])

    def merged(self, whole: Descriptor | None, members: Tensor, count: int) -> Descriptor:
        parts = (self.base, *self.sizes, *self.strides)
        others = (None,) * len(parts) if whole is None else (whole.base, *whole.sizes, *whole.strides)
        made = [merged(other, part, members, count) for other, part in zip(others, parts)]
        rank = len(self.sizes)
        return replace(self, base=made[0], sizes=tuple(made[1 : 1 + rank]), strides=tuple(made[1 + rank :]))

    def box(self, start: Sequence[Tensor], block: Sequence[int]) -> tuple[Tensor, Tensor]:
        """(addresses, whether they lie inside) of a box's elements, (programs, ...) each."""
        rank = len(self.sizes)
        address, inside = self.base.view(-1, *(1,) * rank), None
        for axis, (first, length) in enumerate(zip(start, block)):
            shape = [1] * (rank + 1)
            shape[1 + axis] = length
            place = first.to(torch.int64).view(-1, *(1,) * rank) + torch.arange(length).view(shape)
            within = (place >= 0) & (place < self.sizes[axis].to(torch.int64).view(-1, *(1,) * rank))
            inside = within if inside is None else inside & within
            address = address + place * self.strides[axis].to(torch.int64).view(-1, *(1,) * rank) * size_of(
                self.element
            )
        assert inside is not None, "a box has a dimension"
        return address, inside


def make_descriptor(machine: Machine, op: Operation, scope: Scope) -> None:
    base, *rest = scope.of(op.operands)
    rank = len(rest) // 2
    kind = next(kind for kind in (*op.types, *op.result_types) if "ptr<" in kind.element)
    padding = op.attributes.get("padding", "")
    scope[op.results[0]] = Descriptor(
        base, tuple(rest[:rank]), tuple(rest[rank:]), kind.pointee, "nan" in padding or padding.startswith("2")
    )


def box_shape(descriptor: Descriptor, shape: Sequence[int]) -> list[int]:
    """A box's shape with the leading ones that the tensor's type leaves out."""
    return [1] * (len(descriptor.sizes) - len(shape)) + list(shape)


def descriptor_load(machine: Machine, op: Operation, scope: Scope) -> None:
    descriptor, *start = scope.of(op.operands)
    kind = op.type
    address, inside = descriptor.box(start, box_shape(descriptor, kind.shape))
    outside = torch.full((1,), float("nan") if descriptor.not_a_number else 0.0).to(dtype_of(descriptor.element))
    value = machine.memory.load(op, address, inside, outside, descriptor.element, scope.programs)
    scope[op.results[0]] = value.reshape(value.shape[0], *kind.shape)


def descriptor_store(machine: Machine, op: Operation, scope: Scope) -> None:
    descriptor, *start, value = scope.of(op.operands)
    shape = op.types[-1].shape
    block = box_shape(descriptor, shape)
    address, inside = descriptor.box(start, block)
    value = full(value, shape).reshape(value.shape[0], *block)
    machine.memory.store(op, address, value, inside, scope.programs)


MEMORY: dict[str, Handler] = {
    "tt.addptr": add_pointer,
    "tt.int_to_ptr": address_bits,
    "tt.ptr_to_int": address_bits,
    "tt.load": load,
    "tt.store": store,
    "tt.atomic_rmw": atomic,
    "tt.atomic_cas": atomic,
    "tt.make_tensor_descriptor": make_descriptor,
    "tt.descriptor_load": descriptor_load,
    "tt.descriptor_store": descriptor_store,
}

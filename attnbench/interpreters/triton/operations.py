"""What each operation does: element by element, shapes, reductions, products; `HANDLERS` has all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from attnbench.backend import HazardError
from attnbench.interpreters.triton.arithmetic import ELEMENTWISE, EXPONENTIALS
from attnbench.interpreters.triton.ir import Operation
from attnbench.interpreters.triton.libdevice import external
from attnbench.interpreters.triton.machine import CONTROL, Handler, Machine, Scope, Value, full
from attnbench.interpreters.triton.memory_operations import MEMORY
from attnbench.interpreters.triton.numbers import (
    NotInterpreted,
    constant,
    converted,
    dtype_of,
    tf32,
    widened,
)

# Lines of `tl.device_print` that are kept of a launch; a kernel prints one a program.
PRINTED = 100


def number(op: Operation, name: str) -> int:
    """An integer attribute: "1 : i32"."""
    return int(op.attributes[name].split(":")[0])


def numbers(op: Operation, name: str) -> list[int]:
    """`array<i32: 1, 0>`, or `[1, 0]`."""
    text = op.attributes[name].strip("[]")
    return [int(part) for part in text.removeprefix("array<").rstrip(">").split(":")[-1].split(",") if part.strip()]


# Element by element, and shapes.


def elementwise(machine: Machine, op: Operation, scope: Scope) -> None:
    scope[op.results[0]] = ELEMENTWISE[op.name](op, *scope.of(op.operands))


def exponential(machine: Machine, op: Operation, scope: Scope) -> None:
    machine.memory.counts.exponentials += math.prod(op.type.shape) * len(scope.programs)
    elementwise(machine, op, scope)


def external_function(machine: Machine, op: Operation, scope: Scope) -> None:
    scope[op.results[0]] = external(op, *scope.of(op.operands))


def constant_value(machine: Machine, op: Operation, scope: Scope) -> None:
    kind = op.types[0]
    if op.text.startswith("["):
        raise NotInterpreted(f"a constant of several values is not interpreted ({op.place})")
    scope[op.results[0]] = constant(op.text, kind.element).view(1, *(1 for _ in kind.shape))


def undefined_value(machine: Machine, op: Operation, scope: Scope) -> None:
    kind = op.types[0]
    scope[op.results[0]] = torch.zeros((1, *(1 for _ in kind.shape)), dtype=dtype_of(kind.element))


def program_id(machine: Machine, op: Operation, scope: Scope) -> None:
    x, y, _ = machine.grid
    programs = scope.programs
    scope[op.results[0]] = {
        "x": programs % x, "y": programs // x % y, "z": programs // (x * y),
    }[op.text or op.attributes["axis"]].to(torch.int32)  # fmt: skip


def program_count(machine: Machine, op: Operation, scope: Scope) -> None:
    scope[op.results[0]] = torch.tensor([machine.grid["xyz".index(op.text)]], dtype=torch.int32)


def make_range(machine: Machine, op: Operation, scope: Scope) -> None:
    scope[op.results[0]] = torch.arange(number(op, "start"), number(op, "end"), dtype=torch.int32)[None]


def splat(machine: Machine, op: Operation, scope: Scope) -> None:
    value = scope[op.operands[0]]
    scope[op.results[0]] = value.view(value.shape[0], *(1 for _ in op.type.shape))


def same(machine: Machine, op: Operation, scope: Scope) -> None:
    """Broadcasting, which happens where a value is used."""
    scope[op.results[0]] = scope[op.operands[0]]


def expand_dims(machine: Machine, op: Operation, scope: Scope) -> None:
    scope[op.results[0]] = scope[op.operands[0]].unsqueeze(1 + number(op, "axis"))


def transposed(machine: Machine, op: Operation, scope: Scope) -> None:
    order = numbers(op, "order")
    scope[op.results[0]] = scope[op.operands[0]].permute(0, *(1 + axis for axis in order))


def reshaped(machine: Machine, op: Operation, scope: Scope) -> None:
    value = full(scope[op.operands[0]], op.types[0].shape)
    scope[op.results[0]] = value.reshape(value.shape[0], *op.type.shape)


def joined(machine: Machine, op: Operation, scope: Scope) -> None:
    shape = op.type.shape[:-1]
    left, right = (full(x, shape) for x in scope.of(op.operands))
    count = max(left.shape[0], right.shape[0])
    left, right = (x.expand(count, *shape) for x in (left, right))
    scope[op.results[0]] = torch.stack((left, right), dim=-1)


def split(machine: Machine, op: Operation, scope: Scope) -> None:
    value = full(scope[op.operands[0]], op.types[0].shape)
    for place, name in enumerate(op.results):
        scope[name] = value[..., place]


def concatenated(machine: Machine, op: Operation, scope: Scope) -> None:
    left, right = (full(x, kind.shape) for x, kind in zip(scope.of(op.operands), (op.types * 2)[:2]))
    count = max(left.shape[0], right.shape[0])
    scope[op.results[0]] = torch.cat([x.expand(count, *x.shape[1:]) for x in (left, right)], dim=1)


def unsplat(machine: Machine, op: Operation, scope: Scope) -> None:
    value = scope[op.operands[0]]
    scope[op.results[0]] = value.reshape(value.shape[0])


def gathered(machine: Machine, op: Operation, scope: Scope) -> None:
    source, index = (full(x, kind.shape) for x, kind in zip(scope.of(op.operands), op.types))
    count = max(source.shape[0], index.shape[0])
    source, index = (x.expand(count, *x.shape[1:]) for x in (source, index))
    scope[op.results[0]] = source.gather(1 + number(op, "axis"), index.to(torch.int64))


def histogram(machine: Machine, op: Operation, scope: Scope) -> None:
    (bins,) = op.type.shape
    values = full(scope[op.operands[0]], op.types[0].shape)
    rows = [torch.bincount(row[(row >= 0) & (row < bins)], minlength=bins) for row in values]
    scope[op.results[0]] = torch.stack(rows).to(dtype_of(op.type.element))


# Reductions and scans, by the region that combines two elements.


def combined(
    machine: Machine, op: Operation, scope: Scope, left: Sequence[Value], right: Sequence[Value]
) -> list[Value]:
    (block,) = op.regions[0]
    inside = scope.inside()
    for (name, _), value in zip(block.arguments, (*left, *right)):
        inside[name] = value
    return machine.yielded(block, inside)


def reduce(machine: Machine, op: Operation, scope: Scope) -> None:
    """By halves, as a tree: no order is promised, and this one depends on nothing but the length."""
    axis = 1 + number(op, "axis")
    length = op.types[0].shape[axis - 1]
    values = [along(x, axis, length) for x in scope.of(op.operands)]
    while length > 1:
        length //= 2
        left, right = ([x.narrow(axis, start, length) for x in values] for start in (0, length))
        values = combined(machine, op, scope, left, right)
    for name, value in zip(op.results, values):
        scope[name] = value.squeeze(axis)


def scan(machine: Machine, op: Operation, scope: Scope) -> None:
    """Inclusive prefixes along an axis (Hillis and Steele, 1986)."""
    axis = 1 + number(op, "axis")
    length, backwards = op.types[0].shape[axis - 1], op.attributes.get("reverse", "").startswith("true")
    values = [along(x, axis, length) for x in scope.of(op.operands)]
    if backwards:
        values = [x.flip(axis) for x in values]
    step = 1
    while step < length:
        left = [x.narrow(axis, 0, length - step) for x in values]
        right = [x.narrow(axis, step, length - step) for x in values]
        heads = [x.narrow(axis, 0, step) for x in values]
        values = [
            torch.cat((head.expand(new.shape[0], *new.shape[1:axis], step, *new.shape[axis + 1 :]), new), dim=axis)
            for head, new in zip(heads, combined(machine, op, scope, left, right))
        ]
        step *= 2
    for name, value in zip(op.results, values):
        scope[name] = value.flip(axis) if backwards else value


def along(value: Tensor, axis: int, length: int) -> Tensor:
    return value if value.shape[axis] == length else value.expand(*value.shape[:axis], length, *value.shape[axis + 1 :])


def dot(machine: Machine, op: Operation, scope: Scope) -> None:
    """Exact products, sums in fp32 (integers: exact); fp32 operands as tf32 unless `input_precision` says otherwise."""
    left, right, added = (scope[name] for name in op.operands)
    kinds, result = op.types, op.type
    left, right = full(left, kinds[0].shape), full(right, kinds[1].shape)
    rows, inner, columns = kinds[0].shape[-2], kinds[0].shape[-1], result.shape[-1]
    batch = math.prod(result.shape[:-2])
    machine.memory.counts.dot_flops += 2 * batch * rows * inner * columns * len(scope.programs)
    dtype = dtype_of(result.element)
    if not dtype.is_floating_point:
        product = torch.matmul(left.double(), right.double()).to(torch.int64)  # exact below 2**53
        scope[op.results[0]] = (product + added).to(dtype)
        return
    if left.dtype == torch.float32 and op.attributes.get("inputPrecision") == "tf32":
        left, right = tf32(left.contiguous()), tf32(right.contiguous())
    left, right = widened(left), widened(right)
    total = torch.matmul(left, right) + widened(added)
    scope[op.results[0]] = converted(total, dtype)


# The rest.


def call(machine: Machine, op: Operation, scope: Scope) -> None:
    function = machine.functions[op.text.split()[0]]
    for name, value in zip(op.results, machine.call(function, scope.of(op.operands), scope)):
        scope[name] = value


def device_print(machine: Machine, op: Operation, scope: Scope) -> None:
    if len(machine.printed) < PRINTED:
        values = ", ".join(str(value.flatten()[:8].tolist()) for value in scope.of(op.operands))
        machine.printed.append(f"{op.text} {values}")


def device_assert(machine: Machine, op: Operation, scope: Scope) -> None:
    if not bool(scope[op.operands[0]].all()):
        raise HazardError(f"device_assert failed: {op.text} ({op.place})")


def nothing(machine: Machine, op: Operation, scope: Scope) -> None:
    """Barriers: a program is one thread here. Assumptions: told to the compiler only."""


HANDLERS: dict[str, Handler] = {
    **dict.fromkeys(ELEMENTWISE, elementwise),
    **dict.fromkeys(EXPONENTIALS, exponential),
    **CONTROL,
    **MEMORY,
    "tt.extern_elementwise": external_function,
    "arith.constant": constant_value,
    "ub.poison": undefined_value,
    "tt.get_program_id": program_id,
    "tt.get_num_programs": program_count,
    "tt.make_range": make_range,
    "tt.splat": splat,
    "tt.broadcast": same,
    "tt.expand_dims": expand_dims,
    "tt.trans": transposed,
    "tt.reshape": reshaped,
    "tt.join": joined,
    "tt.split": split,
    "tt.cat": concatenated,
    "tt.unsplat": unsplat,
    "tt.gather": gathered,
    "tt.histogram": histogram,
    "tt.reduce": reduce,
    "tt.scan": scan,
    "tt.dot": dot,
    "tt.call": call,
    "tt.print": device_print,
    "tt.assert": device_assert,
    "gpu.barrier": nothing,
    "ttg.barrier": nothing,
    "ttg.local_barrier": nothing,
    "llvm.intr.assume": nothing,
}

"""The element-wise operations of `arith`, `math` and `tt`: a table from an operation's name to a function on tensors.

Operands broadcast: a dimension in which a value is the same may have length 1. Floating-point arithmetic is done in the
operands' type, each result rounded once to nearest even. NOTE: that is PTX's without contraction; a compiled kernel may
fuse a multiplication and an addition, and its ex2.approx is good to 2 ulp (PTX ISA, ex2), so last bits may differ.
"""

from __future__ import annotations

import operator
from collections.abc import Callable

import torch
from torch import Tensor

from attnbench.backend import HazardError
from attnbench.interpreters.triton.ir import Operation
from attnbench.interpreters.triton.numbers import (
    BITS,
    NotInterpreted,
    common_shape,
    converted,
    dtype_of,
    unsigned,
    widened,
)

Function = Callable[..., Tensor]
SIGN_64 = -(1 << 63)


def _same_type(function: Function) -> Function:
    return lambda op, *operands: function(*operands)


def _as_bits(function: Function) -> Function:
    """Bitwise operations; torch has them for truth values and integers alike."""
    return lambda op, left, right: function(left, right)


def _integers(function: Function) -> Function:
    """Addition and the like: modulo 2 in one bit."""

    def apply(op: Operation, left: Tensor, right: Tensor) -> Tensor:
        if left.dtype == torch.bool:
            return (function(left.to(torch.int8), right.to(torch.int8)) & 1).to(torch.bool)
        return function(left, right)

    return apply


def _divided(function: Function, without_sign: bool) -> Function:
    def apply(op: Operation, left: Tensor, right: Tensor) -> Tensor:
        if not bool(right.all()):
            raise HazardError(f"an integer is divided by zero ({op.place})")
        if not without_sign:
            return function(left, right)
        if left.dtype == torch.int64:
            raise NotInterpreted(f"{op.name} of 64 bits is not interpreted")
        return function(unsigned(left), unsigned(right)).to(left.dtype)

    return apply


def _quotient(left: Tensor, right: Tensor) -> Tensor:
    return torch.div(left, right, rounding_mode="trunc")


def _shift_right_logical(op: Operation, left: Tensor, right: Tensor) -> Tensor:
    if left.dtype == torch.int64:
        mask = torch.where(right > 0, (torch.ones_like(right) << (64 - right)) - 1, torch.full_like(right, -1))
        return (left >> right) & mask
    return (unsigned(left) >> right.to(torch.int64)).to(left.dtype)


def _high_product(op: Operation, left: Tensor, right: Tensor) -> Tensor:
    """The high half of an unsigned product."""
    if left.dtype == torch.int64:
        raise NotInterpreted(f"{op.name} of 64 bits is not interpreted")
    bits = 8 * left.dtype.itemsize
    a, b = unsigned(left), unsigned(right)
    low, high = (a & 0xFFFF) * b, (a >> 16) * b  # 48 bits each
    return ((high + (low >> 16)) >> (bits - 16)).to(left.dtype) if bits == 32 else ((a * b) >> bits).to(left.dtype)


COMPARISONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "eq": torch.eq, "ne": torch.ne, "lt": torch.lt, "le": torch.le, "gt": torch.gt, "ge": torch.ge,
}  # fmt: skip


def _compare_integers(op: Operation, left: Tensor, right: Tensor) -> Tensor:
    predicate = op.attributes["predicate"]
    if predicate[0] == "u":
        if left.dtype == torch.int64:
            left, right = left ^ SIGN_64, right ^ SIGN_64
        else:
            left, right = unsigned(left), unsigned(right)
    return COMPARISONS[predicate[-2:]](left, right)


def _compare_floats(op: Operation, left: Tensor, right: Tensor) -> Tensor:
    """o...: false where an operand is NaN; u...: true there."""
    predicate = op.attributes["predicate"]
    if predicate in ("false", "true"):
        return torch.full(common_shape(left.shape, right.shape), predicate == "true")
    unordered = left.isnan() | right.isnan()
    if predicate in ("ord", "uno"):
        return ~unordered if predicate == "ord" else unordered
    found = COMPARISONS[predicate[1:]](left, right)
    return found | unordered if predicate[0] == "u" else found & ~unordered


def _converted(op: Operation, x: Tensor) -> Tensor:
    rounding = op.attributes.get("rounding", "rtne")
    return converted(x, dtype_of(op.type.element), toward_zero=rounding == "rtz")


def _to_integer(op: Operation, x: Tensor) -> Tensor:
    """Toward zero; out of range saturates, NaN gives 0 (PTX ISA, cvt)."""
    dtype = dtype_of(op.type.element)
    if dtype == torch.bool:
        return x != 0
    limits = torch.iinfo(dtype)
    wide = x.to(torch.float64)
    low, high = (0.0, 2.0 * limits.max + 1) if op.name == "arith.fptoui" else (float(limits.min), float(limits.max))
    clipped = torch.where(wide.isnan(), torch.zeros_like(wide), wide.clamp(low, high))
    if dtype == torch.int64:  # 2**63 - 1 is no fp64
        return torch.where(clipped >= 2.0**63, limits.max, torch.where(clipped < 2.0**63, clipped, 0.0).to(torch.int64))
    return clipped.to(torch.int64).to(dtype)


def _from_integer(op: Operation, x: Tensor) -> Tensor:
    """Through fp32 to narrower types, as compiled code does."""
    dtype = dtype_of(op.type.element)
    if op.name == "arith.uitofp":
        x = unsigned(x)
    elif x.dtype == torch.bool:
        x = -x.to(torch.int8)
    return x.to(dtype) if dtype == torch.float64 else converted(x.to(torch.float32), dtype)


def _resized(op: Operation, x: Tensor) -> Tensor:
    dtype = dtype_of(op.type.element)
    if op.name == "arith.extui":
        return unsigned(x).to(dtype)
    if op.name == "arith.trunci" and dtype == torch.bool:
        return (x & 1).to(torch.bool)
    if x.dtype == torch.bool:  # the sign of one bit is that bit
        return -x.to(dtype) if op.name == "arith.extsi" else x.to(dtype)
    return x.to(dtype)


def _bitcast(op: Operation, x: Tensor) -> Tensor:
    dtype = dtype_of(op.type.element)
    if torch.bool in (dtype, x.dtype):
        return x.to(dtype)
    return x.contiguous().view(BITS[x.dtype.itemsize]).view(dtype)


def _number_of(function: Function, propagating: Function) -> Function:
    """The operand that is a number, where the other is NaN (PTX ISA, max). NOTE: torch's gives NaN for a signalling
    one, which only loaded 16-bit values can be; its propagating one asks each operand."""

    def apply(op: Operation, left: Tensor, right: Tensor) -> Tensor:
        if left.dtype.itemsize > 2:
            return function(left, right)
        return torch.where(left.isnan(), right, torch.where(right.isnan(), left, propagating(left, right)))

    return apply


def _clamp(op: Operation, x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    kept = torch.fmin(torch.fmax(x, low), high)
    propagates = op.attributes.get("propagateNan") == "all"
    return torch.where(x.isnan(), x, kept) if propagates else kept


def _fused(op: Operation, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """One rounding: products of fp32 are exact in fp64, whose own rounding of the sum is 2**-29 of fp32's."""
    return (x.double() * y.double() + z.double()).to(x.dtype)


def _in_fp32(function: Callable[[Tensor], Tensor]) -> Function:
    """Elementary functions: computed in fp32, rounded once to narrower types."""

    def apply(op: Operation, x: Tensor) -> Tensor:
        return function(widened(x)).to(x.dtype)

    return apply


def _select(op: Operation, condition: Tensor, left: Tensor, right: Tensor) -> Tensor:
    if left.dtype.itemsize == 1 and left.dtype.is_floating_point:  # torch has no `where` of 8-bit floats
        kind = left.dtype
        return torch.where(condition, left.view(torch.uint8), right.view(torch.uint8)).view(kind)
    return torch.where(condition, left, right)


ELEMENTWISE: dict[str, Function] = {
    "arith.addi": _integers(operator.add),
    "arith.subi": _integers(operator.sub),
    "arith.muli": _integers(operator.mul),
    "arith.divsi": _divided(_quotient, False),
    "arith.divui": _divided(_quotient, True),
    "arith.remsi": _divided(torch.fmod, False),
    "arith.remui": _divided(torch.fmod, True),
    "arith.ceildivsi": _divided(lambda a, b: -torch.div(-a, b, rounding_mode="floor"), False),
    "arith.floordivsi": _divided(lambda a, b: torch.div(a, b, rounding_mode="floor"), False),
    "arith.andi": _as_bits(operator.and_),
    "arith.ori": _as_bits(operator.or_),
    "arith.xori": _as_bits(operator.xor),
    "arith.shli": _same_type(operator.lshift),
    "arith.shrsi": _same_type(operator.rshift),
    "arith.shrui": _shift_right_logical,
    "tt.mulhiui": _high_product,
    "arith.maxsi": _same_type(torch.maximum),
    "arith.minsi": _same_type(torch.minimum),
    "arith.maxui": lambda op, a, b: torch.where(_unsigned_less(a, b), b, a),
    "arith.minui": lambda op, a, b: torch.where(_unsigned_less(a, b), a, b),
    "arith.cmpi": _compare_integers,
    "arith.cmpf": _compare_floats,
    "arith.select": _select,
    "arith.addf": _same_type(operator.add),
    "arith.subf": _same_type(operator.sub),
    "arith.mulf": _same_type(operator.mul),
    "arith.divf": _same_type(operator.truediv),
    "arith.remf": _same_type(torch.fmod),
    "arith.negf": _same_type(operator.neg),
    "arith.maxnumf": _number_of(torch.fmax, torch.maximum),
    "arith.minnumf": _number_of(torch.fmin, torch.minimum),
    "arith.maximumf": _same_type(torch.maximum),
    "arith.minimumf": _same_type(torch.minimum),
    "arith.extf": _converted,
    "arith.truncf": _converted,
    "tt.fp_to_fp": _converted,
    "arith.fptosi": _to_integer,
    "arith.fptoui": _to_integer,
    "arith.sitofp": _from_integer,
    "arith.uitofp": _from_integer,
    "arith.extsi": _resized,
    "arith.extui": _resized,
    "arith.trunci": _resized,
    "arith.index_cast": _resized,
    "arith.index_castui": _resized,
    "arith.bitcast": _bitcast,
    "tt.bitcast": _bitcast,
    "tt.clampf": _clamp,
    "math.fma": _fused,
    "math.absf": _same_type(torch.abs),
    "math.absi": _same_type(torch.abs),
    "math.ceil": _in_fp32(torch.ceil),
    "math.floor": _in_fp32(torch.floor),
    "math.exp": _in_fp32(torch.exp),
    "math.exp2": _in_fp32(torch.exp2),
    "math.log": _in_fp32(torch.log),
    "math.log2": _in_fp32(torch.log2),
    "math.sin": _in_fp32(torch.sin),
    "math.cos": _in_fp32(torch.cos),
    "math.tanh": _in_fp32(torch.tanh),
    "math.erf": _in_fp32(torch.erf),
    "math.sqrt": _in_fp32(torch.sqrt),
    "math.rsqrt": _in_fp32(torch.rsqrt),
    "tt.precise_sqrt": _in_fp32(torch.sqrt),
    "tt.precise_divf": _same_type(operator.truediv),
}
EXPONENTIALS = frozenset({"math.exp", "math.exp2"})


def _unsigned_less(left: Tensor, right: Tensor) -> Tensor:
    if left.dtype == torch.int64:
        return (left ^ SIGN_64) < (right ^ SIGN_64)
    return unsigned(left) < unsigned(right)

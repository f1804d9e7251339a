"""Numbers as compiled Triton kernels have them: element types, and conversions that round as the hardware does.

Floating-point conversions round to nearest even; to 8 bits they saturate, and NaN stays NaN (PTX ISA,
cvt.rn.satfinite).
Integers have no sign of their own, as in MLIR: an operation says how it reads their bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

DTYPES = {
    "i1": torch.bool,
    "i8": torch.int8,
    "i16": torch.int16,
    "i32": torch.int32,
    "i64": torch.int64,
    "index": torch.int64,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "f32": torch.float32,
    "f64": torch.float64,
    "f8E4M3FN": torch.float8_e4m3fn,
    "f8E5M2": torch.float8_e5m2,
}
# The largest finite numbers, at which a conversion to 8 bits saturates.
LARGEST = {torch.float8_e4m3fn: 448.0, torch.float8_e5m2: 57344.0}
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
# tf32 keeps 10 of fp32's 23 fraction bits; the tensor cores drop the others (PTX ISA, mma, .tf32).
TF32_MASK = -(1 << 13)


class NotInterpreted(Exception):
    """An operation or a type of Triton that this interpreter does not have; the message names it."""


def common_shape(*shapes: Sequence[int]) -> torch.Size:
    """What tensors of these shapes broadcast to. NOTE: torch.broadcast_shapes would import sympy: seconds."""
    if all(shape == shapes[0] for shape in shapes):
        return torch.Size(shapes[0])
    found = [1] * max(map(len, shapes))
    for shape in shapes:
        for place, size in enumerate(shape, len(found) - len(shape)):
            if size != 1:
                assert found[place] in (1, size), f"shapes {shapes} have none in common"
                found[place] = size
    return torch.Size(found)


def dtype_of(element: str) -> torch.dtype:
    """Of values of a Triton element type; pointers are addresses in bytes. Raises NotInterpreted."""
    if element.startswith("ptr<"):
        return torch.int64
    if element not in DTYPES:
        raise NotInterpreted(f"the type {element} is not interpreted")
    return DTYPES[element]


def size_of(element: str) -> int:
    """Bytes in memory; a truth value takes one."""
    return dtype_of(element).itemsize


def converted(x: Tensor, dtype: torch.dtype, toward_zero: bool = False) -> Tensor:
    """A floating-point conversion. toward_zero: of fp32 to bf16 and fp16; others raise NotInterpreted."""
    if toward_zero:
        return _toward_zero(x, dtype)
    if x.dtype == torch.float64 and dtype != torch.float32:
        x = _round_to_odd(x)
    if dtype in LARGEST:
        if x.dtype in LARGEST:
            x = x.float()
        return x.float().clamp(-LARGEST[dtype], LARGEST[dtype]).to(dtype)
    return x.to(dtype)


def _round_to_odd(x: Tensor) -> Tensor:
    """fp64 to fp32 with the last bit sticky, so that a second rounding is the only one (Boldo and Melquiond, 2008)."""
    narrow = x.to(torch.float32)
    finite = narrow.isfinite()
    away = (narrow.double().abs() > x.abs()) & finite
    bits = narrow.view(torch.int32) - away.to(torch.int32)
    inexact = (bits.view(torch.float32).double() != x) & finite
    return (bits | inexact.to(torch.int32)).view(torch.float32)


def _toward_zero(x: Tensor, dtype: torch.dtype) -> Tensor:
    if dtype not in (torch.bfloat16, torch.float16) or x.dtype not in (torch.float32, torch.float64):
        raise NotInterpreted(f"rounding of {x.dtype} to {dtype} toward zero is not interpreted")
    near = converted(x, dtype)
    beyond = near.to(x.dtype).abs() > x.abs()  # infinity, too, where the number is finite
    return torch.where(beyond, near.view(torch.int16) - 1, near.view(torch.int16)).view(dtype)


def tf32(x: Tensor) -> Tensor:
    """fp32 with what the tensor cores do not read dropped."""
    return (x.view(torch.int32) & TF32_MASK).view(torch.float32)


def widened(x: Tensor) -> Tensor:
    """A narrow floating-point type as fp32, which holds it exactly."""
    return x if x.dtype in (torch.float32, torch.float64) else x.to(torch.float32)


def unsigned(x: Tensor) -> Tensor:
    """The bits of an integer narrower than 64 bits read without a sign, in int64."""
    if x.dtype == torch.bool:
        return x.to(torch.int64)
    bits = 8 * x.dtype.itemsize
    return x.to(torch.int64) & ((1 << bits) - 1) if bits < 64 else x


def constant(text: str, element: str) -> Tensor:
    """`1.0e+00`, `true`, or bits in hexadecimal, as MLIR writes infinities and NaN. Shape (1,)."""
    dtype = dtype_of(element)
    if text in ("true", "false"):
        return torch.tensor([text == "true"]).to(dtype)
    if not dtype.is_floating_point:
        return torch.tensor([int(text, 0)]).to(dtype)
    if text.lower().startswith("0x"):
        bits = int(text, 16)
        kind = BITS[dtype.itemsize]
        top = 1 << (8 * dtype.itemsize)
        signed = bits - top if kind != torch.uint8 and bits >= top // 2 else bits
        return torch.tensor([signed], dtype=kind).view(dtype)
    return converted(torch.tensor([float(text)], dtype=torch.float64), dtype)


def poison(element: str) -> Tensor:
    """What a masked lane holds that nobody gave a value: NaN, or a number that no index should be. Shape (1,)."""
    dtype = dtype_of(element)
    if dtype == torch.bool:
        return torch.tensor([True])
    if dtype.is_floating_point:
        return torch.tensor([float("nan")]).to(dtype)
    return torch.tensor([torch.iinfo(dtype).max // 2], dtype=dtype)

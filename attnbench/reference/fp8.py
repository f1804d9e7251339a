"""The two 8-bit floating-point formats of tensor cores (Micikevicius et al., FP8 Formats for Deep Learning, arXiv
2209.05433, table 1), and rounding to them as hardware converts: to nearest even, saturating (PTX ISA, cvt .satfinite).

P takes the format of q, k and v: FlashAttention-3 converts it to the element type of V, and so does `triton_forward`.
wgmma would take two different ones (PTX ISA, wgmma.mma_async: .atype and .btype); no attention kernel known to us does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Format(NamedTuple):
    """torch_name: of the dtype in torch; largest: finite number; smallest: positive one, subnormal."""

    torch_name: str
    largest: float
    smallest: float
    fraction_bits: int

    @property
    def rounding(self) -> float:
        """Relative rounding error at most, of numbers that are not subnormal."""
        return 2.0 ** -(self.fraction_bits + 1)


FORMATS: Mapping[str, Format] = {
    "e4m3": Format("float8_e4m3fn", 448.0, 2.0**-9, 3),
    "e5m2": Format("float8_e5m2", 57344.0, 2.0**-16, 2),
}


def to_fp8(x: Tensor, dtype: str) -> Tensor:
    """x rounded to `dtype`, saturating, infinity included; NaN stays NaN."""
    import torch

    form = FORMATS[dtype]
    # NOTE: torch's own cast saturates for e4m3 and gives infinities for e5m2.
    return x.clamp(-form.largest, form.largest).to(getattr(torch, form.torch_name))


# How a tensor core sums: in fp32, or as Hopper's FP8 path does, in about 14 bits.
#
# Hopper aligns the products of one wgmma step and the accumulator to the largest exponent among them and keeps 13
# fraction bits of each (DeepSeek-V3, arXiv 2412.19437, section 3.5.2; SageAttention2, arXiv 2411.10958, section 3.3).
# What lies below is cut off towards zero, for either sign, as measured on V100, T4 and A100 (Fasi, Higham, Mikaitis and
# Pranesh, PeerJ CS 7:e330, 2021); DeepSeek's "sign-fill right shifting" could also be read as towards minus infinity.
# Two-level accumulation starts every key tile from zero and adds the tile's sum to an fp32 accumulator.
# The kernels' emulation sums in the same way. It is a model from papers; it has not been compared with hardware.

ACCUMULATORS = ("fp32", "hopper", "two_level")
# k of one e4m3 wgmma instruction (PTX ISA, wgmma.mma_async: m64nNk32).
WGMMA_K = 32
FRACTION_BITS = 13
# Quanta below fp32's smallest normal number, 2^-126, would lose bits of their own; sums this small are cut there.
SMALLEST_POWER = 2.0 ** (-126 + FRACTION_BITS)
EXPONENT_BITS = 0x7F800000
# Products held at once, 512 KiB of them on the CPU: they stay in the second-level cache.
PRODUCTS_AT_ONCE = 2**17
PRODUCTS_AT_ONCE_CUDA = 2**26


def matmul_into(accumulator: Tensor, a: Tensor, b: Tensor, kind: str) -> Tensor:
    """accumulator + a @ b, summed as `kind` says; fp32 tensors (..., rows, columns), (..., rows, depth), (..., depth,
    columns)."""
    if kind == "fp32":
        return accumulator + a @ b
    if kind == "two_level":
        return accumulator + _truncated(accumulator.new_zeros(accumulator.shape), a, b)
    if kind == "hopper":
        return _truncated(accumulator, a, b)
    raise ValueError(f"unknown accumulator {kind!r}; one of {', '.join(ACCUMULATORS)}")


def _truncated(accumulator: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """In steps of WGMMA_K, some rows at a time."""
    import torch

    at_once = PRODUCTS_AT_ONCE_CUDA if a.is_cuda else PRODUCTS_AT_ONCE
    step_products = WGMMA_K * b.shape[-1] * math.prod(accumulator.shape[:-2])
    parts = []
    for rows in range(0, a.shape[-2], max(1, at_once // step_products)):
        stop = rows + max(1, at_once // step_products)
        part, factors = accumulator[..., rows:stop, :], a[..., rows:stop, :]
        for start in range(0, a.shape[-1], WGMMA_K):
            k = slice(start, start + WGMMA_K)
            part = _aligned_sum(part, factors[..., k, None] * b[..., None, k, :])
        parts.append(part)
    return torch.cat(parts, dim=-2) if parts else accumulator


def _aligned_sum(accumulator: Tensor, products: Tensor) -> Tensor:
    """accumulator (..., rows, columns) + the products (..., rows, WGMMA_K, columns), which are overwritten; each cut to
    FRACTION_BITS below the exponent of the largest."""
    import torch

    largest = torch.maximum(products.abs().amax(dim=-2), accumulator.abs())
    power = (largest.view(torch.int32) & EXPONENT_BITS).view(torch.float32).clamp_(min=SMALLEST_POWER)
    quanta = 2.0**FRACTION_BITS / power
    cut = products.mul_(quanta[..., None, :]).trunc_().sum(dim=-2)
    # Whole numbers below 2^24 in fp32: this sum is exact.
    return (cut + (accumulator * quanta).trunc_()) * (power * 2.0**-FRACTION_BITS)

"""How a tensor core sums: in fp32, or as Hopper's FP8 path does, in about 14 bits.

Hopper aligns the products of one wgmma step and the accumulator to the largest exponent among them and keeps 13
fraction bits, truncating (DeepSeek-V3, arXiv 2412.19437, section 3.5.2; SageAttention2, arXiv 2411.10958, section 3.3).
Two-level accumulation starts every key tile from zero and adds the tile's sum to an fp32 accumulator.
This is a model from those papers; it has not been compared with hardware.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

ACCUMULATORS = ("fp32", "hopper", "two_level")
# k of one e4m3 wgmma instruction (PTX ISA, wgmma.mma_async: m64nNk32).
WGMMA_K = 32
FRACTION_BITS = 13
# 2^-126 is fp32's smallest normal number; sums whose last bit would lie below it are cut there.
SMALLEST_EXPONENT = -126 + 1 + FRACTION_BITS


def matmul_into(accumulator: Tensor, a: Tensor, b: Tensor, kind: str) -> Tensor:
    """accumulator + a @ b, fp32 tensors (..., rows, columns), (..., rows, depth), (..., depth, columns), summed as `kind`
    says."""
    if kind == "fp32":
        return accumulator + a @ b
    if kind == "two_level":
        return accumulator + _truncated(accumulator.new_zeros(accumulator.shape), a, b)
    if kind == "hopper":
        return _truncated(accumulator, a, b)
    raise ValueError(f"unknown accumulator {kind!r}; one of {', '.join(ACCUMULATORS)}")


def _truncated(accumulator: Tensor, a: Tensor, b: Tensor) -> Tensor:
    for start in range(0, a.shape[-1], WGMMA_K):
        step = a[..., start : start + WGMMA_K] @ b[..., start : start + WGMMA_K, :]
        accumulator = _add_truncated(accumulator, step)
    return accumulator


def _add_truncated(a: Tensor, b: Tensor) -> Tensor:
    """a + b, both cut to FRACTION_BITS below the larger one's exponent."""
    import torch

    _, exponent = torch.frexp(torch.maximum(a.abs(), b.abs()))
    exponent = exponent.clamp(min=SMALLEST_EXPONENT)  # below it the quantum itself would be 0
    quantum = torch.ldexp(torch.ones_like(a), exponent - 1 - FRACTION_BITS)
    return ((a / quantum).trunc() + (b / quantum).trunc()) * quantum

"""The reference quantizer: bf16 q, k, v to e4m3 or e5m2 with fp32 descales, per tensor, head, token or block.

Scheme names as in the FlashAttention-3 paper (arXiv 2407.08608, section 3.3): block quantization keeps one scale per
tile of rows; incoherent processing rotates q and k first (see `hadamard`).
"""

from __future__ import annotations

import math
import zlib
from typing import TYPE_CHECKING

from attnbench.backend import Inputs, Quantized
from attnbench.case import Case
from attnbench.reference.fp8 import FORMATS, to_fp8

if TYPE_CHECKING:
    from torch import Tensor


# Smallest normal fp32. A descale below it would have a reciprocal beyond fp32, and hardware may flush it.
SMALLEST_DESCALE = 2.0**-126


def quantize(q: Tensor, k: Tensor, v: Tensor, case: Case) -> Quantized:
    """8-bit tensors in the layout of the originals and their descales (shapes: see `Quantized`).

    The sign seed of the rotation is the case's seed.
    """
    q, k, v = (tensor.float() for tensor in (q, k, v))
    if case.hadamard:
        q, k = rotate(q, case.seed), rotate(k, case.seed)
    pairs = [quantize_tensor(tensor, case.scaling, case.block_size, case.dtype) for tensor in (q, k, v)]
    return Quantized(*(stored for stored, _ in pairs), *(descale for _, descale in pairs))


def quantize_tensor(x: Tensor, scaling: str, block_size: int, dtype: str = "e4m3") -> tuple[Tensor, Tensor]:
    """(tensor of `dtype`, fp32 descale) of one fp32 tensor (batch, seqlen, heads, dim).

    The largest magnitude of a group maps to the dtype's largest number; a group of zeros, or of numbers so small that
    their descale would be subnormal (below 2**-126), gets descale 1. Every NaN is stored alike and scales nothing. A
    group with an infinity gets an infinite descale: its finite numbers become 0, its infinities NaN.

    Every step is one fp32 operation rounded to nearest, so that a kernel can give the same bits: largest magnitude /
    largest number, its reciprocal once per group, one product per element (what quantizing kernels do; a division costs
    ten times as much).
    """
    import torch

    amax = _group_amax(x, scaling, block_size)
    ones = torch.ones_like(amax)
    # NOTE: tensors on both sides: on CUDA torch replaces a division by a Python number with a product.
    descale = amax / (ones * FORMATS[dtype].largest)
    descale = torch.where(descale < SMALLEST_DESCALE, ones, descale)
    if scaling == "none":
        descale = ones
    scaled = x * expand_descale(ones / descale, x.shape, scaling, block_size)
    # NOTE: the sign of a NaN depends on the processor that made it.
    return to_fp8(scaled.masked_fill(scaled.isnan(), float("nan")), dtype), descale


def overflowed(inputs: Inputs, case: Case) -> str:
    """What the reference quantizer made smaller than it is, in words: `3 values of k, 1 of v`; "" where nothing.

    A scaling by the largest magnitude leaves none but infinities beyond the type's largest number; `none` may.
    """
    if not case.is_fp8:
        return ""
    counts = {}
    for name in ("q", "k", "v"):
        x = getattr(inputs, name).float()
        limit = FORMATS[case.dtype].largest if case.scaling == "none" else math.inf
        if case.hadamard and case.scaling == "none" and name != "v":
            x = rotate(x, case.seed)
        beyond = x.abs() > limit * (1 + FORMATS[case.dtype].rounding) if math.isfinite(limit) else x.isinf()
        counts[name] = int(beyond.sum())
    told = [f"{count:,} of {name}" for name, count in counts.items() if count]
    return "" if not told else f"values {', '.join(told)}"


def _group_amax(x: Tensor, scaling: str, block_size: int) -> Tensor:
    import torch

    magnitude = x.abs().masked_fill(x.isnan(), 0.0)
    if scaling in ("none", "tensor"):
        return magnitude.amax().reshape(1)
    if scaling == "head":
        return magnitude.amax(dim=(1, 3))
    per_token = magnitude.amax(dim=3)
    if scaling == "token":
        return per_token
    blocks = -(-x.shape[1] // block_size)
    padded = torch.nn.functional.pad(per_token, (0, 0, 0, blocks * block_size - x.shape[1]))
    return padded.reshape(x.shape[0], blocks, block_size, x.shape[2]).amax(dim=2)


def expand_descale(descale: Tensor, shape: tuple[int, ...], scaling: str, block_size: int) -> Tensor:
    """The descale broadcast against a tensor of shape (batch, seqlen, heads, dim)."""
    if scaling in ("none", "tensor"):
        return descale.reshape(1, 1, 1, 1)
    if scaling == "head":
        return descale[:, None, :, None]
    if scaling == "block":
        descale = descale.repeat_interleave(block_size, dim=1)[:, : shape[1]]
    return descale[..., None]


def dequantize(stored: Tensor, descale: Tensor, case: Case) -> Tensor:
    """stored x descale in fp32, (batch, seqlen, heads, dim)."""
    return stored.float() * expand_descale(descale, stored.shape, case.scaling, case.block_size)


# Fast Walsh-Hadamard transform with random signs: FlashAttention-3's incoherent processing (arXiv 2407.08608, 3.3).
#
# q and k are multiplied by the same orthogonal M = diag(signs) H / sqrt(head_dim), so q M (k M)^T = q k^T, while the
# outliers of one entry are spread over the whole row. After QuIP (arXiv 2307.13304) and QuaRot (arXiv 2404.00456).


def walsh_hadamard(x: Tensor) -> Tensor:
    """x H / sqrt(n) over the last dimension n, a power of two, in n log n additions, in x's dtype.

    Raises ValueError for another n.
    """
    n = x.shape[-1]
    if n & (n - 1):
        raise ValueError(f"the Hadamard transform needs a power of two, not head_dim {n}")
    width = 1
    while width < n:
        pairs = x.reshape(*x.shape[:-1], n // (2 * width), 2, width)
        low, high = pairs.select(-2, 0), pairs.select(-2, 1)
        x = _interleave(low + high, low - high).reshape(x.shape)
        width *= 2
    scale: float = n**-0.5
    return x * scale


def _interleave(low: Tensor, high: Tensor) -> Tensor:
    import torch

    return torch.stack((low, high), dim=-2)


def signs(n: int, seed: int) -> Tensor:
    """n random signs as fp32 on the CPU, the same on every machine."""
    import torch

    generator = torch.Generator().manual_seed(zlib.crc32(f"hadamard.{seed}".encode()))
    return torch.randint(0, 2, (n,), generator=generator) * 2.0 - 1.0


def rotate(x: Tensor, seed: int) -> Tensor:
    """x diag(signs) H / sqrt(n), in x's dtype and on its device."""
    return walsh_hadamard(x * signs(x.shape[-1], seed).to(x))


def plain_inputs(case: Case, inputs: Inputs) -> Inputs:
    """What the kernel was given, as plain tensors: e4m3 dequantized, in fp32."""
    held = inputs.quantized
    if held is None:
        return inputs
    pairs = ((held.q, held.q_descale), (held.k, held.k_descale), (held.v, held.v_descale))
    q, k, v = (dequantize(stored, descale, case) for stored, descale in pairs)
    return Inputs(q, k, v)

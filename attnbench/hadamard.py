"""Fast Walsh-Hadamard transform with random signs: FlashAttention-3's incoherent processing (arXiv 2407.08608, 3.3).

q and k are multiplied by the same orthogonal M = diag(signs) H / sqrt(head_dim), so q M (k M)^T = q k^T, while the
outliers of one entry are spread over the whole row. After QuIP (arXiv 2307.13304) and QuaRot (arXiv 2404.00456).
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


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
    return x * n**-0.5


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

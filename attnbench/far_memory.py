"""Tensors whose elements lie further apart than a 32-bit offset reaches, without the memory that this seems to take."""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

# Offsets from here on do not fit into a signed 32-bit integer.
REACH = 2**31
# Elements that rows start at a multiple of: 128 bytes of 8-bit numbers, more than any vector load or TMA box asks for.
ALIGNMENT = 128


def far_apart(tensor: Tensor) -> Tensor:
    """The same (batch, seqlen, heads, dim), its rows spread so that the last one lies REACH elements past the first.

    A tensor of one row comes back as it is. On the CPU pages are taken as they are touched, one or two a row; on CUDA
    the memory is really there (4 GiB of 16-bit numbers).
    """
    batch, seqlen, heads, dim = tensor.shape
    rows = batch * seqlen
    if rows == 1:
        return tensor
    stride = max(heads * dim, -(-REACH // ((rows - 1) * ALIGNMENT)) * ALIGNMENT)
    memory = _memory(tensor, (rows - 1) * stride + heads * dim)
    view = memory.as_strided(tensor.shape, (seqlen * stride, stride, dim, 1))
    view.copy_(tensor)
    return view


def _memory(like: Tensor, count: int) -> Tensor:
    import torch

    if like.is_cuda:
        return torch.empty(count, dtype=like.dtype, device=like.device)
    # NOTE: private, or reading alone would take pages; no huge pages, or each row would take 2 MiB.
    pages = mmap.mmap(-1, count * like.element_size(), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    pages.madvise(mmap.MADV_NOHUGEPAGE)
    return torch.frombuffer(pages, dtype=torch.uint8).view(like.dtype)

"""The interface of the quantize kernel's library (kernels/include/attnbench/quantize_abi.h): fp16 or bf16 q, k, v to
e4m3, bit for bit as `quantize.quantize` does it, with v in the layout of the e4m3 attention kernels.

The struct and the library; from tensors to the struct: `kernel_quantize_arguments`; the library that is built on this
machine: `kernel_quantizer`. Importing this module imports no torch.
"""

from __future__ import annotations

import ctypes
from ctypes import c_char_p, c_int32, c_int64, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass
from typing import TYPE_CHECKING

from attnbench.kernel_library import DTYPES, CLibrary, Variant

if TYPE_CHECKING:
    from torch import Tensor

QUANTIZE_ABI_VERSION = 1
SOURCE = "quantize"  # stem of the kernel file
SCALINGS = {"none": 0, "tensor": 1, "head": 2, "block": 3}
# Tokens that are permuted among themselves in the transposed v, and what its rows are padded to.
VALUE_GROUP = 16
# Position within such a group -> token: the order in which an accumulator's registers pack into an e4m3 A operand.
VALUE_ORDER = tuple(position // 4 * 2 + position % 2 + position // 2 % 2 * 8 for position in range(VALUE_GROUP))
MOST_COLUMNS = 256
# As in kernels/quantize.cu: tokens that a CTA works on at a time, and how many such tiles it holds or has under way.
TILE_TOKENS = 128
STAGES = 2


class QuantizeRow(ctypes.Structure):
    """AttnbenchQuantizeVariant of quantize_abi.h."""

    _fields_ = [
        ("kernel", c_char_p), ("amax_kernel", c_char_p), ("dtype", c_int32), ("head_dim", c_int32),
        ("threads", c_int32), ("shared_memory_bytes", c_int32), ("amax_shared_memory_bytes", c_int32),
    ]  # fmt: skip


class QuantizeArgs(ctypes.Structure):
    """AttnbenchQuantizeArgs of quantize_abi.h."""

    _fields_ = [
        ("abi_version", c_uint32), ("struct_size", c_uint32), ("dtype", c_int32), ("batch", c_int32),
        ("seqlen_q", c_int32), ("seqlen_k", c_int32), ("num_heads", c_int32), ("num_heads_kv", c_int32),
        ("head_dim", c_int32), ("scaling", c_int32), ("block_size", c_int32), ("hadamard", c_int32),
        ("signs", c_uint32 * (MOST_COLUMNS // 32)),
        ("q", c_void_p), ("k", c_void_p), ("v", c_void_p),
        ("q_strides", c_int64 * 3), ("k_strides", c_int64 * 3), ("v_strides", c_int64 * 3),
        ("q8", c_void_p), ("k8", c_void_p), ("v8t", c_void_p),
        ("q_descale", c_void_p), ("k_descale", c_void_p), ("v_descale", c_void_p),
        ("workspace", c_void_p), ("workspace_bytes", c_uint64), ("stream", c_void_p),
    ]  # fmt: skip


@dataclass(frozen=True)
class QuantizeVariant:
    """The kernels of one dtype and head_dim; see AttnbenchQuantizeVariant."""

    kernel: str
    amax_kernel: str
    dtype: str
    head_dim: int
    threads: int
    shared_memory_bytes: int
    amax_shared_memory_bytes: int


class QuantizeLibrary(CLibrary):
    """A loaded build of kernels/quantize.cu."""

    PREFIX, VERSION, ROW, ARGS = "quantize_", QUANTIZE_ABI_VERSION, QuantizeRow, QuantizeArgs
    variants: tuple[QuantizeVariant, ...]

    def table(self) -> list[Variant]:
        """Its kernels as rows of a variant table, for inspection: schedule `write`, and `amax` for the pass before it.

        tile_m: tokens of a CTA at a time; tile_n: its columns.
        """
        kernels = [("write", row.kernel, row.shared_memory_bytes, row) for row in self.variants]
        kernels += [("amax", row.amax_kernel, row.amax_shared_memory_bytes, row) for row in self.variants]
        return [
            Variant(index, name, kernel, row.dtype, row.head_dim, None, TILE_TOKENS, row.head_dim, STAGES, row.threads,
                    0, shared_bytes, ("persistent",), "fp32")
            for index, (name, kernel, shared_bytes, row) in enumerate(kernels)
        ]  # fmt: skip

    def _variant(self, index: int, row: QuantizeRow) -> QuantizeVariant:
        return QuantizeVariant(
            kernel=row.kernel.decode(),
            amax_kernel=row.amax_kernel.decode(),
            dtype=next(name for name, code in DTYPES.items() if code == row.dtype),
            head_dim=row.head_dim,
            threads=row.threads,
            shared_memory_bytes=row.shared_memory_bytes,
            amax_shared_memory_bytes=row.amax_shared_memory_bytes,
        )


def transpose_values(v: Tensor) -> Tensor:
    """(batch, seqlen, heads, head_dim) e4m3 as the kernel writes v: (batch, heads, head_dim, seqlen padded to 16),
    the tokens of every 16 in VALUE_ORDER, zeros past the end. For quantized tensors that come from elsewhere."""
    import torch

    batch, seqlen, heads, head_dim = v.shape
    groups = -(-seqlen // VALUE_GROUP)
    padded = torch.zeros((batch, groups * VALUE_GROUP, heads, head_dim), dtype=torch.uint8, device=v.device)
    padded[:, :seqlen] = v.view(torch.uint8)
    grouped = padded.reshape(batch, groups, VALUE_GROUP, heads, head_dim)[:, :, list(VALUE_ORDER)]
    return grouped.permute(0, 3, 4, 1, 2).reshape(batch, heads, head_dim, -1).contiguous().view(v.dtype)

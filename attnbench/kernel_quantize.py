"""The quantize kernel (kernels/quantize.cu) from Python: fp16 or bf16 q, k, v to e4m3 on the device, bit for bit as
`quantize.quantize` does it, with v in the layout of the e4m3 attention kernels.

Mirrors kernels/include/attnbench/quantize_abi.h. Importing this module imports no torch.
"""
from __future__ import annotations

import ctypes
import functools
from ctypes import c_char_p, c_int32, c_int64, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass
from typing import TYPE_CHECKING

from attnbench.kernel_arguments import TORCH_DTYPES
from attnbench.kernel_library import DTYPES, CLibrary, KernelError, Strides

if TYPE_CHECKING:
    from torch import Tensor

    from attnbench.case import Case

ABI_VERSION = 1
SOURCE = "quantize"  # stem of the kernel file
SCALINGS = {"none": 0, "tensor": 1, "head": 2, "block": 3}
# Tokens that are permuted among themselves in the transposed v, and what its rows are padded to.
VALUE_GROUP = 16
# Position within such a group -> token: the order in which an accumulator's registers pack into an e4m3 A operand.
VALUE_ORDER = tuple(position // 4 * 2 + position % 2 + position // 2 % 2 * 8 for position in range(VALUE_GROUP))
MOST_COLUMNS = 256


class QuantizeRow(ctypes.Structure):
    """AttnbenchQuantizeVariant of quantize_abi.h."""

    _fields_ = [
        ("kernel", c_char_p), ("amax_kernel", c_char_p), ("dtype", c_int32), ("head_dim", c_int32),
        ("threads", c_int32), ("shared_memory_bytes", c_int32),
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


class QuantizeLibrary(CLibrary):
    """A loaded build of kernels/quantize.cu."""

    PREFIX, VERSION, ROW, ARGS = "quantize_", ABI_VERSION, QuantizeRow, QuantizeArgs
    variants: tuple[QuantizeVariant, ...]

    def _variant(self, index: int, row: QuantizeRow) -> QuantizeVariant:
        return QuantizeVariant(
            kernel=row.kernel.decode(),
            amax_kernel=row.amax_kernel.decode(),
            dtype=next(name for name, code in DTYPES.items() if code == row.dtype),
            head_dim=row.head_dim,
            threads=row.threads,
            shared_memory_bytes=row.shared_memory_bytes,
        )


@dataclass(frozen=True, slots=True)
class Scheme:
    """How to quantize, in the terms of a case. seed: of the signs of the rotation."""

    scaling: str = "head"
    block_size: int = 128
    hadamard: bool = False
    seed: int = 0

    @classmethod
    def of(cls, case: Case) -> Scheme:
        return cls(case.scaling, case.block_size, case.hadamard, case.seed)

    def unsupported(self) -> str | None:
        """Why the kernel cannot do this at all; what depends on sizes is the library's to say."""
        if self.scaling in SCALINGS:
            return None
        return f"it has no descale per {self.scaling}; there are {', '.join(SCALINGS)}"


@dataclass(frozen=True, slots=True)
class DeviceQuantized:
    """What the kernel wrote. q, k (batch, seqlen, heads, head_dim) e4m3; v_transposed (batch, heads, head_dim,
    seqlen_k padded to 16) e4m3, the tokens of every 16 in VALUE_ORDER, zeros past the end; descales as in `Quantized`."""

    q: Tensor
    k: Tensor
    v_transposed: Tensor
    q_descale: Tensor
    k_descale: Tensor
    v_descale: Tensor


def sign_bits(head_dim: int, seed: int) -> list[int]:
    """The signs of `hadamard.rotate` as words; a bit that is set negates its column."""
    from attnbench.hadamard import signs

    words = [0] * (MOST_COLUMNS // 32)
    for column, sign in enumerate(signs(head_dim, seed).tolist()):
        words[column // 32] |= (sign < 0) << column % 32
    return words


def descale_shape(scheme: Scheme, batch: int, seqlen: int, heads: int) -> tuple[int, ...]:
    if scheme.scaling == "head":
        return batch, heads
    return (batch, -(-seqlen // scheme.block_size), heads) if scheme.scaling == "block" else (1,)


def transpose_values(v: Tensor) -> Tensor:
    """(batch, seqlen, heads, head_dim) e4m3 in the layout of `DeviceQuantized.v_transposed`: what the kernel does to v,
    for tests and for quantized tensors that come from elsewhere."""
    import torch

    batch, seqlen, heads, head_dim = v.shape
    groups = -(-seqlen // VALUE_GROUP)
    padded = torch.zeros((batch, groups * VALUE_GROUP, heads, head_dim), dtype=torch.uint8, device=v.device)
    padded[:, :seqlen] = v.view(torch.uint8)
    grouped = padded.reshape(batch, groups, VALUE_GROUP, heads, head_dim)[:, :, list(VALUE_ORDER)]
    return grouped.permute(0, 3, 4, 1, 2).reshape(batch, heads, head_dim, -1).contiguous().view(v.dtype)


@dataclass(frozen=True)
class BoundQuantize:
    """One quantization with everything that needs preparation done: outputs and workspace allocated, arguments filled.

    `tensors` keeps alive what the argument struct points to.
    """

    library: QuantizeLibrary
    args: QuantizeArgs
    made: DeviceQuantized
    tensors: tuple[Tensor, ...]

    @classmethod
    def of(cls, library: QuantizeLibrary, q: Tensor, k: Tensor, v: Tensor, scheme: Scheme) -> BoundQuantize:
        """q (batch, seqlen_q, num_heads, head_dim), k and v (batch, seqlen_k, num_heads_kv, head_dim), fp16 or bf16.

        Raises KernelError with the reason where the kernel cannot do it; launches nothing.
        """
        import torch

        reason = scheme.unsupported() or _wrong_tensors(library, q, k, v)
        if reason:
            raise KernelError(f"{library.path.name}: {reason}")
        made = _allocate(q, k, v, scheme)
        args = quantize_args(q, k, v, scheme, made)
        status, _ = library.supports(args)
        if status:
            raise library.error(status, args)
        workspace = q.new_empty(library.workspace_bytes(args), dtype=torch.uint8)
        args.workspace, args.workspace_bytes = workspace.data_ptr() or None, workspace.numel()
        return cls(library, args, made, (q, k, v, workspace))

    def launch(self, stream: int = 0) -> DeviceQuantized:
        """Enqueues the kernels on a cudaStream_t of the current device. Raises KernelError."""
        self.args.stream = stream or None
        self.library.launch(self.args)
        return self.made


def _wrong_tensors(library: QuantizeLibrary, q: Tensor, k: Tensor, v: Tensor) -> str | None:
    """What a pointer no longer shows: devices, ranks, shapes and dtypes that agree."""
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        if tensor.device.type != library.device_type or tensor.device != q.device:
            return f"{name} is on {tensor.device}: all must be on one {library.device_type} device"
        if tensor.dim() != 4:
            return f"{name} has {tensor.dim()} dimensions: must be (batch, seqlen, heads, head_dim)"
        if TORCH_DTYPES.get(str(tensor.dtype)) not in ("fp16", "bf16") or tensor.dtype != q.dtype:
            return f"{name} is {tensor.dtype}: all must be fp16, or all bf16"
        if tensor.stride(3) != 1:
            return f"{name}: the last dimension must be contiguous, its stride is {tensor.stride(3)}"
    if k.shape != v.shape:
        return f"k has shape {tuple(k.shape)}, v {tuple(v.shape)}: must be the same"
    if (q.shape[0], q.shape[3]) != (k.shape[0], k.shape[3]):
        return f"q has shape {tuple(q.shape)}, k {tuple(k.shape)}: batch and head_dim must be the same"
    return None


def _allocate(q: Tensor, k: Tensor, v: Tensor, scheme: Scheme) -> DeviceQuantized:
    import torch

    batch, seqlen, heads, head_dim = v.shape
    padded = -(-seqlen // VALUE_GROUP) * VALUE_GROUP
    stored = [q.new_empty(shape, dtype=torch.float8_e4m3fn) for shape in
              (q.shape, k.shape, (batch, heads, head_dim, padded))]  # fmt: skip
    descales = [q.new_empty(descale_shape(scheme, *one.shape[:3]), dtype=torch.float32) for one in (q, k, v)]
    return DeviceQuantized(*stored, *descales)


def quantize_args(q: Tensor, k: Tensor, v: Tensor, scheme: Scheme, made: DeviceQuantized) -> QuantizeArgs:
    """The argument struct of one call. Keeps pointers only. Sizes that no int32 holds become -1, which the library
    refuses."""
    sizes = {"batch": q.shape[0], "seqlen_q": q.shape[1], "seqlen_k": k.shape[1], "num_heads": q.shape[2],
             "num_heads_kv": k.shape[2], "head_dim": q.shape[3], "block_size": scheme.block_size}  # fmt: skip
    pointers = {"q": q, "k": k, "v": v, "q8": made.q, "k8": made.k, "v8t": made.v_transposed,
                "q_descale": made.q_descale, "k_descale": made.k_descale, "v_descale": made.v_descale}  # fmt: skip
    signs = sign_bits(q.shape[3], scheme.seed) if scheme.hadamard and q.shape[3] <= MOST_COLUMNS else []
    return QuantizeArgs(
        abi_version=ABI_VERSION,
        struct_size=ctypes.sizeof(QuantizeArgs),
        dtype=DTYPES[TORCH_DTYPES[str(q.dtype)]],
        scaling=SCALINGS[scheme.scaling],
        hadamard=int(scheme.hadamard),
        signs=(c_uint32 * (MOST_COLUMNS // 32))(*signs),
        **{name: size if size < 2**31 else -1 for name, size in sizes.items()},
        **{name: tensor.data_ptr() for name, tensor in pointers.items()},
        **{f"{name}_strides": Strides(*tensor.stride()[:3]) for name, tensor in (("q", q), ("k", k), ("v", v))},
    )


def missing() -> str | None:
    """Why the built library cannot be used, with the way out; None when it is there and fresh."""
    from attnbench.kernel_schedules import missing_library

    return missing_library(SOURCE)


@functools.cache
def built_library() -> QuantizeLibrary:
    """The library as built for this machine, loaded once per process. Raises KernelError where it is `missing`."""
    from attnbench.kernel_build import library_path

    reason = missing()
    if reason is not None:
        raise KernelError(reason)
    return QuantizeLibrary(library_path(SOURCE))


def quantize_on_device(q: Tensor, k: Tensor, v: Tensor, scheme: Scheme) -> DeviceQuantized:
    """Quantizes CUDA tensors on the current stream of their device; see `BoundQuantize.of`. Waits for nothing."""
    import torch

    bound = BoundQuantize.of(built_library(), q, k, v, scheme)
    with torch.cuda.device(q.device):
        return bound.launch(torch.cuda.current_stream().cuda_stream)

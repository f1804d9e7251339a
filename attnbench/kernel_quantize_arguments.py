"""From tensors to the argument struct of the quantize kernel: how to quantize, what comes out, the call bound to both.

Sizes, strides and alignment are checked by the library itself (kernels/include/attnbench/quantize_validate.h).
"""

from __future__ import annotations

import ctypes
from ctypes import c_uint32
from dataclasses import dataclass
from typing import TYPE_CHECKING

from attnbench.kernel_arguments import TORCH_DTYPES
from attnbench.kernel_library import DTYPES, KernelError, Strides
from attnbench.kernel_quantize import (
    MOST_COLUMNS,
    QUANTIZE_ABI_VERSION,
    SCALINGS,
    VALUE_GROUP,
    QuantizeArgs,
    QuantizeLibrary,
)

if TYPE_CHECKING:
    from torch import Tensor

    from attnbench.case import Case


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
    seqlen_k padded to 16) e4m3, the tokens of every 16 in VALUE_ORDER, zeros past the end; descales as in `Quantized`.
    """

    q: Tensor
    k: Tensor
    v_transposed: Tensor
    q_descale: Tensor
    k_descale: Tensor
    v_descale: Tensor


def sign_bits(head_dim: int, seed: int) -> list[int]:
    """The signs of `hadamard.rotate` as words; a bit that is set negates its column."""
    from attnbench.reference.quantize import signs

    words = [0] * (MOST_COLUMNS // 32)
    for column, sign in enumerate(signs(head_dim, seed).tolist()):
        words[column // 32] |= (sign < 0) << column % 32
    return words


def descale_shape(scheme: Scheme, batch: int, seqlen: int, heads: int) -> tuple[int, ...]:
    if scheme.scaling == "head":
        return batch, heads
    return (batch, -(-seqlen // scheme.block_size), heads) if scheme.scaling == "block" else (1,)


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
        made = allocate(q, k, v, scheme)
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


def allocate(q: Tensor, k: Tensor, v: Tensor, scheme: Scheme) -> DeviceQuantized:
    """Uninitialized outputs for these inputs, all contiguous."""
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
        abi_version=QUANTIZE_ABI_VERSION,
        struct_size=ctypes.sizeof(QuantizeArgs),
        dtype=DTYPES[TORCH_DTYPES[str(q.dtype)]],
        scaling=SCALINGS[scheme.scaling],
        hadamard=int(scheme.hadamard),
        signs=(c_uint32 * (MOST_COLUMNS // 32))(*signs),
        **{name: size if size < 2**31 else -1 for name, size in sizes.items()},
        **{name: tensor.data_ptr() for name, tensor in pointers.items()},
        **{f"{name}_strides": Strides(*tensor.stride()[:3]) for name, tensor in (("q", q), ("k", k), ("v", v))},
    )

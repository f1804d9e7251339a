"""From tensors to the argument struct of the quantize kernel: how to quantize, what comes out, the call bound to both.

Sizes, strides and alignment are checked by the library itself (kernels/include/attnbench/quantize/quantize_validate.h).
"""

from __future__ import annotations

import ctypes
import functools
from ctypes import c_uint32
from dataclasses import dataclass
from typing import TYPE_CHECKING

from attnbench.hopper.library import (
    DTYPES,
    MOST_COLUMNS,
    QUANTIZE_ABI_VERSION,
    SCALINGS,
    SOURCE,
    TORCH_DTYPES,
    VALUE_GROUP,
    KernelError,
    QuantizeArgs,
    QuantizeLibrary,
    Strides,
    transpose_values,
)
from attnbench.hopper.schedules import missing_library

if TYPE_CHECKING:
    from torch import Tensor

    from attnbench.backend import Inputs, Quantized
    from attnbench.case import Case
    from attnbench.hopper.build import Build


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
    stored = [
        q.new_empty(shape, dtype=torch.float8_e4m3fn) for shape in (q.shape, k.shape, (batch, heads, head_dim, padded))
    ]
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


# The quantize kernel as it is built on this machine, and a call of it on CUDA tensors. Importing imports no torch.


def missing() -> str | None:
    """Why the built library cannot be used, with the way out; None when it is there and fresh."""
    return missing_library(SOURCE)


@functools.cache
def built_library() -> QuantizeLibrary:
    """The library, loaded once per process. Raises KernelError where it is `missing`."""
    from attnbench.hopper.build import library_path

    reason = missing()
    if reason is not None:
        raise KernelError(reason)
    return QuantizeLibrary(library_path(SOURCE))


def built() -> Build:
    """The record of its build. Raises KernelError where the library is `missing`."""
    from attnbench.hopper.build import library_path, read_build

    reason = missing()
    build = None if reason else read_build(library_path(SOURCE))
    if build is None:
        raise KernelError(reason or f"the build of kernels/{SOURCE}.cu was removed meanwhile; build it again")
    return build


def version() -> str:
    """Which binary it is: hash and compiler. Raises KernelError where it is `missing`."""
    build = built()
    return f"{build.name} {build.digest} ({build.compiler})"


def bind(inputs: Inputs, case: Case) -> BoundQuantize:
    """The quantization of a case's originals by the built library, ready to launch. Raises KernelError."""
    return BoundQuantize.of(built_library(), inputs.q, inputs.k, inputs.v, Scheme.of(case))


def differences(made: DeviceQuantized, quantized: Quantized) -> str:
    """Where the kernel's bits are not the reference quantizer's ("q_descale in 3 of 8 values"), "" where all are."""
    import torch

    names = ("q", "k", "q_descale", "k_descale", "v_descale")
    pairs = [(name, getattr(made, name), getattr(quantized, name)) for name in names]
    found = []
    for name, one, other in (*pairs, ("v", made.v_transposed, transpose_values(quantized.v))):
        width = torch.int32 if one.dtype == torch.float32 else torch.uint8
        wrong = int((one.view(width) != other.view(width)).sum())
        if wrong:
            found.append(f"{name} in {wrong} of {one.numel()} values")
    return ", ".join(found)


def quantize_on_device(q: Tensor, k: Tensor, v: Tensor, scheme: Scheme) -> DeviceQuantized:
    """Quantizes CUDA tensors on the current stream of their device, and waits for nothing; see `BoundQuantize.of`."""
    return quantize_by(built_library(), q, k, v, scheme)


def quantize_by(library: QuantizeLibrary, q: Tensor, k: Tensor, v: Tensor, scheme: Scheme) -> DeviceQuantized:
    """The same by a given library: an emulated one takes CPU tensors."""
    import torch

    bound = BoundQuantize.of(library, q, k, v, scheme)
    if not q.is_cuda:
        return bound.launch()
    with torch.cuda.device(q.device):
        return bound.launch(torch.cuda.current_stream().cuda_stream)

"""From tensors to the argument struct of a kernel library: checks what a pointer no longer shows, then fills.

Sizes, strides and alignment are checked by the library itself (kernels/include/attnbench/validate.h), once for all.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from attnbench.hopper.library import (
    ABI_VERSION,
    DTYPES,
    TORCH_DTYPES,
    VALUE_GROUP,
    ForwardArgs,
    KernelError,
    KernelLibrary,
    Strides,
    Variant,
    transpose_values,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from attnbench.backend import Quantized
    from attnbench.case import Case


# Stands for any well-aligned device address where only sizes and strides are asked about.
ALIGNED_ADDRESS = 256


def check_tensors(library: KernelLibrary, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor | None) -> None:
    """What a pointer no longer shows: devices, ranks, shapes and dtypes that agree. Raises KernelError."""
    named = {"q": q, "k": k, "v": v, "out": out} | ({} if lse is None else {"lse": lse})
    check_devices(library, named)
    _check_rank(q, k, v, out)
    for name in ("q", "k", "v", "out"):
        if named[name].stride(3) != 1 and named[name].shape[3] != 1:
            raise KernelError(f"{name}: the last dimension must be contiguous, its stride is {named[name].stride(3)}")
    if str(q.dtype) not in TORCH_DTYPES:
        raise KernelError(f"dtype {q.dtype}: must be one of {', '.join(TORCH_DTYPES)}")
    for name in ("k", "v"):
        if named[name].dtype != q.dtype:
            raise KernelError(f"{name} is {named[name].dtype}, q is {q.dtype}: must be the same")
    _check_shapes(q, k, v, out, lse)


def check_devices(library: KernelLibrary, named: Mapping[str, Tensor]) -> None:
    """All on the device that the library works on, that of q. Raises KernelError."""
    q = named["q"]
    for name, tensor in named.items():
        if tensor.device.type != library.device_type:
            raise KernelError(f"{name} is on {tensor.device}: {library.path.name} takes {library.device_type} tensors")
        if tensor.device != q.device:
            raise KernelError(f"{name} is on {tensor.device}, q on {q.device}: all must be on one device")


def check_lse(lse: Tensor | None, shape: tuple[int, int, int]) -> None:
    """(batch, num_heads, seqlen_q), contiguous fp32, or None. Raises KernelError."""
    if lse is None:
        return
    if str(lse.dtype) != "torch.float32" or not lse.is_contiguous():
        raise KernelError(f"lse must be contiguous fp32, not {lse.dtype} with strides {tuple(lse.stride())}")
    if tuple(lse.shape) != shape:
        raise KernelError(f"lse has shape {tuple(lse.shape)}: must be {shape}")


def _check_rank(*tensors: Tensor) -> None:
    for name, tensor in zip(("q", "k", "v", "out"), tensors):
        if tensor.dim() != 4:
            raise KernelError(f"{name} has {tensor.dim()} dimensions: must be (batch, seqlen, heads, head_dim)")


def _check_shapes(q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor | None) -> None:
    batch, seqlen_q, num_heads, head_dim = q.shape
    _, seqlen_k, num_heads_kv, head_dim_v = v.shape
    expected = {
        "k": (k, (batch, seqlen_k, num_heads_kv, head_dim)),
        "v": (v, (batch, seqlen_k, num_heads_kv, head_dim_v)),
        "out": (out, (batch, seqlen_q, num_heads, head_dim_v)),
    }
    check_lse(lse, (batch, num_heads, seqlen_q))
    for name, (tensor, shape) in expected.items():
        if tuple(tensor.shape) != shape:
            raise KernelError(f"{name} has shape {tuple(tensor.shape)}: must be {shape}")
    output_dtype = "torch.bfloat16" if TORCH_DTYPES[str(q.dtype)] == "e4m3" else str(q.dtype)
    if str(out.dtype) != output_dtype:
        raise KernelError(f"out is {out.dtype}: must be {output_dtype} for {q.dtype} inputs")


def forward_args(
    variant: Variant,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor | None,
    causal: bool,
    softmax_scale: float,
    stream: int = 0,
) -> ForwardArgs:
    """The argument struct of one call; shapes as in abi.h. Keeps pointers only: the tensors must outlive it.

    Sizes that no int32 holds become -1, which the library refuses as a bad shape.
    """
    strides = {name: Strides(*tensor.stride()[:3]) for name, tensor in (("q", q), ("k", k), ("v", v), ("out", out))}
    sizes = {"batch": q.shape[0], "seqlen_q": q.shape[1], "seqlen_k": k.shape[1]}
    sizes |= {"num_heads": q.shape[2], "num_heads_kv": k.shape[2], "head_dim": q.shape[3], "head_dim_v": v.shape[3]}
    return ForwardArgs(
        abi_version=ABI_VERSION,
        struct_size=ctypes.sizeof(ForwardArgs),
        variant=variant.index,
        dtype=DTYPES[TORCH_DTYPES[str(q.dtype)]],
        out_dtype=DTYPES[TORCH_DTYPES[str(out.dtype)]],
        causal=int(causal),
        softmax_scale=softmax_scale,
        q=q.data_ptr(),
        k=k.data_ptr(),
        v=v.data_ptr(),
        out=out.data_ptr(),
        lse=None if lse is None else lse.data_ptr(),
        stream=stream or None,
        **{f"{name}_strides": value for name, value in strides.items()},
        **{name: size if size < 2**31 else -1 for name, size in sizes.items()},
    )


@dataclass(frozen=True)
class BoundForward:
    """One forward pass with everything that needs preparation done: outputs and workspace allocated, arguments filled.

    out (batch, seqlen_q, num_heads, head_dim_v), lse (batch, num_heads, seqlen_q) fp32; see abi.h. `tensors` keeps
    alive what the argument struct points to.
    """

    library: KernelLibrary
    args: ForwardArgs
    out: Tensor
    lse: Tensor
    tensors: tuple[Tensor, ...]

    @classmethod
    def of(
        cls,
        library: KernelLibrary,
        variant: Variant,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        causal: bool,
        softmax_scale: float,
    ) -> BoundForward:
        """Raises KernelError with the reason where the library would refuse; launches nothing."""
        import torch

        _check_rank(q, k, v)
        dtype = torch.bfloat16 if str(q.dtype) == "torch.float8_e4m3fn" else q.dtype
        out = q.new_empty((*q.shape[:3], v.shape[3]), dtype=dtype)
        lse = q.new_empty((q.shape[0], q.shape[2], q.shape[1]), dtype=torch.float32)
        check_tensors(library, q, k, v, out, lse)
        args = forward_args(variant, q, k, v, out, lse, causal, softmax_scale)
        return cls.bound(library, args, out, lse, (q, k, v, out, lse))

    @classmethod
    def bound(
        cls, library: KernelLibrary, args: ForwardArgs, out: Tensor, lse: Tensor, tensors: tuple[Tensor, ...]
    ) -> BoundForward:
        """Asks the library for its verdict on `args` and gives it its workspace. Raises KernelError."""
        import torch

        status, _ = library.supports(args)
        if status:
            raise library.error(status, args)
        workspace = out.new_empty(library.workspace_bytes(args), dtype=torch.uint8)
        args.workspace, args.workspace_bytes = workspace.data_ptr() or None, workspace.numel()
        return cls(library, args, out, lse, (*tensors, workspace))

    def launch(self, stream: int = 0) -> None:
        """Enqueues the kernel on a cudaStream_t of the current device. Raises KernelError."""
        self.args.stream = stream or None
        self.library.launch(self.args)


def case_args(variant: Variant, case: Case) -> ForwardArgs:
    """Arguments of a case with contiguous tensors that do not exist: for the library's check, never for a launch."""
    head_dim, head_dim_v = case.head_dim, case.head_dim_v
    shapes = {
        "q": (case.seqlen_q, case.num_heads, head_dim),
        "k": (case.seqlen_k, case.num_heads_kv, head_dim),
        "v": (case.seqlen_k, case.num_heads_kv, head_dim_v),
        "out": (case.seqlen_q, case.num_heads, head_dim_v),
    }
    strides = {name: Strides(seqlen * heads * dim, heads * dim, dim) for name, (seqlen, heads, dim) in shapes.items()}
    return ForwardArgs(
        abi_version=ABI_VERSION,
        struct_size=ctypes.sizeof(ForwardArgs),
        variant=variant.index,
        dtype=DTYPES[case.dtype],
        out_dtype=DTYPES[case.dtype],
        causal=int(case.causal),
        softmax_scale=case.scale,
        **{name: getattr(case, name) for name in ("batch", "seqlen_q", "seqlen_k", "num_heads", "num_heads_kv")},
        head_dim=head_dim,
        head_dim_v=head_dim_v,
        **dict.fromkeys(shapes, ALIGNED_ADDRESS),
        **{f"{name}_strides": value for name, value in strides.items()},
    )


# From e4m3 tensors and their descales to the argument struct of an FP8 kernel (kernels/include/attnbench/abi.h).
#
# V goes in transposed and permuted: 8-bit wgmma takes V^T only, and the kernel packs its weights without an exchange
# between threads when the keys of each 16 stand in the order of `library.transpose_values`.


@dataclass(frozen=True, slots=True)
class Fp8Operands:
    """What an FP8 kernel reads.

    q (batch, seqlen_q, num_heads, head_dim), k (batch, seqlen_k, num_heads_kv, head_dim), e4m3. v_t (batch,
    num_heads_kv, head_dim_v, seqlen_k rounded up to 16), e4m3, as `library.transpose_values` makes it.
    Descales fp32: (1,) for all, or (batch, heads); (batch, ceil(seqlen / block_size), heads) where block_size, in
    tokens, is not 0.
    """

    q: Tensor
    k: Tensor
    v_t: Tensor
    q_descale: Tensor
    k_descale: Tensor
    v_descale: Tensor
    block_size: int = 0


def reference_operands(case: Case, quantized: Quantized) -> Fp8Operands:
    """What the reference quantizer made, as a kernel reads it."""
    descales = (quantized.q_descale, quantized.k_descale, quantized.v_descale)
    return Fp8Operands(quantized.q, quantized.k, transpose_values(quantized.v), *descales, case_block_size(case))


def case_block_size(case: Case) -> int:
    """Tokens that share a descale, 0 where a head does."""
    return case.block_size if case.scaling == "block" else 0


def padded_tokens(seqlen: int) -> int:
    """Length of a row of V^T: whole groups of permuted tokens."""
    return -(-seqlen // VALUE_GROUP) * VALUE_GROUP


def fp8_args(
    variant: Variant,
    operands: Fp8Operands,
    out: Tensor,
    lse: Tensor | None,
    causal: bool,
    softmax_scale: float,
    p_scale: float,
    stream: int = 0,
) -> ForwardArgs:
    """The argument struct of one call. Keeps pointers only: the tensors must outlive it."""
    # Its strides are wanted as (batch, row of head_dim, head).
    values = operands.v_t.transpose(1, 2)
    args = forward_args(variant, operands.q, operands.k, values, out, lse, causal, softmax_scale, stream)
    args.head_dim_v = operands.v_t.shape[2]
    args.p_scale, args.descale_block_size = p_scale, operands.block_size
    for name in ("q_descale", "k_descale", "v_descale"):
        descale = getattr(operands, name)
        setattr(args, name, descale.data_ptr())
        setattr(args, f"{name}_strides", descale_strides(descale))
    return args


def descale_strides(descale: Tensor) -> ctypes.Array[ctypes.c_int64]:
    """Strides (batch, block, head) in elements; 0 over a dimension that the descales do not have."""
    if descale.dim() == 3:
        return Strides(*descale.stride())
    return Strides(descale.stride(0), 0, descale.stride(1)) if descale.dim() == 2 else Strides(0, 0, 0)


def bind(
    library: KernelLibrary,
    variant: Variant,
    operands: Fp8Operands,
    causal: bool,
    softmax_scale: float,
    p_scale: float,
    out_dtype: torch.dtype,
) -> BoundForward:
    """One FP8 forward pass, ready to launch. Raises KernelError with the reason where it would be refused."""
    import torch

    q, v_t = operands.q, operands.v_t
    for name in ("q", "k", "v_t"):
        if getattr(operands, name).dim() != 4:
            raise KernelError(f"{name} has {getattr(operands, name).dim()} dimensions: must be 4")
    out = q.new_empty((*q.shape[:3], v_t.shape[2]), dtype=out_dtype)
    lse = q.new_empty((q.shape[0], q.shape[2], q.shape[1]), dtype=torch.float32)
    check_operands(library, operands, out, lse)
    args = fp8_args(variant, operands, out, lse, causal, softmax_scale, p_scale)
    named = (q, operands.k, v_t, operands.q_descale, operands.k_descale, operands.v_descale, out, lse)
    return BoundForward.bound(library, args, out, lse, named)


def check_operands(library: KernelLibrary, operands: Fp8Operands, out: Tensor, lse: Tensor | None) -> None:
    """What a pointer no longer shows: devices, shapes and dtypes that agree. Raises KernelError."""
    q, k, v_t = operands.q, operands.k, operands.v_t
    named = {"q": q, "k": k, "v_t": v_t, "q_descale": operands.q_descale, "k_descale": operands.k_descale,
             "v_descale": operands.v_descale, "out": out} | ({} if lse is None else {"lse": lse})  # fmt: skip
    check_devices(library, named)
    for name in ("q", "k", "v_t"):
        if str(named[name].dtype) != "torch.float8_e4m3fn":
            raise KernelError(f"{name} is {named[name].dtype}: must be torch.float8_e4m3fn")
        if named[name].stride(3) != 1 and named[name].shape[3] != 1:
            raise KernelError(f"{name}: the last dimension must be contiguous, its stride is {named[name].stride(3)}")
    if str(out.dtype) not in ("torch.float16", "torch.bfloat16"):
        raise KernelError(f"out is {out.dtype}: must be torch.float16 or torch.bfloat16")
    (batch, seqlen_q, num_heads, head_dim), (_, seqlen_k, num_heads_kv, _) = q.shape, k.shape
    shapes = {
        "k": (batch, seqlen_k, num_heads_kv, head_dim),
        "v_t": (batch, num_heads_kv, v_t.shape[2], padded_tokens(seqlen_k)),
        "out": (batch, seqlen_q, num_heads, v_t.shape[2]),
    }
    for name, shape in shapes.items():
        if tuple(named[name].shape) != shape:
            raise KernelError(f"{name} has shape {tuple(named[name].shape)}: must be {shape}")
    check_lse(lse, (batch, num_heads, seqlen_q))
    sizes = {"q": (seqlen_q, num_heads), "k": (seqlen_k, num_heads_kv), "v": (seqlen_k, num_heads_kv)}
    for name, (seqlen, heads) in sizes.items():
        _check_descale(f"{name}_descale", named[f"{name}_descale"], operands.block_size, batch, seqlen, heads)


def _check_descale(name: str, descale: Tensor, block_size: int, batch: int, seqlen: int, heads: int) -> None:
    if str(descale.dtype) != "torch.float32":
        raise KernelError(f"{name} is {descale.dtype}: must be torch.float32")
    allowed = [(batch, -(-seqlen // block_size), heads)] if block_size > 0 else [(1,), (batch, heads)]
    if tuple(descale.shape) not in allowed:
        wanted = " or ".join(map(str, allowed))
        raise KernelError(f"{name} has shape {tuple(descale.shape)}: must be {wanted} with block_size {block_size}")


def fp8_case_args(variant: Variant, case: Case) -> ForwardArgs:
    """Arguments of a case with contiguous tensors that do not exist: for the library's check, never for a launch."""
    args = case_args(variant, case)
    padded, heads = padded_tokens(case.seqlen_k), case.num_heads_kv
    args.v_strides = Strides(heads * case.head_dim_v * padded, padded, case.head_dim_v * padded)
    args.out_dtype, args.p_scale = DTYPES["bf16"], case.p_scale
    args.descale_block_size = case_block_size(case)
    for name in ("q_descale", "k_descale", "v_descale"):
        setattr(args, name, ALIGNED_ADDRESS)
    return args

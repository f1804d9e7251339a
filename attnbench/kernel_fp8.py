"""From e4m3 tensors and their descales to the argument struct of an FP8 kernel (kernels/include/attnbench/abi.h).

V goes in transposed and permuted: 8-bit wgmma takes V^T only, and the kernel packs its weights without an exchange
between threads when the keys of each 16 stand in the order of `kernel_quantize.transpose_values`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from attnbench.kernel_arguments import ALIGNED_ADDRESS, BoundForward, case_args, check_devices, check_lse, forward_args
from attnbench.kernel_library import DTYPES, ForwardArgs, KernelError, KernelLibrary, Strides, Variant
from attnbench.kernel_quantize import VALUE_GROUP, transpose_values

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from attnbench.backend import Quantized
    from attnbench.case import Case


@dataclass(frozen=True, slots=True)
class Fp8Operands:
    """What an FP8 kernel reads.

    q (batch, seqlen_q, num_heads, head_dim), k (batch, seqlen_k, num_heads_kv, head_dim), e4m3. v_t (batch,
    num_heads_kv, head_dim_v, seqlen_k rounded up to 16), e4m3, as `kernel_quantize.transpose_values` makes it.
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


def descale_strides(descale: Tensor) -> Strides:
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
    shapes = {"k": (batch, seqlen_k, num_heads_kv, head_dim),
              "v_t": (batch, num_heads_kv, v_t.shape[2], padded_tokens(seqlen_k)),
              "out": (batch, seqlen_q, num_heads, v_t.shape[2])}  # fmt: skip
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

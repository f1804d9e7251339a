"""From tensors to the argument struct of a kernel library: checks what a pointer no longer shows, then fills.

Sizes, strides and alignment are checked by the library itself (kernels/include/attnbench/validate.h), once for all.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from attnbench.kernel_library import ABI_VERSION, DTYPES, ForwardArgs, KernelError, KernelLibrary, Strides, Variant

if TYPE_CHECKING:
    from torch import Tensor

    from attnbench.case import Case

TORCH_DTYPES = {"torch.float16": "fp16", "torch.bfloat16": "bf16", "torch.float8_e4m3fn": "e4m3"}
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

"""The Hopper forward kernels as torch operators, so that torch.compile accepts them: attnbench::hopper_forward for fp16
and bf16, attnbench::hopper_fp8_forward for e4m3.

The harness itself times the bare launch (backends/hopper.py): an operator call costs the host several times as much.
Importing this module imports torch and registers the operator.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from attnbench.hopper.forward import BoundForward, Fp8Operands, bind
from attnbench.hopper.library import TORCH_DTYPES, KernelError, KernelLibrary, QuantizeLibrary
from attnbench.hopper.quantizer import DeviceQuantized, Scheme, allocate, quantize_by, quantize_on_device
from attnbench.hopper.schedules import built_kernel

FP8_SCHEMA = (
    "(Tensor q, Tensor k, Tensor v_t, Tensor q_descale, Tensor k_descale, Tensor v_descale, int block_size, "
    "bool causal, float softmax_scale, float p_scale, ScalarType out_dtype, str schedule) -> (Tensor, Tensor)"
)
SCHEMA = "(Tensor q, Tensor k, Tensor v, bool causal, float softmax_scale, str schedule) -> (Tensor, Tensor)"


def forward(
    library: KernelLibrary, q: Tensor, k: Tensor, v: Tensor, causal: bool, softmax_scale: float, schedule: str
) -> tuple[Tensor, Tensor]:
    """out and lse by one library; layouts as in abi.h. Raises KernelError where no variant answers."""
    dtype = TORCH_DTYPES.get(str(q.dtype), str(q.dtype))
    variant = library.find(schedule, dtype, q.shape[-1], causal)
    if variant is None:
        mask = "causal" if causal else "not causal"
        raise KernelError(f"{library.path.name} has no variant {schedule}, {dtype}, head_dim {q.shape[-1]}, {mask}")
    return _launched(BoundForward.of(library, variant, q, k, v, causal, softmax_scale))


def _launched(bound: BoundForward) -> tuple[Tensor, Tensor]:
    """On the current stream of its device, or at once on the CPU (emulated libraries)."""
    if bound.out.is_cuda:
        with torch.cuda.device(bound.out.device):
            bound.launch(torch.cuda.current_stream().cuda_stream)
    else:
        bound.launch()
    return bound.out, bound.lse


@torch.library.custom_op("attnbench::hopper_forward", mutates_args=(), device_types="cuda", schema=SCHEMA)
def hopper_forward(
    q: Tensor, k: Tensor, v: Tensor, causal: bool, softmax_scale: float, schedule: str
) -> tuple[Tensor, Tensor]:
    """softmax(softmax_scale * q k^T + mask) v on the current stream, and lse.

    q (batch, seqlen_q, num_heads, head_dim), k and v (batch, seqlen_k, num_heads_kv, head_dim); returns out like q
    and lse (batch, num_heads, seqlen_q) fp32. causal is bottom-right aligned. schedule: a key of SCHEDULES.
    """
    return forward(built_kernel(schedule).library, q, k, v, causal, softmax_scale, schedule)


@hopper_forward.register_fake
def _shapes(
    q: Tensor, k: Tensor, v: Tensor, causal: bool, softmax_scale: float, schedule: str
) -> tuple[Tensor, Tensor]:
    dtype = torch.bfloat16 if q.dtype == torch.float8_e4m3fn else q.dtype
    batch, seqlen_q, num_heads = q.shape[:3]
    out = q.new_empty((batch, seqlen_q, num_heads, v.shape[3]), dtype=dtype)
    return out, q.new_empty((batch, num_heads, seqlen_q), dtype=torch.float32)


def fp8_forward(
    library: KernelLibrary, operands: Fp8Operands, causal: bool, softmax_scale: float, p_scale: float,
    out_dtype: torch.dtype, schedule: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """out and lse by one library. Raises KernelError where no variant answers."""
    head_dim, blocks = operands.q.shape[-1], operands.block_size > 0
    variant = library.find(schedule, "e4m3", head_dim, causal, blocks)
    if variant is None:
        mask, scales = "causal" if causal else "not causal", "blocks" if blocks else "heads"
        raise KernelError(
            f"{library.path.name} has no variant {schedule}, head_dim {head_dim}, {mask}, scales of {scales}"
        )
    return _launched(bind(library, variant, operands, causal, softmax_scale, p_scale, out_dtype))


@torch.library.custom_op("attnbench::hopper_fp8_forward", mutates_args=(), device_types="cuda", schema=FP8_SCHEMA)
def hopper_fp8_forward(
    q: Tensor, k: Tensor, v_t: Tensor, q_descale: Tensor, k_descale: Tensor, v_descale: Tensor, block_size: int,
    causal: bool, softmax_scale: float, p_scale: float, out_dtype: torch.dtype, schedule: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """softmax(softmax_scale * q k^T + mask) v of e4m3 tensors times their descales, on the current stream, and lse.

    Tensors as in `kernel_fp8.Fp8Operands`; block_size in tokens, 0: one descale a head or for all. out_dtype: fp16 or
    bf16. Returns out (batch, seqlen_q, num_heads, head_dim) and lse (batch, num_heads, seqlen_q) fp32. schedule: a key
    of FP8_SCHEDULES.
    """
    operands = Fp8Operands(q, k, v_t, q_descale, k_descale, v_descale, block_size)
    library = built_kernel(schedule).library
    return fp8_forward(library, operands, causal, softmax_scale, p_scale, out_dtype, schedule)


@hopper_fp8_forward.register_fake
def _fp8_shapes(
    q: Tensor, k: Tensor, v_t: Tensor, q_descale: Tensor, k_descale: Tensor, v_descale: Tensor, block_size: int,
    causal: bool, softmax_scale: float, p_scale: float, out_dtype: torch.dtype, schedule: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    out = q.new_empty((*q.shape[:3], v_t.shape[2]), dtype=out_dtype)
    return out, q.new_empty((q.shape[0], q.shape[2], q.shape[1]), dtype=torch.float32)


def register_emulation(library_of: Callable[[str], KernelLibrary]) -> None:
    """Gives the operators a CPU implementation: the emulated library that `library_of` returns for a schedule.

    For tests: the same host code, argument struct and check as on the GPU.
    """

    @hopper_forward.register_kernel("cpu")
    def _emulated(
        q: Tensor, k: Tensor, v: Tensor, causal: bool, softmax_scale: float, schedule: str
    ) -> tuple[Tensor, Tensor]:
        return forward(library_of(schedule), q, k, v, causal, softmax_scale, schedule)

    @hopper_fp8_forward.register_kernel("cpu")
    def _fp8_emulated(
        q: Tensor, k: Tensor, v_t: Tensor, q_descale: Tensor, k_descale: Tensor, v_descale: Tensor, block_size: int,
        causal: bool, softmax_scale: float, p_scale: float, out_dtype: torch.dtype, schedule: str,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        operands = Fp8Operands(q, k, v_t, q_descale, k_descale, v_descale, block_size)
        return fp8_forward(library_of(schedule), operands, causal, softmax_scale, p_scale, out_dtype, schedule)


# The quantize kernel as a torch operator: attnbench::hopper_quantize, so that torch.compile accepts it.
#
# Importing this module imports torch and registers the operator.

QUANTIZE_SCHEMA = (
    "(Tensor q, Tensor k, Tensor v, str scaling, int block_size, bool hadamard, int seed)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)


# e4m3 q, k and transposed v, and their descales.
_SixTensors = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def _tensors(made: DeviceQuantized) -> _SixTensors:
    return made.q, made.k, made.v_transposed, made.q_descale, made.k_descale, made.v_descale


@torch.library.custom_op("attnbench::hopper_quantize", mutates_args=(), device_types="cuda", schema=QUANTIZE_SCHEMA)
def hopper_quantize(
    q: Tensor, k: Tensor, v: Tensor, scaling: str, block_size: int, hadamard: bool, seed: int
) -> _SixTensors:
    """e4m3 q, k, transposed v, and their fp32 descales, on the current stream; layouts as in `DeviceQuantized`.

    q (batch, seqlen_q, num_heads, head_dim), k and v (batch, seqlen_k, num_heads_kv, head_dim), fp16 or bf16; scaling,
    block_size, hadamard and seed as in `Scheme`.
    """
    return _tensors(quantize_on_device(q, k, v, Scheme(scaling, block_size, hadamard, seed)))


@hopper_quantize.register_fake
def _quantize_shapes(
    q: Tensor, k: Tensor, v: Tensor, scaling: str, block_size: int, hadamard: bool, seed: int
) -> _SixTensors:
    return _tensors(allocate(q, k, v, Scheme(scaling, block_size, hadamard, seed)))


def register_quantize_emulation(library: QuantizeLibrary) -> None:
    """Gives the operator a CPU implementation by an emulated library, for tests: the same host code as on the GPU."""

    @hopper_quantize.register_kernel("cpu")
    def _emulated(
        q: Tensor, k: Tensor, v: Tensor, scaling: str, block_size: int, hadamard: bool, seed: int
    ) -> _SixTensors:
        return _tensors(quantize_by(library, q, k, v, Scheme(scaling, block_size, hadamard, seed)))

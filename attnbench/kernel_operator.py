"""The Hopper forward kernels as a torch operator: attnbench::hopper_forward, so that torch.compile accepts them.

The harness itself times the bare launch (backends/hopper.py): an operator call costs the host several times as much.
Importing this module imports torch and registers the operator.
"""
from __future__ import annotations

from typing import Callable

import torch
from torch import Tensor

from attnbench.kernel_arguments import TORCH_DTYPES, BoundForward
from attnbench.kernel_library import KernelError, KernelLibrary
from attnbench.kernel_schedules import built_kernel

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
    bound = BoundForward.of(library, variant, q, k, v, causal, softmax_scale)
    if q.is_cuda:
        with torch.cuda.device(q.device):
            bound.launch(torch.cuda.current_stream().cuda_stream)
    else:
        bound.launch()
    return bound.out, bound.lse


@torch.library.custom_op("attnbench::hopper_forward", mutates_args=(), device_types="cuda", schema=SCHEMA)
def hopper_forward(q, k, v, causal, softmax_scale, schedule):  # types: SCHEMA
    """softmax(softmax_scale * q k^T + mask) v on the current stream, and lse.

    q (batch, seqlen_q, num_heads, head_dim), k and v (batch, seqlen_k, num_heads_kv, head_dim); returns out like q
    and lse (batch, num_heads, seqlen_q) fp32. causal is bottom-right aligned. schedule: a key of SCHEDULES.
    """
    return forward(built_kernel(schedule).library, q, k, v, causal, softmax_scale, schedule)


@hopper_forward.register_fake
def _shapes(q, k, v, causal, softmax_scale, schedule):
    dtype = torch.bfloat16 if q.dtype == torch.float8_e4m3fn else q.dtype
    batch, seqlen_q, num_heads = q.shape[:3]
    out = q.new_empty((batch, seqlen_q, num_heads, v.shape[3]), dtype=dtype)
    return out, q.new_empty((batch, num_heads, seqlen_q), dtype=torch.float32)


def register_emulation(library_of: Callable[[str], KernelLibrary]) -> None:
    """Gives the operator a CPU implementation: the emulated library that `library_of` returns for a schedule.

    For tests: the same host code, argument struct and check as on the GPU.
    """

    @hopper_forward.register_kernel("cpu")
    def _emulated(q, k, v, causal, softmax_scale, schedule):
        return forward(library_of(schedule), q, k, v, causal, softmax_scale, schedule)

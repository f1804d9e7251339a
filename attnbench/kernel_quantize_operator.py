"""The quantize kernel as a torch operator: attnbench::hopper_quantize, so that torch.compile accepts it.

Importing this module imports torch and registers the operator.
"""

from __future__ import annotations

import torch

from attnbench.kernel_quantize import QuantizeLibrary
from attnbench.kernel_quantize_arguments import DeviceQuantized, Scheme, allocate
from attnbench.kernel_quantizer import quantize_by, quantize_on_device

QUANTIZE_SCHEMA = (
    "(Tensor q, Tensor k, Tensor v, str scaling, int block_size, bool hadamard, int seed)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)


def _tensors(made: DeviceQuantized):
    return made.q, made.k, made.v_transposed, made.q_descale, made.k_descale, made.v_descale


@torch.library.custom_op("attnbench::hopper_quantize", mutates_args=(), device_types="cuda", schema=QUANTIZE_SCHEMA)
def hopper_quantize(q, k, v, scaling, block_size, hadamard, seed):  # types: QUANTIZE_SCHEMA
    """e4m3 q, k, transposed v, and their fp32 descales, on the current stream; layouts as in `DeviceQuantized`.

    q (batch, seqlen_q, num_heads, head_dim), k and v (batch, seqlen_k, num_heads_kv, head_dim), fp16 or bf16; scaling,
    block_size, hadamard and seed as in `Scheme`.
    """
    return _tensors(quantize_on_device(q, k, v, Scheme(scaling, block_size, hadamard, seed)))


@hopper_quantize.register_fake
def _quantize_shapes(q, k, v, scaling, block_size, hadamard, seed):
    return _tensors(allocate(q, k, v, Scheme(scaling, block_size, hadamard, seed)))


def register_quantize_emulation(library: QuantizeLibrary) -> None:
    """Gives the operator a CPU implementation by an emulated library, for tests: the same host code as on the GPU."""

    @hopper_quantize.register_kernel("cpu")
    def _emulated(q, k, v, scaling, block_size, hadamard, seed):
        return _tensors(quantize_by(library, q, k, v, Scheme(scaling, block_size, hadamard, seed)))

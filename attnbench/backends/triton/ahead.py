"""The Triton kernel compiled for a GPU that is not here: to test and compare its machine code."""

from __future__ import annotations

from typing import Any

from attnbench.backends.triton.launch import (
    COMPILER_OPTIONS,
    Tile,
    allocate,
    arguments,
    set_block_shapes,
    strides,
    tile_arguments,
)
from attnbench.case import Case
from attnbench.reference.inputs import make_inputs

# L2 of an H100 SXM in bytes, which decides how heads are ordered and nothing about the code.
L2_BYTES = 50 << 20


def compile_for(case: Case, tile: Tile, tma: bool, capability: int) -> Any:
    """Triton's compiled kernel (`.asm` has "cubin" and "ptx"), specialized as a launch of this case would be.

    capability: 90 for Hopper.
    """
    import torch
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from attnbench.backends.triton.forward import attention_forward as kernel

    inputs = make_inputs(case)
    out, lse = allocate(case, inputs.q)
    values = {**arguments(case, inputs, tma, L2_BYTES), "out": out, "lse": lse, **strides("o", out)}
    values |= tile_arguments(tile)
    set_block_shapes(values)
    fixed = {parameter.name for parameter in kernel.params if parameter.is_constexpr}
    signature, constants, attributes = {}, {}, {}
    for position, name in enumerate(kernel.arg_names):
        value = values[name]
        signature[name] = _type_of(value, name in fixed)
        if signature[name] == "constexpr":
            constants[(position,)] = value
        elif isinstance(value, torch.Tensor) or (isinstance(value, int) and value % 16 == 0):
            attributes[(position,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, attributes)
    options = {"num_warps": tile.warps, "num_stages": tile.stages, **COMPILER_OPTIONS}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def _type_of(value: Any, fixed: bool) -> str:
    """An argument's type in a signature; what is known when the kernel is compiled is a constexpr."""
    import torch

    types = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float8_e4m3fn: "fp8e4nv", torch.float32: "fp32"}
    if fixed or value is None or (isinstance(value, int) and value == 1):
        return "constexpr"
    if isinstance(value, torch.Tensor):
        return f"*{types[value.dtype]}"
    if isinstance(value, float):
        return "fp32"
    if isinstance(value, int):
        return "i32"
    return f"tensordesc<{types[value.base.dtype]}{list(value.block_shape)}>"

"""Dots of named precision, of which XLA's CPU backend refuses some and takes BF16_BF16_F32 for fp32: their operands are
rounded first, then multiplied and summed in fp32. `counting` names the precision that is a GPU's default."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax._src.interpreters import mlir
from jax._src.lax import lax as primitives

PRESETS = lax.DotAlgorithmPreset
# tf32 keeps 10 of fp32's 23 fraction bits; the tensor cores drop the others (PTX ISA, mma, .tf32).
TF32_MASK = -(1 << 13)


def tf32(x: jax.Array) -> jax.Array:
    bits = lax.bitcast_convert_type(x.astype(jnp.float32), jnp.int32)
    return lax.bitcast_convert_type(bits & jnp.int32(TF32_MASK), jnp.float32)


# What each does to an operand before exact products; sums of several products of tf32 or bf16 parts are close to fp32.
ROUNDED: dict[Any, Callable[[jax.Array], jax.Array]] = {
    PRESETS.BF16_BF16_F32: lambda x: x.astype(jnp.bfloat16),
    PRESETS.F16_F16_F32: lambda x: x.astype(jnp.float16),
    PRESETS.TF32_TF32_F32: tf32,
    PRESETS.TF32_TF32_F32_X3: lambda x: x.astype(jnp.float32),
    PRESETS.BF16_BF16_F32_X9: lambda x: x.astype(jnp.float32),
}


def install() -> None:
    on_cpu = functools.partial(primitives._dot_general_lower, platform="cpu")

    def lowered(ctx: Any, lhs: Any, rhs: Any, *, precision: Any, **params: Any) -> Any:
        if not isinstance(precision, PRESETS) or precision not in ROUNDED:
            return on_cpu(ctx, lhs, rhs, precision=precision, **params)
        (out,) = ctx.avals_out
        rounded = functools.partial(
            dot, precision=precision, dimension_numbers=params["dimension_numbers"], dtype=out.dtype
        )
        return mlir.lower_fun(rounded, multiple_results=False)(ctx, lhs, rhs)

    mlir.register_lowering(lax.dot_general_p, lowered, platform="cpu")


def dot(lhs: jax.Array, rhs: jax.Array, *, precision: Any, dimension_numbers: Any, dtype: Any) -> jax.Array:
    lhs, rhs = (ROUNDED[precision](x) for x in (lhs, rhs))
    return lax.dot_general(lhs, rhs, dimension_numbers, preferred_element_type=jnp.float32).astype(dtype)

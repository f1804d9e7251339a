"""Functions of NVIDIA's libdevice that kernels call by name (CUDA libdevice User's Guide)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from attnbench.interpreters.triton.ir import Operation
from attnbench.interpreters.triton.numbers import NotInterpreted, dtype_of

# Functions of NVIDIA's libdevice by their symbol without its prefix `__nv_` and the `f` of fp32 (CUDA libdevice User's
# Guide). Each is computed in its operands' type.
LIBDEVICE: dict[str, Callable[..., Tensor]] = {
    "tanh": torch.tanh, "sinh": torch.sinh, "cosh": torch.cosh, "tan": torch.tan, "sin": torch.sin, "cos": torch.cos,
    "asin": torch.asin, "acos": torch.acos, "atan": torch.atan, "exp": torch.exp, "exp2": torch.exp2,
    "exp10": lambda x: torch.pow(10.0, x), "expm1": torch.expm1, "log": torch.log, "log2": torch.log2,
    "log10": torch.log10, "log1p": torch.log1p, "sqrt": torch.sqrt, "rsqrt": torch.rsqrt, "floor": torch.floor,
    "ceil": torch.ceil, "rint": torch.round, "nearbyint": torch.round,
    "round": lambda x: torch.trunc(x + x.sign() * 0.5), "trunc": torch.trunc, "fabs": torch.abs,
    "erf": torch.erf, "pow": torch.pow, "fmod": torch.fmod,
    "atan2": torch.atan2, "fmax": torch.fmax, "fmin": torch.fmin, "copysign": torch.copysign,
    "fast_exp": torch.exp, "fast_log": torch.log, "fast_log2": torch.log2, "fast_pow": torch.pow,
    "fast_divide": torch.div, "fast_sin": torch.sin, "fast_cos": torch.cos, "fast_tanh": torch.tanh,
    "div_rn": torch.div, "frcp_rn": torch.reciprocal, "fsqrt_rn": torch.sqrt, "mul_rn": torch.mul, "add_rn": torch.add,
}  # fmt: skip


def external(op: Operation, *operands: Tensor) -> Tensor:
    """`tt.extern_elementwise`: a function of libdevice. Raises NotInterpreted for others."""
    symbol = op.attributes.get("symbol", "").strip('"')
    name = symbol.removeprefix("__nv_")
    if name in ("isinfd", "isnand", "isinff", "isnanf"):
        found = operands[0].isinf() if "inf" in name else operands[0].isnan()
        return found.to(dtype_of(op.type.element))
    function = LIBDEVICE.get(name) or LIBDEVICE.get(name.removesuffix("f"))
    if not symbol.startswith("__nv_") or function is None:
        raise NotInterpreted(f"the external function {symbol or '(unnamed)'} is not interpreted")
    return function(*operands)

"""Where an FP8 result's error comes from, one source at a time; and the error that the FlashAttention-3 paper reports.

Each source alone, all else exact (fp64) or fp32: q and k quantized; v quantized; P rounded; sums as Hopper's FP8 tensor
cores make them, in one level and in two. Relative RMSEs against fp64 on the originals, at the rows that are compared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Mapping

from attnbench.hypotheses import plain_inputs
from attnbench.inputs import drawn_inputs
from attnbench.judge import Reference, relative_errors
from attnbench.reference import emulated, oracle

if TYPE_CHECKING:
    from torch import Tensor

    from attnbench.backend import Inputs
    from attnbench.case import Case
    from attnbench.reference import Rows

SOURCES = ("source_qk", "source_v", "source_p", "source_hopper", "source_two_level")


def source_errors(ref: Reference) -> Mapping[str, float]:
    """SOURCES, and e1_hopper and e1_two_level: what E1 would be with these accumulators. Empty for 16-bit cases."""
    if not ref.case.is_fp8:
        return {}
    case, given, rows, exact = ref.case, ref.inputs, ref.rows, ref.originals.out
    stored = plain_inputs(case, given)
    plain = type(given)(given.q, given.k, given.v)
    outs = {
        "source_qk": oracle(case, type(given)(stored.q, stored.k, given.v), rows).out,
        "source_v": oracle(case, type(given)(given.q, given.k, stored.v), rows).out,
        "source_p": emulated(case, plain, rows, "fp32", round_p=True).out,
        "source_hopper": emulated(case, plain, rows, "hopper", round_p=False).out,
        "source_two_level": emulated(case, plain, rows, "two_level", round_p=False).out,
    }
    errors = {name: relative_errors(out, exact).rmse for name, out in outs.items()}
    for accumulator in ("hopper", "two_level"):
        errors[f"e1_{accumulator}"] = relative_errors(ref.eager(accumulator).out, ref.oracle.out).rmse
    return errors


def drawn_oracle(case: Case, inputs: Inputs, rows: Rows) -> Tensor:
    """fp64 attention on the inputs as drawn, before any rounding; (batch, num_heads, rows, head_dim_v)."""
    return oracle(case, drawn_inputs(case, str(inputs.q.device)), rows, originals=True).out


def rmse_drawn(out: Tensor, drawn: Tensor) -> float:
    """Absolute RMSE, as in the paper's table 3. out (batch, num_heads, rows, head_dim_v), fp64."""
    return float((out - drawn).square().mean().sqrt())

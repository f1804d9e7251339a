"""Where an FP8 result's error comes from, one source at a time; and the error that the FlashAttention-3 paper reports.

Each source alone, all else exact (fp64) or fp32: q and k quantized; v quantized; P rounded; sums as Hopper's FP8 tensor
cores make them, in one level and in two. Relative RMSEs against fp64 on the originals, at the rows that are compared;
those of Hopper's sums, whose emulation takes a pass over every single product, at SUMMED_ROWS of them a head.
NOTE: alone, these sums are of operands with all their digits; products of 8-bit numbers have fewer to lose, so that e1_
is what a kernel should be held against.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from attnbench.correctness.judge import relative_errors
from attnbench.reference.inputs import drawn_inputs
from attnbench.reference.oracle import Reference, eager, emulated, oracle
from attnbench.reference.quantize import plain_inputs

if TYPE_CHECKING:
    from torch import Tensor

    from attnbench.backend import Inputs
    from attnbench.case import Case
    from attnbench.reference.rows import Rows


# 64 rows of 128 numbers give an RMSE within about 2 %; at seqlen 131072 each accumulator then takes about a minute.
SUMMED_ROWS = 64

SOURCES = ("source_qk", "source_v", "source_p", "source_hopper", "source_two_level")


def source_errors(ref: Reference) -> Mapping[str, float]:
    """SOURCES, and e1_hopper and e1_two_level: what E1 would be with these accumulators. Empty for 16-bit cases."""
    if ref.originals is None:
        return {}
    case, given, rows, exact = ref.case, ref.inputs, ref.rows, ref.originals.out
    stored = plain_inputs(case, given)
    plain = type(given)(given.q, given.k, given.v)
    outs = {
        "source_qk": oracle(case, type(given)(stored.q, stored.k, given.v), rows).out,
        "source_v": oracle(case, type(given)(given.q, given.k, stored.v), rows).out,
        "source_p": emulated(case, plain, rows, "fp32", round_p=True).out,
    }
    errors = {name: relative_errors(out, exact).rmse for name, out in outs.items()}
    return errors | _summed(ref, exact, plain)


def _summed(ref: Reference, drawn: Tensor, plain: Inputs) -> dict[str, float]:
    """source_ and e1_ of each truncated accumulator. e1_: the emulation's E1 at all rows, times what the accumulator
    makes of it at those that are summed."""
    case = ref.case
    place = _spread(ref.rows.index.shape[-1])
    rows = replace(ref.rows, index=ref.rows.index[..., place])
    originals, exact, fp32 = (x[:, :, place] for x in (drawn, ref.oracle.out, ref.eager("fp32").out))
    there = relative_errors(fp32, exact).rmse
    e1 = relative_errors(ref.eager("fp32").out, ref.oracle.out).rmse / there if there else 1.0
    errors = {}
    for accumulator in ("hopper", "two_level"):
        alone = emulated(case, plain, rows, accumulator, round_p=False).out
        errors[f"source_{accumulator}"] = relative_errors(alone, originals).rmse
        together = eager(case, ref.inputs, rows, accumulator).out
        errors[f"e1_{accumulator}"] = e1 * relative_errors(together, exact).rmse
    return errors


def _spread(count: int) -> list[int]:
    """At most SUMMED_ROWS of `count` places, evenly, the last one among them."""
    step = -(-count // SUMMED_ROWS)
    return list(range((count - 1) % step, count, step))


def drawn_oracle(case: Case, inputs: Inputs, rows: Rows) -> Tensor:
    """fp64 attention on the inputs as drawn, before any rounding; (batch, num_heads, rows, head_dim_v)."""
    return oracle(case, drawn_inputs(case, str(inputs.q.device)), rows, originals=True).out


def rmse_drawn(out: Tensor, drawn: Tensor) -> float:
    """Absolute RMSE, as in the paper's table 3. out (batch, num_heads, rows, head_dim_v), fp64."""
    return float((out - drawn).square().mean().sqrt())

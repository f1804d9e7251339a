"""How far rounding alone can move an element of the output: what no kernel that rounds P may be accused of.

The judge's limits are multiples of what the eager reference gets wrong. Where a few weights decide, that is luck: two
keys whose weights happen to be representable give a budget of almost nothing. So an element over the limit is held
against this a-priori estimate as well: independent roundings add up like the root of their sum of squares (Higham and
Mary, A New Approach to Probabilistic Rounding Error Analysis, SIAM J. Sci. Comput. 41, 2019).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from attnbench.backend import Inputs
from attnbench.case import Case
from attnbench.reference.fp8 import FORMATS
from attnbench.reference.oracle import Rows, rounding_scatter

if TYPE_CHECKING:
    from torch import Tensor

# Of the root sum of squares of all largest roundings. A rounding is about 0.4 of the largest one, so that this is 5 of
# the sum's standard deviations; and up to four equal weights that all round one way are within it.
ROUNDINGS = 2.0
# By dtype: the largest relative rounding of a weight, and half the distance of its subnormal numbers.
WEIGHTS = {
    "fp16": (2.0**-11, 2.0**-25),
    "bf16": (2.0**-8, 0.0),
    **{name: (form.rounding, form.smallest / 2) for name, form in FORMATS.items()},
}


def rounding_bound(case: Case, plain: Inputs, rows: Rows, exact: Tensor, unit: float) -> Tensor:
    """(batch, num_heads, rows, head_dim_v) fp64: unit x abs(exact), the output's rounding, and what P's adds.

    plain: q, k, v as the oracle took them; exact: what it made of them; unit: half the output's machine epsilon.
    """
    return unit * exact.abs() + ROUNDINGS * rounding_scatter(case, plain, rows, *_weight_rounding(case))


def row_sum_bound(case: Case, plain: Inputs, rows: Rows) -> Tensor:
    """(batch, num_heads, rows) fp64: how far off the sum of a row's rounded weights may be, relative to it."""
    ones = replace(plain, v=plain.v.new_ones((*plain.v.shape[:-1], 1)))
    scatter = rounding_scatter(replace(case, head_dim_v=1), ones, rows, *_weight_rounding(case))
    return ROUNDINGS * scatter.squeeze(-1)


def _weight_rounding(case: Case) -> tuple[float, float]:
    relative, absolute = WEIGHTS[case.dtype]
    return relative, absolute / case.p_scale if case.is_fp8 else absolute

"""What rounding alone does to an answer: the units of a case, the noise of its scores, and what no kernel that rounds P
may be accused of.

The judge's limits are multiples of what the eager reference gets wrong. Where a few weights decide, that is luck: two
keys whose weights happen to be representable give a budget of almost nothing. So an element over the limit is held
against an a-priori estimate as well: independent roundings add up like the root of their sum of squares (Higham and
Mary, A New Approach to Probabilistic Rounding Error Analysis, SIAM J. Sci. Comput. 41, 2019).
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from attnbench.backend import Base, Inputs
from attnbench.case import Case
from attnbench.correctness.patterns.shares import applies, looked_at
from attnbench.reference.fp8 import FORMATS
from attnbench.reference.int8 import score_noise
from attnbench.reference.oracle import TF32, Reference, rounding_scatter, rounds_scores, sums_in_fp32, takes_int8_scores
from attnbench.reference.rows import Rows
from attnbench.reference.single import UNIT, noise_of, sum_units

if TYPE_CHECKING:
    from torch import Tensor


# Half the machine epsilon of the output dtype: fp16 has 10 fraction bits, bf16 (and so the output of 8-bit cases) 7.
HALF_EPSILON = {"fp16": 2.0**-11, "bf16": 2.0**-8, "fp32": UNIT, "e4m3": 2.0**-8, "e5m2": 2.0**-8}
# What TF32 ignores of a factor, at most half of which rounding to nearest leaves.
HALF_EPSILON_TF32 = 2.0**-11
# Of the root sum of squares of all largest roundings. A rounding is about 0.4 of the largest one, so that this is 5 of
# the sum's standard deviations; and up to four equal weights that all round one way are within it.
ROUNDINGS = 2.0
# Of the largest rounding of a number, on average.
USUAL_ROUNDING = 0.6
# By dtype: the largest relative rounding of a weight, and half the distance of its subnormal numbers.
WEIGHTS = {
    "fp16": (2.0**-11, 2.0**-25),
    "bf16": (2.0**-8, 0.0),
    "fp32": (HALF_EPSILON_TF32, 0.0),
    **{name: (form.rounding, form.smallest / 2) for name, form in FORMATS.items()},
}


def half_epsilon(case: Case, backend: Base) -> float:
    """Of the type that the coarsest rounding of the case is to."""
    if case.dtype == "fp32" and backend.accumulator == TF32:
        return HALF_EPSILON_TF32
    return max(HALF_EPSILON[case.dtype], HALF_EPSILON[case.key_dtype])


def unit(case: Case, backend: Base) -> float:
    """What an element of the output is off by at least, relative to it, where a kernel rounds it."""
    if sums_in_fp32(case, backend):
        return UNIT * sum_units(case.seqlen_k)
    return half_epsilon(case, backend) * (2 if backend.partials_16bit else 1)


def scores_noise(ref: Reference, backend: Base) -> float:
    """What scores are off by on average: those of 8-bit integers, or stored in 16 bits, where that is declared, and of
    an fp32 q, or of an fp32 q and k, rounded to fewer digits; else 0."""
    if takes_int8_scores(ref.case, backend):
        return score_noise(ref.case, ref.inputs)
    if rounds_scores(ref.case, backend):
        return USUAL_ROUNDING * HALF_EPSILON[ref.case.dtype] * score_size(ref.case, ref.inputs)
    if ref.case.dtype != "fp32" or sums_in_fp32(ref.case, backend):
        return 0.0
    q, k = (
        float(x.double().nan_to_num(nan=0.0).square().sum(dim=3).mean().sqrt()) for x in (ref.inputs.q, ref.inputs.k)
    )
    return half_epsilon(ref.case, backend) * ref.case.scale * q * k / math.sqrt(ref.case.head_dim)


def score_size(case: Case, inputs: Inputs) -> float:
    """Root mean square of all scaled scores, masked ones too: each head's from the d x d products of its q and of its
    k with themselves."""
    ratio = case.num_heads // case.num_heads_kv
    q, k = (x.double().nan_to_num(nan=0.0).transpose(1, 2) for x in (inputs.q, inputs.k))
    of_k = (k.transpose(2, 3) @ k).repeat_interleave(ratio, dim=1)
    squares = ((q.transpose(2, 3) @ q) * of_k).sum(dim=(2, 3)) / (case.seqlen_q * case.seqlen_k)
    return case.scale * math.sqrt(float(squares.mean()))


def make_budgets(ref: Reference, backend: Base) -> None:
    """All that the judge will ask the reference for, so that it takes no time later."""
    ref.budget(backend)
    if ref.case.is_fp8:
        ref.eager("fp32")
    if sums_in_fp32(ref.case, backend):
        noise_of(ref)
    if applies(ref):
        looked_at(ref)


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
    relative, absolute = WEIGHTS[case.key_dtype]
    return relative, absolute / case.p_scale if case.is_fp8 else absolute

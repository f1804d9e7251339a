"""How far a result may be from the oracle: limits as multiples of the eager reference's error on the same inputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from attnbench.case import Case
from attnbench.records.record import Check
from attnbench.reference.fp8 import FORMATS
from attnbench.reference.oracle import Rows, row_place

if TYPE_CHECKING:
    from torch import Tensor

    from attnbench.settings import Factors

# Half the machine epsilon of the output dtype: fp16 has 10 fraction bits, bf16 (and so the output of 8-bit cases) 7.
HALF_EPSILON = {"fp16": 2.0**-11, "bf16": 2.0**-8, "e4m3": 2.0**-8, "e5m2": 2.0**-8}
# Each weight is rounded to the dtype's fraction bits (e4m3: by up to 2^-4 of itself), either way depending on the order
# of tiles. Where a few keys hold all the weight, one lucky rounding of the emulation would accuse right kernels: this
# part of a weight's rounding is left to them.
LUCKY_ROUNDING = 0.25
# The RMS of N errors of independent rows scatters by 1 / sqrt(2 N) of itself, the quotient of two such by 1 / sqrt(N).
# E1 is held to a small factor, so that below about 100 rows three times that has to be left to chance.
CHANCE_SIGMAS = 3.0
# In place of `Factors.max_error` where a kernel declares that it keeps partial results in 16 bits. With it the defaults
# of `Factors` held for 302,400 right results in simulation.
PARTIALS_16BIT = 3.0
LSE_ABSOLUTE = 1e-3
LSE_RELATIVE = 4 * 2.0**-23
RMS_RATIO = 0.1


@dataclass(frozen=True, slots=True)
class Errors:
    """Relative errors of one tensor against the oracle; places are flat indices into (batch, num_heads, rows)."""

    max_error: float
    max_place: int
    rmse: float
    worst_row: float
    worst_place: int
    rms_ratio: float


def relative_errors(out: Tensor, exact: Tensor) -> Errors:
    """max abs error and RMSE relative to the RMS of `exact`; the worst row's RMSE relative to that row's own RMS.

    out and exact are (batch, num_heads, rows, head_dim_v), fp64. Rows that are exactly zero in the oracle have no
    relative error.
    """
    import torch

    error = out - exact
    rms = exact.square().mean().sqrt()
    scale = rms if rms > 0 else torch.ones_like(rms)
    row_rms = exact.square().mean(dim=-1).sqrt()
    row_error = torch.where(row_rms > 0, error.square().mean(dim=-1).sqrt() / row_rms, torch.zeros_like(row_rms))
    largest = error.abs().amax(dim=-1)
    place, worst = int(largest.argmax()), int(row_error.argmax())
    return Errors(
        max_error=float(largest.flatten()[place] / scale),
        max_place=place,
        rmse=float(error.square().mean().sqrt() / scale),
        worst_row=float(row_error.flatten()[worst]),
        worst_place=worst,
        rms_ratio=float(out.square().mean().sqrt() / scale) if rms > 0 else 1.0,
    )


def error_checks(
    case: Case, rows: Rows, errors: Errors, eager: Errors, factors: Factors, partials_16bit: bool
) -> list[Check]:
    """The rules for the output as a whole; the first is that of the largest error (see `beyond_rounding`)."""
    floor = HALF_EPSILON[case.dtype]
    max_floor = max(floor, LUCKY_ROUNDING * FORMATS[case.dtype].rounding) if case.is_fp8 else floor
    max_limit = (PARTIALS_16BIT if partials_16bit else factors.max_error) * max(eager.max_error, max_floor)
    rmse_factor = factors.rmse
    if case.is_fp8:
        rmse_factor = max(factors.fp8, 1.0 + CHANCE_SIGMAS * rows.index.numel() ** -0.5)
    row_limit = factors.worst_row * max(eager.worst_row, floor)
    return [
        bounded("max error", errors.max_error, max_limit, row_place(rows, errors.max_place)),
        bounded("relative RMSE", errors.rmse, rmse_factor * max(eager.rmse, floor)),
        bounded("worst row's relative RMSE", errors.worst_row, row_limit, row_place(rows, errors.worst_place)),
        bounded("RMS(out) / RMS(ref) - 1", abs(errors.rms_ratio - 1.0), max(RMS_RATIO, eager.rmse)),
    ]


def beyond_rounding(failed: Check, rows: Rows, error: Tensor, exact: Tensor, bound: Callable[[], Tensor]) -> Check:
    """The check of the largest error again, each element allowed what rounding its own weights explains.

    failed: the check against one limit for all; error, exact, bound() (batch, num_heads, rows, head_dim_v), fp64. It
    reports the element furthest over its own limit, or the largest error and its limit where none is over.
    """
    if failed.passed or not math.isfinite(failed.value):
        return failed
    rms = float(exact.square().mean().sqrt()) or 1.0
    allowed = (bound() / rms).clamp(min=failed.limit)
    error = error.abs() / rms
    place = int((error / allowed if bool((error > allowed).any()) else error).argmax())
    where = row_place(rows, place // error.shape[-1])
    return bounded(failed.rule, float(error.flatten()[place]), float(allowed.flatten()[place]), where)


def lse_check(
    case: Case, rows: Rows, lse: Tensor, exact: Tensor, budget: Tensor, row_sum_bound: Callable[[], Tensor]
) -> Check:
    """|lse - exact| relative to its own limit; places of -inf must agree. lse, exact, budget (batch, num_heads, rows).

    8 bits: at least 4 x the emulation's error. And at least what rounding its weights does to a row's sum, since to sum
    them as rounded, on the tensor core beside P V, is as right (SageAttention2, arXiv 2411.10958).
    """
    blind = exact == -math.inf
    allowed = LSE_ABSOLUTE + LSE_RELATIVE * exact.abs()
    if case.is_fp8:
        allowed = allowed + 4 * (budget - exact).abs().masked_fill(blind, 0.0).amax()
    check = _lse_within(rows, lse, exact, allowed)
    return check if check.passed else _lse_within(rows, lse, exact, allowed.maximum(LSE_ABSOLUTE + row_sum_bound()))


def _lse_within(rows: Rows, lse: Tensor, exact: Tensor, allowed: Tensor) -> Check:
    import torch

    blind = exact == -math.inf
    error = (lse - exact).abs()
    ratio = torch.where(blind, torch.where(lse == -math.inf, 0.0, math.inf), error / allowed)
    ratio = ratio.nan_to_num(nan=math.inf, posinf=math.inf)
    place = int(ratio.argmax())
    worst = ratio.flatten()[place]
    limit = LSE_ABSOLUTE if blind.flatten()[place] else float(allowed.flatten()[place])
    value = math.inf if not bool(worst.isfinite()) else float(worst) * limit
    return bounded("LSE error", value, limit, row_place(rows, place))


def bounded(rule: str, value: float, limit: float, where: str = "") -> Check:
    """Passed where value <= limit; a NaN never is. The place is kept of a failure only."""
    passed = value <= limit
    return Check(rule, value, limit, passed, "" if passed else where)

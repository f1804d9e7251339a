"""Compares outputs with the fp64 oracle and says which rule failed, by how much, and where.

Every relative limit is factor x max(eager error, u): the eager reference's own error on the same inputs is the budget,
u is half the machine epsilon of the output dtype (without that floor, rows with few keys would accuse right kernels).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from attnbench.backend import Base, Inputs, Outputs
from attnbench.case import Case
from attnbench.correctness.diagnose import Diagnosis, diagnose
from attnbench.correctness.exact_rules import Known, own_checks
from attnbench.correctness.nan_rules import scores_tainted, swallowed_check, tainted_heads, without_heads
from attnbench.correctness.patterns.shares import pattern_cause, pattern_checks
from attnbench.correctness.rounding import half_epsilon, rounding_bound, row_sum_bound, scores_noise, unit
from attnbench.records.record import (
    LSE_ERROR,
    LSE_LIMIT,
    LSE_VALUE,
    MAX_ERROR,
    NON_FINITE,
    RELATIVE_RMSE,
    RMS_RATIO,
    WORST_ROW,
    Accuracy,
    Check,
)
from attnbench.reference.fp8 import FORMATS
from attnbench.reference.oracle import Reference, oracle, rounds_scores, sums_in_fp32, takes_int8_scores
from attnbench.reference.quantize import plain_inputs
from attnbench.reference.rows import Rows, row_place, visible_keys
from attnbench.reference.single import noise_of
from attnbench.settings import Factors

if TYPE_CHECKING:
    from torch import Tensor


def judge(ref: Reference, backend: Base, outputs: Outputs, factors: Factors = Factors()) -> Accuracy:
    """Applies every rule to outputs whose types and shapes are already known to be right."""
    case, rows = ref.case, ref.rows
    exact = ref.oracle
    if ref.originals is not None and backend.own_quantizer:
        exact = ref.originals
    budget = ref.budget(backend)
    tainted = tainted_heads(case, ref.inputs)
    out = outputs.out.transpose(1, 2).gather(2, rows.index[..., None].expand_as(exact.out)).double()
    checks = [_finite_check(outputs.out, tainted)]
    if tainted is not None:
        checks.append(swallowed_check(case, rows, ref.inputs, out))
    values: Mapping[str, float] = {}
    if checks[0].passed:
        out, exact_out, budget_out = (without_heads(x, tainted) for x in (out, exact.out, budget.out))
        checks += _blind_row_checks(case, rows, out)
        errors, eager = relative_errors(out, exact_out), relative_errors(budget_out, exact_out)
        if sums_in_fp32(case, backend):
            eager = eager.at_least(fp32_errors(without_heads(noise_of(ref).out, tainted), exact_out))
        largest, *others = error_checks(case, rows, errors, eager, factors, backend, scores_noise(ref, backend))

        def bound() -> Tensor:
            if sums_in_fp32(case, backend):
                explained = LARGEST_OF_MANY * noise_of(ref).out
            else:
                explained = rounding_bound(case, _plain(ref, backend), rows, exact.out, unit(case, backend))
            return without_heads(explained, tainted) * (factors.max_error / Factors().max_error)

        checks += [beyond_rounding(largest, rows, out - exact_out, exact_out, bound), *others]
        checks += own_checks(case.inputs, lambda: _known(ref, backend, out, exact_out, budget_out))
        checks += pattern_checks(ref, backend, out, exact_out)
        values = _values(ref, backend, out, exact_out, errors, eager, tainted)
    if outputs.lse is not None:
        nan = tainted if scores_tainted(ref.inputs) else None
        given = outputs.lse.gather(2, rows.index).double()
        lse, exact_lse, budget_lse = (without_heads(x, nan) for x in (given, exact.lse, budget.lse))
        check = _lse(ref, backend, lse, exact_lse, budget_lse, nan)
        if backend.lse_informational:
            known = {LSE_VALUE: check.value} if math.isfinite(check.value) else {}
            values = {**values, **known, LSE_LIMIT: check.limit}
        else:
            checks.append(check)
    return Accuracy(rows.coverage, rows.index.numel(), tuple(checks), values)


def _lse(ref: Reference, backend: Base, lse: Tensor, exact: Tensor, budget: Tensor, without: Tensor | None) -> Check:
    """without: heads whose scores hold NaN, which count neither as right nor as wrong."""
    if sums_in_fp32(ref.case, backend):
        return fp32_lse_check(ref.rows, lse, exact, without_heads(noise_of(ref).lse, without))
    noise = 0.0 if ref.case.is_fp8 else scores_noise(ref, backend) or None
    return lse_check(noise, ref.rows, lse, exact, budget, partial(_row_sums, ref, backend, without))


def diagnosed(ref: Reference, backend: Base, outputs: Outputs, factors: Factors = Factors()) -> Diagnosis:
    """Where outputs that failed are wrong, and why most likely."""
    index = ref.rows.index
    out = outputs.out.transpose(1, 2).gather(2, index[..., None].expand_as(ref.oracle.out)).double()
    lse = None if outputs.lse is None else outputs.lse.gather(2, index).double()
    eager = ref.budget(backend).out
    errors, floor = relative_errors(eager, ref.oracle.out), half_epsilon(ref.case, backend)
    if sums_in_fp32(ref.case, backend):
        errors = errors.at_least(fp32_errors(noise_of(ref).out, ref.oracle.out))
    worst = errors.worst_row
    row_limit = factors.worst_row * (max(worst, floor) if math.isfinite(worst) else floor)
    found = diagnose(ref, out, lse, eager, row_limit)
    if (not found.named or not found.error_map) and (cause := pattern_cause(ref, backend, out)):
        return replace(found, cause=cause, named=True)
    return found


def _plain(ref: Reference, backend: Base) -> Inputs:
    """What the kernel was given, not quantized: 8 bits dequantized, or the originals."""
    return ref.inputs if backend.own_quantizer else plain_inputs(ref.case, ref.inputs)


def _row_sums(ref: Reference, backend: Base, without: Tensor | None) -> Tensor:
    return without_heads(row_sum_bound(ref.case, _plain(ref, backend), ref.rows), without)


def _known(ref: Reference, backend: Base, out: Tensor, exact: Tensor, eager: Tensor) -> Known:
    return Known(
        ref.case, ref.rows, _plain(ref, backend).v, out, exact, eager, unit(ref.case, backend),
        exact_accumulator=backend.accumulator == "fp32",
        exact_v=not backend.own_quantizer,
        exact_partials=not backend.partials_16bit,
        single=sums_in_fp32(ref.case, backend),
        rescaled=lambda: _rescaled(ref, backend),
    )  # fmt: skip


def _rescaled(ref: Reference, backend: Base) -> Tensor | None:
    """The oracle's output with the softmax scale rounded to the inputs' type; None where that rounds nothing."""
    import torch

    scale = float(torch.tensor(ref.case.scale).to(ref.inputs.q.dtype))
    if scale == ref.case.scale:
        return None
    return oracle(replace(ref.case, softmax_scale=scale), _plain(ref, backend), ref.rows).out


def _finite_check(out: Tensor, tainted: Tensor | None) -> Check:
    """The whole output, not only the sampled rows: an element never written is NaN, since outputs start as NaN."""
    count, where = 0, ""
    at_once = max(1, MASKED_AT_ONCE // max(1, out[0].numel()))
    for start in range(0, out.shape[0], at_once):  # some at a time: a mask of the whole may be of gigabytes
        bad = ~out[start : start + at_once].isfinite()
        if tainted is not None:
            bad &= ~tainted[start : start + at_once, None, :, None]
        found = int(bad.sum())
        if found and not count:
            batch, row, head, column = (int(i) for i in bad.nonzero()[0])
            where = f"batch {start + batch}, head {head}, row {row}, column {column}"
        count += found
    return Check(NON_FINITE, count, 0, count == 0, where)


def _blind_row_checks(case: Case, rows: Rows, out: Tensor) -> list[Check]:
    """A row that sees no key has output exactly 0."""
    import torch

    blind = visible_keys(case, rows.index) == 0
    if not bool(blind.any()):
        return []
    largest = torch.where(blind, out.abs().amax(dim=-1), torch.zeros((), dtype=out.dtype, device=out.device))
    place = int(largest.argmax())
    value = float(largest.flatten()[place])
    return [bounded("output of rows that see no key", value, 0.0, row_place(rows, place))]


def _values(
    ref: Reference, backend: Base, out: Tensor, exact: Tensor, errors: Errors, eager: Errors, tainted: Tensor | None
) -> Mapping[str, float]:
    """Figures that are reported and not judged. Relative ones are relative to RMS(ref)."""
    import torch

    scale = float(exact.square().mean().sqrt()) or 1.0
    cosine = torch.nn.functional.cosine_similarity(out, exact, dim=-1)
    seen = visible_keys(ref.case, ref.rows.index) > 0
    values = {
        "bias": float((out - exact).mean()) / scale,
        "min_row_cosine": float(cosine[seen].min()) if bool(seen.any()) else 1.0,
        "relative_l1": float((out - exact).abs().sum() / exact.abs().sum().clamp(min=1e-300)),
        "rms_ratio": errors.rms_ratio,
        "rmse": errors.rmse * scale,
        "eager_max_error": eager.max_error,
        "eager_rmse": eager.rmse,
        "eager_worst_row": eager.worst_row,
    }
    if takes_int8_scores(ref.case, backend) or rounds_scores(ref.case, backend):
        plain = without_heads(ref.eager(backend.accumulator).out, tainted)
        values["exact_scores_rmse"] = relative_errors(plain, exact).rmse
    if ref.originals is not None:
        values |= _fp8_values(ref, ref.originals.out, out, tainted)
    return values


def _fp8_values(ref: Reference, drawn: Tensor, out: Tensor, tainted: Tensor | None) -> Mapping[str, float]:
    """E1 kernel, E2 quantization, E3 end to end: relative RMSEs."""
    exact, originals, emulated = (without_heads(x, tainted) for x in (ref.oracle.out, drawn, ref.eager("fp32").out))
    return {
        "e1": relative_errors(out, exact).rmse,
        "e1_emulated": relative_errors(emulated, exact).rmse,
        "e2": relative_errors(exact, originals).rmse,
        "e3": relative_errors(out, originals).rmse,
    }


# How far a result may be from the oracle: limits as multiples of the eager reference's error on the same inputs.

# Each weight is rounded to the dtype's fraction bits (e4m3: by up to 2^-4 of itself), either way depending on the order
# of tiles. Where a few keys hold all the weight, one lucky rounding of the emulation would accuse right kernels: this
# part of a weight's rounding is left to them, and this part of what 8-bit integers do to a score.
LUCKY_ROUNDING = 0.25
# The RMS of N errors of independent rows scatters by 1 / sqrt(2 N) of itself, the quotient of two such by 1 / sqrt(N).
# E1 is held to a small factor, so that below about 100 rows three times that has to be left to chance.
CHANCE_SIGMAS = 3.0
# In place of `Factors.max_error` where a kernel declares that it keeps partial results in 16 bits. With it the defaults
# of `Factors` held for 302,400 right results in simulation.
PARTIALS_16BIT = 3.0
LSE_ABSOLUTE = 1e-3
LSE_RELATIVE = 4 * 2.0**-23
# Of a limit that may not be 0, since 0 / 0 is no number.
TINY = 1e-300
LARGEST_RMS_RATIO = 0.1
# Elements whose mask is held at once, a byte each.
MASKED_AT_ONCE = 2**24


# Of normal noise in so many elements as a case has, the largest: in units of its standard deviation.
LARGEST_OF_MANY = 5.0


@dataclass(frozen=True, slots=True)
class Errors:
    """Relative errors of one tensor against the oracle; places are flat indices into (batch, num_heads, rows)."""

    max_error: float
    max_place: int
    rmse: float
    worst_row: float
    worst_place: int
    rms_ratio: float

    def at_least(self, other: Errors) -> Errors:
        """The larger one of each error."""
        return replace(
            self,
            max_error=max(self.max_error, other.max_error),
            rmse=max(self.rmse, other.rmse),
            worst_row=max(self.worst_row, other.worst_row),
        )


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


def fp32_errors(noise: Tensor, exact: Tensor) -> Errors:
    """What noise of these standard deviations, (batch, num_heads, rows, head_dim_v), is as errors of `exact`."""
    errors = relative_errors(exact + noise, exact)
    return replace(errors, max_error=LARGEST_OF_MANY / Factors().max_error * errors.max_error)


def error_checks(
    case: Case, rows: Rows, errors: Errors, eager: Errors, factors: Factors, backend: Base, scores_noise: float
) -> list[Check]:
    """The rules for the output as a whole; the first is that of the largest error (see `beyond_rounding`)."""
    floor = max(half_epsilon(case, backend), LUCKY_ROUNDING * scores_noise)
    max_floor = max(floor, LUCKY_ROUNDING * FORMATS[case.dtype].rounding if case.is_fp8 else scores_noise)
    max_limit = (PARTIALS_16BIT if backend.partials_16bit else factors.max_error) * max(eager.max_error, max_floor)
    chance = 1.0 + CHANCE_SIGMAS * rows.index.numel() ** -0.5 if scores_noise else 1.0
    max_limit, rmse_factor = max_limit * chance, factors.rmse * chance
    if case.is_fp8:
        rmse_factor = max(factors.fp8, 1.0 + CHANCE_SIGMAS * rows.index.numel() ** -0.5)
    row_limit = factors.worst_row * max(eager.worst_row, floor) * chance
    return [
        bounded(MAX_ERROR, errors.max_error, max_limit, row_place(rows, errors.max_place)),
        bounded(RELATIVE_RMSE, errors.rmse, rmse_factor * max(eager.rmse, floor)),
        bounded(WORST_ROW, errors.worst_row, row_limit, row_place(rows, errors.worst_place)),
        bounded(RMS_RATIO, abs(errors.rms_ratio - 1.0), max(LARGEST_RMS_RATIO, eager.rmse)),
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
    noise: float | None, rows: Rows, lse: Tensor, exact: Tensor, budget: Tensor, row_sum_bound: Callable[[], Tensor]
) -> Check:
    """|lse - exact| relative to its own limit; places of -inf must agree. lse, exact, budget (batch, num_heads, rows).

    noise: None where its budget is that of 16 bits, else what 8-bit integers do to a score; then it may be off by
    CHANCE_SIGMAS times that and 4 x the emulation's error. And at least by what rounding its weights does to a row's
    sum, since to sum them as rounded, on the tensor core beside P V, is as right (SageAttention2, arXiv 2411.10958).
    """
    blind = exact == -math.inf
    allowed = LSE_ABSOLUTE + LSE_RELATIVE * exact.abs()
    if noise is not None:
        allowed = allowed + CHANCE_SIGMAS * noise + 4 * (budget - exact).abs().masked_fill(blind, 0.0).amax()
    check = _lse_within(rows, lse, exact, allowed)
    return check if check.passed else _lse_within(rows, lse, exact, allowed.maximum(LSE_ABSOLUTE + row_sum_bound()))


def fp32_lse_check(rows: Rows, lse: Tensor, exact: Tensor, noise: Tensor) -> Check:
    """The same of an lse that nothing but fp32 arithmetic errs in; noise: its standard deviations."""
    allowed = 2 * LARGEST_OF_MANY * noise + LSE_RELATIVE * exact.abs()
    return _lse_within(rows, lse, exact, allowed.clamp(min=TINY))  # 0 for heads that are left out


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
    return bounded(LSE_ERROR, value, limit, row_place(rows, place))


def bounded(rule: str, value: float, limit: float, where: str = "") -> Check:
    """Passed where value <= limit; a NaN never is. The place is kept of a failure only."""
    passed = value <= limit
    return Check(rule, value, limit, passed, "" if passed else where)

"""Compares outputs with the fp64 oracle and says which rule failed, by how much, and where.

Every relative limit is factor x max(eager error, u): the eager reference's own error on the same inputs is the budget,
u is half the machine epsilon of the output dtype (without that floor, rows with few keys would accuse right kernels).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Mapping

from attnbench import reference
from attnbench.backend import Backend, Inputs, Outputs, trait
from attnbench.case import Case
from attnbench.diagnose import Diagnosis, diagnose
from attnbench.fp8 import FORMATS
from attnbench.nan_rule import swallowed_check, tainted_heads, without_heads
from attnbench.probe_rules import Known, own_checks, row_place
from attnbench.quantize import dequantize
from attnbench.record import Accuracy, Check
from attnbench.reference import Attention, Rows, visible_keys

if TYPE_CHECKING:
    from torch import Tensor

# Half the machine epsilon of the output dtype: fp16 has 10 fraction bits, bf16 (and so the output of 8-bit cases) 7.
HALF_EPSILON = {"fp16": 2.0**-11, "bf16": 2.0**-8, "e4m3": 2.0**-8, "e5m2": 2.0**-8}
# Each weight is rounded to the dtype's fraction bits (e4m3: by up to 2^-4 of itself), either way depending on the order
# of tiles. Where a few keys hold all the weight, one lucky rounding of the emulation would accuse right kernels: this
# part of a weight's rounding is left to them.
LUCKY_ROUNDING = 0.25
# The RMS of N errors of independent rows scatters by 1 / sqrt(2 N) of itself, the quotient of two such by 1 / sqrt(N).
# E1 is held to a small factor, so that below about 100 rows three times that has to be left to chance.
CHANCE_SIGMAS = 3.0
LSE_ABSOLUTE = 1e-3
LSE_RELATIVE = 4 * 2.0**-23
RMS_RATIO = 0.1


@dataclass(frozen=True, slots=True)
class Factors:
    """What multiplies the eager error to make a limit; the defaults held for 302,400 right results in simulation.

    max_error is partials_16bit where the kernel declares 16-bit partial results; fp8 bounds E1 by the emulation's.
    """

    max_error: float = 2.0
    partials_16bit: float = 3.0
    rmse: float = 1.5
    worst_row: float = 4.0
    fp8: float = 1.3


@dataclass(frozen=True, slots=True)
class Reference:
    """What the outputs of one case are held against; made once a case, used for every backend.

    originals: the oracle on the unquantized inputs, for 8-bit dtypes. budgets: the eager reference by accumulator, made when
    first asked for.
    """

    case: Case
    inputs: Inputs
    rows: Rows
    oracle: Attention
    originals: Attention | None
    budgets: dict[str, Attention] = field(default_factory=dict)

    def eager(self, accumulator: str) -> Attention:
        if accumulator not in self.budgets:
            self.budgets[accumulator] = reference.eager(self.case, self.inputs, self.rows, accumulator)
        return self.budgets[accumulator]


def make_reference(case: Case, inputs: Inputs, coverage: str = "auto") -> Reference:
    """The oracle at the rows that `coverage` ("auto", "full", "sampled") chooses."""
    rows = reference.choose_rows(case, coverage, inputs.q.device)
    exact = reference.oracle(case, inputs, rows)
    originals = reference.oracle(case, inputs, rows, originals=True) if case.is_fp8 else None
    return Reference(case, inputs, rows, exact, originals)


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

    Both are (batch, num_heads, rows, head_dim_v), fp64. Rows that are exactly zero in the oracle have no relative error.
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


def judge(ref: Reference, backend: Backend, outputs: Outputs, factors: Factors = Factors()) -> Accuracy:
    """Applies every rule to outputs whose types and shapes are already known to be right."""
    case, rows = ref.case, ref.rows
    exact = ref.oracle
    if case.is_fp8 and trait(backend, "own_quantizer"):
        exact = ref.originals
    budget = ref.eager(trait(backend, "accumulator"))
    tainted = tainted_heads(case, ref.inputs.v)
    out = outputs.out.transpose(1, 2).gather(2, rows.index[..., None].expand_as(exact.out)).double()
    checks = [_finite_check(outputs.out, tainted)]
    if tainted is not None:
        checks.append(swallowed_check(case, rows, ref.inputs.v, out))
    values: Mapping[str, float] = {}
    if checks[0].passed:
        out, exact_out, budget_out = (without_heads(x, tainted) for x in (out, exact.out, budget.out))
        checks += _blind_row_checks(case, rows, out)
        errors, eager = relative_errors(out, exact_out), relative_errors(budget_out, exact_out)
        checks += _error_checks(case, rows, errors, eager, factors, trait(backend, "partials_16bit"))
        checks += own_checks(_known(ref, backend, out, exact_out, budget_out))
        values = _values(ref, out, exact_out, errors, eager, tainted)
    if outputs.lse is not None:
        checks.append(_lse_check(ref, outputs.lse, exact.lse, budget.lse))
    return Accuracy(rows.coverage, rows.index.numel(), tuple(checks), values)


def diagnosed(ref: Reference, backend: Backend, outputs: Outputs, factors: Factors = Factors()) -> Diagnosis:
    """Where outputs that failed are wrong, and why most likely."""
    index = ref.rows.index
    out = outputs.out.transpose(1, 2).gather(2, index[..., None].expand_as(ref.oracle.out)).double()
    lse = None if outputs.lse is None else outputs.lse.gather(2, index).double()
    eager = ref.eager(trait(backend, "accumulator")).out
    worst, floor = relative_errors(eager, ref.oracle.out).worst_row, HALF_EPSILON[ref.case.dtype]
    return diagnose(ref, out, lse, eager, factors.worst_row * (max(worst, floor) if math.isfinite(worst) else floor))


def _known(ref: Reference, backend: Backend, out: Tensor, exact: Tensor, eager: Tensor) -> Known:
    quantized = None if trait(backend, "own_quantizer") else ref.inputs.quantized
    v = ref.inputs.v if quantized is None else dequantize(quantized.v, quantized.v_descale, ref.case)
    floor = HALF_EPSILON[ref.case.dtype] * (2 if trait(backend, "partials_16bit") else 1)
    exact_sums = trait(backend, "accumulator") == "fp32"
    return Known(ref.case, ref.inputs, ref.rows, v, out, exact, eager, floor, exact_sums)


def _finite_check(out: Tensor, tainted: Tensor | None) -> Check:
    """The whole output, not only the sampled rows: an element never written is NaN, since outputs start as NaN."""
    count, where = 0, ""
    for batch, element in enumerate(out):  # one at a time: a mask of the whole may be of gigabytes
        bad = ~element.isfinite()
        if tainted is not None:
            bad &= ~tainted[batch][None, :, None]
        found = int(bad.sum())
        if found and not count:
            row, head, column = (int(i) for i in bad.nonzero()[0])
            where = f"batch {batch}, head {head}, row {row}, column {column}"
        count += found
    return Check("non-finite outputs", count, 0, count == 0, where)


def _blind_row_checks(case: Case, rows: Rows, out: Tensor) -> list[Check]:
    """A row that sees no key has output exactly 0."""
    import torch

    blind = visible_keys(case, rows.index) == 0
    if not bool(blind.any()):
        return []
    largest = torch.where(blind, out.abs().amax(dim=-1), torch.zeros((), dtype=out.dtype, device=out.device))
    place = int(largest.argmax())
    value = float(largest.flatten()[place])
    return [_check("output of rows that see no key", value, 0.0, row_place(rows, place))]


def _error_checks(
    case: Case, rows: Rows, errors: Errors, eager: Errors, factors: Factors, partials_16bit: bool
) -> list[Check]:
    floor = HALF_EPSILON[case.dtype]
    max_floor = max(floor, LUCKY_ROUNDING * FORMATS[case.dtype].rounding) if case.is_fp8 else floor
    max_factor = factors.partials_16bit if partials_16bit else factors.max_error
    rmse_factor = factors.rmse
    if case.is_fp8:
        rmse_factor = max(factors.fp8, 1.0 + CHANCE_SIGMAS * rows.index.numel() ** -0.5)
    checks = [
        _check(
            "max error",
            errors.max_error,
            max_factor * max(eager.max_error, max_floor),
            row_place(rows, errors.max_place),
        ),
        _check("relative RMSE", errors.rmse, rmse_factor * max(eager.rmse, floor)),
        _check(
            "worst row's relative RMSE",
            errors.worst_row,
            factors.worst_row * max(eager.worst_row, floor),
            row_place(rows, errors.worst_place),
        ),
    ]
    checks.append(_check("RMS(out) / RMS(ref) - 1", abs(errors.rms_ratio - 1.0), max(RMS_RATIO, eager.rmse)))
    return checks


def _lse_check(ref: Reference, lse: Tensor, exact: Tensor, budget: Tensor) -> Check:
    """|lse - exact| relative to its own limit; places of -inf must agree. 8 bits: no less than 4 x the emulation's error."""
    import torch

    rows = ref.rows
    lse = lse.gather(2, rows.index).double()
    blind = exact == -math.inf
    error = (lse - exact).abs()
    allowed = LSE_ABSOLUTE + LSE_RELATIVE * exact.abs()
    if ref.case.is_fp8:
        allowed = allowed + 4 * (budget - exact).abs().masked_fill(blind, 0.0).amax()
    ratio = torch.where(blind, torch.where(lse == -math.inf, 0.0, math.inf), error / allowed)
    ratio = ratio.nan_to_num(nan=math.inf, posinf=math.inf)
    place = int(ratio.argmax())
    worst = ratio.flatten()[place]
    limit = LSE_ABSOLUTE if blind.flatten()[place] else float(allowed.flatten()[place])
    value = math.inf if not bool(worst.isfinite()) else float(worst) * limit
    return _check("LSE error", value, limit, row_place(rows, place))


def _values(
    ref: Reference, out: Tensor, exact: Tensor, errors: Errors, eager: Errors, tainted: Tensor | None
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
    if ref.originals is not None:
        values |= _fp8_values(ref, out, tainted)
    return values


def _fp8_values(ref: Reference, out: Tensor, tainted: Tensor | None) -> Mapping[str, float]:
    """E1 kernel, E2 quantization, E3 end to end: relative RMSEs."""
    exact, originals, emulated = (
        without_heads(x, tainted) for x in (ref.oracle.out, ref.originals.out, ref.eager("fp32").out)
    )
    return {
        "e1": relative_errors(out, exact).rmse,
        "e1_emulated": relative_errors(emulated, exact).rmse,
        "e2": relative_errors(exact, originals).rmse,
        "e3": relative_errors(out, originals).rmse,
    }


def _check(rule: str, value: float, limit: float, where: str = "") -> Check:
    passed = value <= limit  # False for NaN
    return Check(rule, value, limit, passed, "" if passed else where)

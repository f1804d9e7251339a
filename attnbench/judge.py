"""Compares outputs with the fp64 oracle and says which rule failed, by how much, and where.

Every relative limit is factor x max(eager error, u): the eager reference's own error on the same inputs is the budget,
u is half the machine epsilon of the output dtype (without that floor, rows with few keys would accuse right kernels).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from attnbench.backend import Backend, Inputs, Outputs, trait
from attnbench.case import Case
from attnbench.diagnose import Diagnosis, diagnose
from attnbench.error_rules import (
    HALF_EPSILON,
    Errors,
    beyond_rounding,
    bounded,
    error_checks,
    lse_check,
    relative_errors,
)
from attnbench.nan_rule import swallowed_check, tainted_heads, without_heads
from attnbench.probe_rules import Known, own_checks
from attnbench.records.record import Accuracy, Check
from attnbench.reference.oracle import Reference, Rows, row_place, visible_keys
from attnbench.reference.quantize import plain_inputs
from attnbench.rounding import rounding_bound, row_sum_bound
from attnbench.settings import Factors

if TYPE_CHECKING:
    from torch import Tensor


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
        largest, *others = error_checks(case, rows, errors, eager, factors, trait(backend, "partials_16bit"))

        def bound() -> Tensor:
            explained = rounding_bound(case, _plain(ref, backend), rows, exact.out, _unit(case, backend))
            return without_heads(explained, tainted) * (factors.max_error / Factors().max_error)

        checks += [beyond_rounding(largest, rows, out - exact_out, exact_out, bound), *others]
        checks += own_checks(case.inputs, lambda: _known(ref, backend, out, exact_out, budget_out))
        values = _values(ref, out, exact_out, errors, eager, tainted)
    if outputs.lse is not None:
        lse = outputs.lse.gather(2, rows.index).double()
        checks.append(lse_check(case, rows, lse, exact.lse, budget.lse, lambda: _row_sums(ref, backend)))
    return Accuracy(rows.coverage, rows.index.numel(), tuple(checks), values)


def diagnosed(ref: Reference, backend: Backend, outputs: Outputs, factors: Factors = Factors()) -> Diagnosis:
    """Where outputs that failed are wrong, and why most likely."""
    index = ref.rows.index
    out = outputs.out.transpose(1, 2).gather(2, index[..., None].expand_as(ref.oracle.out)).double()
    lse = None if outputs.lse is None else outputs.lse.gather(2, index).double()
    eager = ref.eager(trait(backend, "accumulator")).out
    worst, floor = relative_errors(eager, ref.oracle.out).worst_row, HALF_EPSILON[ref.case.dtype]
    return diagnose(ref, out, lse, eager, factors.worst_row * (max(worst, floor) if math.isfinite(worst) else floor))


def _plain(ref: Reference, backend: Backend) -> Inputs:
    """What the kernel was given, not quantized: 8 bits dequantized, or the originals."""
    return ref.inputs if trait(backend, "own_quantizer") else plain_inputs(ref.case, ref.inputs)


def _row_sums(ref: Reference, backend: Backend) -> Tensor:
    return row_sum_bound(ref.case, _plain(ref, backend), ref.rows)


def _unit(case: Case, backend: Backend) -> float:
    return HALF_EPSILON[case.dtype] * (2 if trait(backend, "partials_16bit") else 1)


def _known(ref: Reference, backend: Backend, out: Tensor, exact: Tensor, eager: Tensor) -> Known:
    return Known(
        ref.case, ref.rows, _plain(ref, backend).v, out, exact, eager, _unit(ref.case, backend),
        exact_accumulator=trait(backend, "accumulator") == "fp32",
        exact_v=not trait(backend, "own_quantizer"),
        exact_partials=not trait(backend, "partials_16bit"),
    )  # fmt: skip


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
    return [bounded("output of rows that see no key", value, 0.0, row_place(rows, place))]


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

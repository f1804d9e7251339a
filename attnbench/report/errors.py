"""The accuracy sections: errors against the fp64 oracle beside the eager reference's, and for e4m3 E1, E2 and E3."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from attnbench.case import DEFAULTS, DTYPES, Case
from attnbench.markdown import code, details, filled_table, table
from attnbench.records.record import LSE_ERROR, MAX_ERROR, RELATIVE_RMSE, WORST_ROW, Accuracy, Check
from attnbench.records.result import Result
from attnbench.report.data import FP8_ROW_FIELDS, Cells, Family, ReportData, row_label, show_field
from attnbench.units import error, significant

# Each judged error, and the eager reference's own under `accuracy.values` that its limit derives from.
RULES = ((RELATIVE_RMSE, "eager_rmse"), (WORST_ROW, "eager_worst_row"), (MAX_ERROR, "eager_max_error"))
JUDGED = (*(rule for rule, _ in RULES), LSE_ERROR)
FP8_VALUES = ("e1", "e1_emulated", "e2", "e3")
FP8_HEADERS = ("E1 kernel", "E1 emulated", "E2 quantization", "E3 end to end")
# Beyond this many rows the tables of every case are left to `attnbench.load`.
MAX_ERROR_ROWS = 2000


def error_sections(data: ReportData, plots: Sequence[str]) -> list[str]:
    """The worst of every kind of problem first, FP8's decomposition, then every case, folded."""
    judged = {key: result for key, result in data.cells.items() if result.record.accuracy}
    if not judged:
        return ["## Accuracy", "Nothing was checked."]
    parts = [
        "## Accuracy",
        "Errors against the fp64 oracle, relative to its RMS (the worst row: to that row's own). Ratio: error / limit, "
        "over 1 fails. Each row shows the worst over its cases; every case is folded below.",
        _glance(judged),
        *plots,
    ]
    decomposition = _fp8_table(judged)
    if decomposition:
        parts += [
            "### FP8: three errors",
            "E1: kernel against the oracle on the dequantized inputs; emulated: the same for the emulated pipeline, so "
            "that a kernel bug shows as E1 above it. E2: the oracle on the dequantized inputs against the one on the "
            "originals: what quantization costs, whatever the kernel. E3: kernel against the oracle on the originals. "
            "Relative RMSE, the worst over the cases of a row.",
            decomposition,
        ]
    if len(judged) <= MAX_ERROR_ROWS:
        parts += [
            details(f"Errors: {family.title}", _case_table(family)) for family in data.families if _judged(family)
        ]
    else:
        parts.append(f"{len(judged):,} results were checked: the errors of each are in `attnbench.load(run)`.")
    return parts


def _kind(case: Case) -> tuple[Any, ...]:
    """What accuracy depends on beside the shape: dtype, inputs and, for e4m3, the scheme."""
    return (case.dtype, case.inputs, *(getattr(case, name) for name in FP8_ROW_FIELDS))


def kind_title(case: Case) -> str:
    """`e4m3, outliers, block, hadamard on`: what differs from the defaults is named."""
    scheme = []
    if case.is_fp8:
        names = [name for name in FP8_ROW_FIELDS if name != "scaling" and getattr(case, name) != DEFAULTS[name]]
        scheme = [f"scaling {case.scaling}", *(f"{name} {show_field(case, name)}" for name in names)]
    return ", ".join([case.dtype, f"{case.inputs} inputs", *scheme])


def _by_kind(cells: Cells) -> Iterator[tuple[Case, str, list[Result]]]:
    """(a case of the kind, series, results), by dtype and then in the order of first appearance."""
    grouped: dict[tuple[tuple[Any, ...], str], list[Result]] = {}
    for (case, series), result in cells.items():
        grouped.setdefault((_kind(case), series), []).append(result)
    order = {kind: place for place, kind in enumerate(dict.fromkeys(_kind(case) for case, _ in cells))}
    for (_, series), group in sorted(
        grouped.items(), key=lambda item: (DTYPES.index(item[0][0][0]), order[item[0][0]])
    ):
        yield group[0].case, series, group


def _glance(judged: Cells) -> str:
    headers = ["problem", "backend", "checked", "failed", "relative RMSE", "eager's", "ratio", "worst row, ratio",
               "max error, ratio", "LSE, ratio"]  # fmt: skip
    rows = []
    for case, series, group in _by_kind(judged):
        worst = {rule: _worst(group, rule) for rule in JUDGED}
        result, check = worst[RELATIVE_RMSE]
        rows.append([
            kind_title(case), code(series), f"{len(group):,}",
            f"{sum(1 for result in group if result.record.status == 'incorrect'):,}",
            _value(check), _eager(result, "eager_rmse"), *(_ratio(worst[rule][1]) for rule in JUDGED),
        ])  # fmt: skip
    return table(headers, rows, left=2)


def _fp8_table(judged: Cells) -> str:
    """Empty where no record holds the decomposition."""
    held = {key: result for key, result in judged.items() if "e1" in accuracy_of(result).values}
    rows = []
    for case, series, group in _by_kind(held):
        columns = ([accuracy_of(result).values.get(name) for result in group] for name in FP8_VALUES)
        rows.append([kind_title(case), code(series), f"{len(group):,}", *map(_largest, columns)])
    return table(["problem", "backend", "cases", *FP8_HEADERS], rows, left=2) if rows else ""


def _case_table(family: Family) -> str:
    judged = _judged(family)
    fp8 = [name for name in FP8_VALUES if any(name in accuracy_of(result).values for result in judged.values())]
    headers = [*family.varying, "backend", "relative RMSE", "eager's", "ratio", "worst row", "eager's", "ratio",
               "max error", "eager's", "ratio", "LSE, ratio", *(FP8_HEADERS[FP8_VALUES.index(name)] for name in fp8),
               "rows compared"]  # fmt: skip
    order = {case: place for place, case in enumerate(family.cases)}
    rows = []
    for (case, series), result in sorted(judged.items(), key=lambda item: order[item[0][0]]):
        cells = [*row_label(case, family.varying), code(series)]
        accuracy = accuracy_of(result)
        for rule, eager in RULES:
            check = result.check(rule)
            cells += [_value(check), _eager(result, eager), _ratio(check)]
        cells.append(_ratio(result.check(LSE_ERROR)))
        cells += [_largest([accuracy.values.get(name)]) for name in fp8]
        cells.append(f"{accuracy.rows:,}" + (" (sampled)" if accuracy.coverage == "sampled" else ""))
        rows.append(cells)
    return filled_table(headers, rows, left=len(family.varying) + 1)


def _judged(family: Family) -> Mapping[tuple[Case, str], Result]:
    return {key: result for key, result in family.cells.items() if result.record.accuracy}


def accuracy_of(result: Result) -> Accuracy:
    """Of a result that was judged."""
    accuracy = result.record.accuracy
    assert accuracy is not None, "only results that were judged are asked for how they fared"
    return accuracy


def _worst(group: Sequence[Result], rule: str) -> tuple[Result | None, Check | None]:
    """The result, and its check, whose value is the largest part of its limit; None where the rule was not applied."""
    applied = ((result, check) for result in group if (check := result.check(rule)) is not None)
    return max(applied, key=lambda pair: ratio(pair[1]), default=(None, None))


def ratio(check: Check) -> float:
    """value / limit; infinite for NaN and for a violated limit of 0."""
    if math.isnan(check.value):
        return math.inf
    if check.limit == 0:
        return 0.0 if check.value == 0 else math.inf
    return check.value / check.limit


def _value(check: Check | None) -> str:
    return "—" if check is None else error(check.value)


def _ratio(check: Check | None) -> str:
    if check is None:
        return "—"
    shown = significant(ratio(check), 2)
    return shown if check.passed else f"**{shown}**"


def _eager(result: Result | None, name: str) -> str:
    return _largest([accuracy_of(result).values.get(name)]) if result else "—"


def _largest(values: Sequence[float | None]) -> str:
    held = [value for value in values if value is not None]
    return error(max(held)) if held else "—"

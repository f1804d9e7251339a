"""What the figures of a report show: results laid out by panel, in each of which only the sequence length varies."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from attnbench.case import Case, forward_flops
from attnbench.records.growth import LEAST_LENGTHS
from attnbench.records.record import RELATIVE_RMSE
from attnbench.records.result import Result
from attnbench.report.data import Cells, Family, ReportData, show_field
from attnbench.report.speed import TIE
from attnbench.units import TFLOPS_UNIT, RateUnit, lengths

PANEL_FIELDS = ("inputs", "seed", "scaling", "block_size", "hadamard", "p_scale", "softmax_scale")

Points = tuple[tuple[int, float], ...]
Value = Callable[[Result], float | None]


@dataclass(frozen=True)
class Panel:
    """One plot. lines: points (seqlen, value) by series; quiet: the same for grey lines of reference; spans: (seqlen,
    lowest, highest) by series, intervals of values that are wide enough to be seen. peak: in FLOP/s; unit: of rates.
    """

    dtype: str
    title: str
    lines: Mapping[str, Points]
    quiet: Mapping[str, Points] = field(default_factory=dict)
    failed: Points = ()
    spans: Mapping[str, tuple[tuple[int, float, float], ...]] = field(default_factory=dict)
    peak: float | None = None
    unit: RateUnit = TFLOPS_UNIT

    @property
    def lengths(self) -> tuple[int, ...]:
        """Those at which a series has a value, in order."""
        found = {length for points in self.lines.values() for length, value in points if math.isfinite(value)}
        return tuple(sorted(found))


def rate_panels(data: ReportData) -> list[Panel]:
    """Rates against seqlen, in the report's unit."""

    def rate(result: Result) -> float | None:
        return None if result.flops_per_s is None else result.flops_per_s / data.unit.flops_per_s

    return [
        Panel(
            dtype=cases[0].dtype,
            title=title,
            lines=_lines(cells, data.series, rate),
            spans=_spans(cells, data.unit),
            unit=data.unit,
            peak=_only({result.peak_flops_per_s for result in cells.values() if result.statistics}),
        )
        for family in data.families
        for title, cases, cells in _groups(family, rate)
    ]


def error_panels(data: ReportData) -> list[Panel]:
    """Relative RMSE against seqlen, with the eager reference's, the limit, and rings around what failed."""
    return [
        Panel(
            dtype=cases[0].dtype,
            title=title,
            lines=_lines(cells, data.series, _error),
            quiet=_reference(cells),
            failed=_failed(cells),
        )
        for family in data.families
        for title, cases, cells in _groups(family, _error)
    ]


def memory_panels(data: ReportData) -> list[Panel]:
    """Peak memory in bytes against seqlen, for each head_dim the panel of the most lengths, three at least."""
    best: dict[tuple[int, int], Panel] = {}
    for family in data.families:
        for title, cases, cells in _groups(family, _peak_bytes):
            dtype, dims = cases[0].dtype, (cases[0].head_dim, cases[0].head_dim_v)
            panel = Panel(dtype, f"{dtype}, {title}", _lines(cells, data.series, _peak_bytes))
            if len(panel.lengths) >= LEAST_LENGTHS and (
                dims not in best or len(panel.lengths) > len(best[dims].lengths)
            ):
                best[dims] = panel
    return [best[dims] for dims in sorted(best)]


def _peak_bytes(result: Result) -> float | None:
    measurement = result.record.measurement
    return None if measurement is None or not measurement.peak_bytes else float(measurement.peak_bytes)


def _spans(cells: Cells, unit: RateUnit) -> dict[str, tuple[tuple[int, float, float], ...]]:
    """Rates at both ends of the median's interval where half its width is over TIE."""
    spans: dict[str, list[tuple[int, float, float]]] = {}
    for (case, series), result in cells.items():
        interval, half = result.statistics.interval if result.statistics else None, result.half_width
        if interval is not None and half is not None and half > TIE:
            flops = forward_flops(case) / unit.flops_per_s
            ends = (case.seqlen_k, flops / interval.high_s, flops / interval.low_s)
            spans.setdefault(series, []).append(ends)
    return {series: tuple(sorted(found)) for series, found in spans.items()}


def _error(result: Result) -> float | None:
    """The relative RMSE where a logarithmic axis can show it: positive and finite."""
    value = result.check_value(RELATIVE_RMSE)
    return value if value is not None and 0 < value < math.inf else None


def _groups(family: Family, value: Value) -> Iterable[tuple[str, list[Case], Cells]]:
    """Parts of a family in which only the length varies, with a title; those with values at one length are left out."""
    groups: dict[tuple[Any, ...], dict[tuple[Case, str], Result]] = {}
    for key, result in family.cells.items():
        groups.setdefault(_panel_key(key[0]), {})[key] = result
    for group in list(groups.values()):
        for part in _split_batches(group):
            if len({case.seqlen_k for (case, _), result in part.items() if value(result) is not None}) > 1:
                cases = sorted({case for case, _ in part}, key=lambda case: (case.seqlen_k, case.seqlen_q))
                yield _panel_title(family, cases), cases, part


def _panel_key(case: Case) -> tuple[Any, ...]:
    fixed_q = None if case.seqlen_q == case.seqlen_k else case.seqlen_q
    return (fixed_q, *(getattr(case, name) for name in PANEL_FIELDS))


def _split_batches(group: Cells) -> list[Cells]:
    """One part where every length has one batch size, else a part for each batch size."""
    if len({(case.seqlen_k, series) for case, series in group}) == len(group):
        return [group]
    by_batch: dict[int, dict[tuple[Case, str], Result]] = {}
    for key, result in group.items():
        by_batch.setdefault(key[0].batch, {})[key] = result
    return list(by_batch.values())


def _panel_title(family: Family, cases: Sequence[Case]) -> str:
    """What tells the panel from others of its dtype: the family's title, then what varies there but not here."""
    parts = family.title.split(", ")[1:]
    parts += [f"{name} {show_field(cases[0], name)}" if name != "inputs" else f"{cases[0].inputs} inputs"
              for name in family.varying if name in PANEL_FIELDS]  # fmt: skip
    if any(case.seqlen_q != case.seqlen_k for case in cases):
        parts.append(f"seqlen_q {lengths(cases[0].seqlen_q)}")
    if "batch" in family.varying and len({case.batch for case in cases}) == 1:
        parts.append(f"batch {cases[0].batch}")
    return ", ".join(parts)


def _lines(cells: Cells, order: Sequence[str], value: Value) -> dict[str, Points]:
    """Points by series. A record without a value is NaN, which breaks the line there: no line through what failed."""
    points: dict[str, list[tuple[int, float]]] = {series: [] for series in order}
    for (case, series), result in cells.items():
        found = value(result)
        points[series].append((case.seqlen_k, math.nan if found is None else found))
    return {series: tuple(sorted(line)) for series, line in points.items() if finite([line])}


def finite(lines: Iterable[Iterable[tuple[int, float]]]) -> list[float]:
    """The values of some lines without their gaps."""
    return [value for line in lines for _, value in line if math.isfinite(value)]


def _reference(cells: Cells) -> dict[str, Points]:
    """The eager reference's own error, and the lowest limit at each length."""
    eager: dict[int, float] = {}
    limit: dict[int, float] = {}
    for (case, _), result in cells.items():
        check, accuracy = result.check(RELATIVE_RMSE), result.record.accuracy
        if check is not None and accuracy is not None:
            value = accuracy.values.get("eager_rmse") or 0.0
            eager[case.seqlen_k] = max(eager.get(case.seqlen_k, 0.0), value)
            limit[case.seqlen_k] = min(limit.get(case.seqlen_k, math.inf), check.limit)
    lines = {"eager reference": sorted(eager.items()), "lowest limit": sorted(limit.items())}
    drawable = {name: tuple(point for point in line if 0 < point[1] < math.inf) for name, line in lines.items()}
    return {name: line for name, line in drawable.items() if line}


def _failed(cells: Cells) -> Points:
    incorrect = [(case, result) for (case, _), result in cells.items() if result.record.status == "incorrect"]
    return tuple((case.seqlen_k, value) for case, result in incorrect if (value := _error(result)) is not None)


def _only(values: set[float | None]) -> float | None:
    return next(iter(values)) if len(values) == 1 else None

"""The speed sections: TFLOPS, speedup and % of peak by case and series, times with prep, and every figure, folded."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from attnbench import units
from attnbench.case import Case, compulsory_bytes
from attnbench.markdown import anonymous, code, details, filled_table, listing, plain, table
from attnbench.records.result import Result, TimedResult
from attnbench.records.stats import Statistics
from attnbench.report.data import Family, ReportData, TimedCells, preferred, row_label, timed_cells
from attnbench.units import RateUnit, significant

# Two medians closer than this are level: the margin that a gate would ask for, and above the usual A/A noise.
TIE = 0.01
# Beyond this many rows the full figures are left to `attnbench.load`; a page with more does not open.
MAX_FIGURE_ROWS = 2000
UNCONVERGED = "†"


def speed_sections(data: ReportData, plots: Sequence[str]) -> list[str]:
    """One section a family that holds at least one measurement; every statistic of it, folded, where they fit."""
    figures = len(data.timed) <= MAX_FIGURE_ROWS
    families = [family for family in data.families if family.timed]
    if not families:
        return ["## Speed", "Nothing was timed."]
    cells = Cell(data.unit, marked=not data.widths.mostly_loose)
    return [
        "## Speed",
        f"Each cell: {data.unit.name} · speedup over the baseline · % of the datasheet's peak, as far as there is one. "
        f"Bold: the fastest, and any within {100 * TIE:g} % of it. {_marks(data)}—: unsupported; empty: no record."
        + ("" if figures else f" {len(data.timed):,} measurements: all their figures are in `attnbench.load(run)`."),
        *plots,
        *(part for family in families for part in _family_section(family, cells, figures)),
    ]


@dataclass(frozen=True, slots=True)
class Cell:
    """How a result is shown. marked: with its interval and whether it converged; not where wide intervals are the rule,
    since every cell would have the marks."""

    unit: RateUnit
    marked: bool


def _marks(data: ReportData) -> str:
    if data.widths.mostly_loose:
        return f"No cell has a mark: {data.widths.loose:,} of {data.widths.timed:,} did not converge. "
    return (
        f"±: half the width of the median's interval, where over {100 * TIE:g} % (±?: too few samples to say). "
        f"{UNCONVERGED}: did not converge. "
    )


def _family_section(family: Family, cell: Cell, figures: bool) -> list[str]:
    shown = family.timed_series
    hidden = [series for series in family.series if series not in shown]
    parts = [f"### {family.title}", _caption(family), _rate_table(family, shown, cell), _time_table(family, shown)]
    if hidden:
        parts.append(
            f"No measurement here, see [incomplete cases](#incomplete-cases): {listing(list(map(code, hidden)))}."
        )
    if figures:
        parts.append(details("All figures", _figure_table(family, cell)))
    return parts


def _caption(family: Family) -> str:
    sentences = [f"Constant: {family.constants}."]
    if family.baseline:
        sentences.append(f"Speedup over {code(family.baseline)}.")
    peaks = _known(result.peak_flops_per_s for result in family.timed.values())
    if peaks:
        sentences.append(f"Peak: {listing([f'{significant(peak / 1e12, 4)} TFLOPS' for peak in peaks])}.")
    elif not any(result.gemm_flops_per_s for result in family.timed.values()):
        sentences.append("No peak is known for this machine.")
    gemms = _known(result.gemm_flops_per_s for result in family.timed.values())
    if gemms:
        shown = listing([units.show_rate(gemm, 4) for gemm in gemms])
        sentences.append(f"The run's own bf16 GEMM: {shown}{'' if peaks else ' (the % are of it)'}.")
    return " ".join(sentences)


def _known(rates: Iterable[float | None]) -> list[float]:
    """Those that there are, each once, in order."""
    return sorted({rate for rate in rates if rate is not None})


def _rate_table(family: Family, shown: Sequence[str], cell: Cell) -> str:
    rows = []
    for case, best_s in family.best_s.items():
        base = family.timed.get((case, family.baseline)) if family.baseline else None
        rows.append(
            row_label(case, family.varying)
            + [
                _rate_cell(family.cells.get((case, series)), best_s, base, series == family.baseline, cell)
                for series in shown
            ]
        )
    return table([*family.varying, *map(code, shown)], rows, left=len(family.varying))


def _rate_cell(result: Result | None, best_s: float, base: TimedResult | None, is_base: bool, cell: Cell) -> str:
    if not isinstance(result, TimedResult):
        return outcome(result)
    rates = " or ".join(map(cell.unit.show, result.rates_flops_per_s))
    if len(result.speeds_s) > 1:
        return f"{rates} {UNCONVERGED}"
    parts = [rates]
    if result.time_s <= best_s * (1 + TIE):
        parts[0] = f"**{parts[0]}**"
    if cell.marked and (result.half_width is None or result.half_width > TIE):
        parts[0] += plus_minus(result)
    if base is not None and not is_base:
        parts.append(speedup(base.time_s / result.time_s))
    ceiling = result.peak_flops_per_s or result.gemm_flops_per_s
    if ceiling:
        parts.append(percent(result.flops_per_s / ceiling))
    return " · ".join(parts) + _loose(result, cell)


def _loose(result: TimedResult, cell: Cell) -> str:
    return f" {UNCONVERGED}" if cell.marked and not result.measurement.converged else ""


def _time_table(family: Family, shown: Sequence[str]) -> str:
    """Median times; for e4m3 the kernel's alone and with its prep, or quantizing would look free."""
    fp8 = family.cases[0].is_fp8
    rows = [
        row_label(case, family.varying) + [_time_cell(family.cells.get((case, series)), fp8) for series in shown]
        for case in family.best_s
    ]
    about = "Time of a call (median):"
    if fp8:
        about = f"Time of a call, kernel only / prep + kernel. {_prep_caption(family)}:"
    return f"{about}\n\n{table([*family.varying, *map(code, shown)], rows, left=len(family.varying))}"


def _prep_caption(family: Family) -> str:
    """What the prep of each series is: "Prep of `fa3`, `fp8_emulated`: attnbench's reference quantizer"."""
    series_of: dict[str, list[str]] = {}
    for (_, series), result in family.timed.items():
        named = series_of.setdefault(plain(anonymous(result.prep_about)), [])
        if series not in named:
            named.append(series)
    return "; ".join(f"Prep of {', '.join(map(code, named))}: {about}" for about, named in series_of.items())


def _time_cell(result: Result | None, fp8: bool) -> str:
    if not isinstance(result, TimedResult):
        return outcome(result)
    kernel = _times(result)
    if not fp8:
        return kernel
    return f"{kernel} / {_times(result, result.prep_s)}"


def _times(result: TimedResult, more_s: float = 0.0) -> str:
    """The median, or both speeds of a call that has two, and so much more."""
    return " or ".join(units.show_time(time_s + more_s) for time_s in result.speeds_s)


def _figure_table(family: Family, cell: Cell) -> str:
    headers = [*family.varying, "backend", "median", "p10 – p90", "CI of median", "min", "stdev", "samples", "outliers",
               "prep", "prep + kernel", "compile", "peak memory", "GB/s", "% of GEMM"]  # fmt: skip
    order = {case: place for place, case in enumerate(family.cases)}
    timed = sorted(family.timed.items(), key=lambda item: order[item[0][0]])
    rows = [
        [*row_label(case, family.varying), code(series), *_figures(result, cell)] for (case, series), result in timed
    ]
    return filled_table(headers, rows, left=len(family.varying) + 1)


def _figures(result: TimedResult, cell: Cell) -> list[str]:
    stats, measurement = result.statistics, result.measurement
    time, interval = units.show_time, stats.interval
    spread = "—" if stats.relative_stdev is None else f"{100 * stats.relative_stdev:.2f} %"
    taken = str(stats.count) if stats.count == stats.sample_count else f"{stats.count} of {stats.sample_count}"
    gemm = result.gemm_flops_per_s
    half = "—"
    if interval is not None:
        half = f"±{100 * interval.half_width(stats.median_s):.2f} %"
        if interval.coverage < 0.95:
            half += f" ({100 * interval.coverage:.0f} %)"
    return [
        _times(result) + _loose(result, cell),
        f"{time(stats.p10_s)} – {time(stats.p90_s)}",
        half,
        time(stats.min_s),
        spread,
        taken,
        str(stats.outliers),
        time(result.prep_s),
        _times(result, result.prep_s),
        time(measurement.compile_s),
        units.show(measurement.peak_bytes, units.BYTES),
        significant(compulsory_bytes(result.case) / stats.median_s / 1e9, 3),
        "—" if gemm is None else percent(result.flops_per_s / gemm),
    ]


def outcome(result: Result | None) -> str:
    """What stands in a cell that has no measurement."""
    if result is None:
        return ""
    record = result.record
    return {"unsupported": "—", "ok": "checked", "incorrect": "incorrect"}.get(record.status, record.kind or "error")


def plus_minus(result: Result) -> str:
    """` ±0.21 %`: half the width of the median's interval; ` ±?` where there are too few samples for one."""
    half = result.half_width
    return " ±?" if half is None else f" ±{significant(100 * half, 2)} %"


def speedup(ratio: float) -> str:
    return f"{significant(ratio, 3)}x"


def percent(fraction: float) -> str:
    return f"{100 * fraction:.0f} %" if fraction >= 0.1 else f"{100 * fraction:.1f} %"


# Who is fastest: each case that several series were timed on is a race, with a winner and a lead, or level.


@dataclass(frozen=True, slots=True)
class Race:
    """One case that at least two series were timed on. lead: the runner-up's median time over the winner's.

    level: too close to call: another, not only the runner-up, is within TIE, or the intervals of the medians overlap
    (where a measurement has too few samples for one, from its 10th to its 90th percentile). follower: the other that is
    as close as any, the runner-up but where only a third's interval reaches the winner's.
    """

    case: Case
    winner: str
    follower: str
    lead: float
    level: bool


@dataclass(frozen=True, slots=True)
class Field:
    """Everything that was timed with one dtype, what speedups are over, and its races."""

    timed: TimedCells
    baseline: str | None
    races: Sequence[Race]


def fields(data: ReportData) -> dict[str, Field]:
    """By dtype, or by dtype and run where runs stand side by side; also those of which nothing was timed."""
    found = {}
    for dtype, cells in data.by_dtype.items():
        timed = timed_cells(cells)
        found[dtype] = Field(timed, preferred(timed), races(timed))
    return found


def races(timed: TimedCells) -> list[Race]:
    """Every case with at least two measurements, in the order of `timed`."""
    times: dict[Case, list[tuple[float, str]]] = {}
    for (case, series), result in timed.items():
        times.setdefault(case, []).append((result.time_s, series))
    found = []
    for case, entries in times.items():
        if len(entries) > 1:
            (best_s, winner), *others = sorted(entries)
            _, high_s = bounds(timed[case, winner].statistics)
            lows = {series: bounds(timed[case, series].statistics)[0] for _, series in others}
            near = [name for time_s, name in others if time_s <= best_s * (1 + TIE) or lows[name] <= high_s]
            next_s, follower = others[0]
            found.append(Race(case, winner, near[0] if near else follower, next_s / best_s, bool(near)))
    return found


def bounds(found: Statistics) -> tuple[float, float]:
    """Of the median, in seconds: its interval, or the 10th and 90th percentile where there are too few samples."""
    interval = found.interval
    return (found.p10_s, found.p90_s) if interval is None else (interval.low_s, interval.high_s)


def wins(found: Iterable[Race]) -> Counter[str]:
    """How many races each series won clearly."""
    return Counter(race.winner for race in found if not race.level)


def close(found: Iterable[Race]) -> Counter[str]:
    """In how many races that are too close to call each series is one of the two in front."""
    return Counter(series for race in found if race.level for series in (race.winner, race.follower))


def leads(found: Iterable[Race], series: str) -> list[float]:
    """How far ahead of the next the series was where it won clearly."""
    return [race.lead for race in found if not race.level and race.winner == series]


def ratios(timed: TimedCells, series: str, over: str | None) -> list[float]:
    """Speedups of a series over another, on every case that both were timed on."""
    mine = {case: result.time_s for (case, name), result in timed.items() if name == series}
    theirs = {case: result.time_s for (case, name), result in timed.items() if name == over}
    return [theirs[case] / time_s for case, time_s in mine.items() if case in theirs]


def mean_and_range(values: Sequence[float], show: Callable[[float], str]) -> str:
    """The geometric mean, and the lowest and highest where they read otherwise; a dash where there is none."""
    if not values:
        return "—"
    mean, low, high = show(statistics.geometric_mean(values)), show(min(values)), show(max(values))
    return mean if low == high else f"{mean} ({low} – {high})"

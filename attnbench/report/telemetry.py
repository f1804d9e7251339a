"""What the machine did while it was measured: clocks, power, energy, flags, discarded blocks; sentinels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from attnbench import units
from attnbench.markdown import code, details, filled_table, plain, table
from attnbench.records.result import Observed, TimedResult
from attnbench.records.sentinels import DRIFT_LIMIT, GEMM, drifts, figures
from attnbench.report.data import Family, LabelledRun, ReportData
from attnbench.report.speed import percent
from attnbench.units import significant

NONE = "—"
HEADERS = ("SM clock", "power", "temperature", "pJ/FLOP", "% of peak at that clock", "% of own GEMM", "CPU clock",
           "load", "stolen", "flags", "discarded blocks")  # fmt: skip


def telemetry_section(data: ReportData) -> list[str]:
    """A row for each dtype, folded one for each series of a family, and one for each figure of a run's sentinels; []
    where nobody watched."""
    rows = [
        [family.title, code(series), *_cells(members)]
        for family in data.families
        for series, members in _series(family)
    ]
    watched = [row for row in rows if any(cell != NONE for cell in row[2:])]
    parts = []
    if watched:
        about = (
            "Means over the blocks that were kept, from the lowest case to the highest. Energy: mean power / rate. "
            "Flags: measurements that have one, of all."
        )
        by_dtype = [[dtype, *_cells(members)] for dtype, members in _dtypes(data)]
        by_family = filled_table(["family", "backend", *HEADERS], watched, left=2)
        parts = [about, filled_table(["dtype", *HEADERS], by_dtype), details("By family and backend", by_family)]
    sentinels = [row for entry in data.runs for row in _sentinel_rows(entry)]
    if sentinels:
        headers = ["run", "sentinel", "taken", "first", "last", "lowest", "highest", "drift"]
        parts += [
            f"Sentinels, the same work again and again; a drift over {DRIFT_LIMIT:.0%} makes a run suspect:",
            table(headers, sentinels, left=2),
        ]
    return ["## The machine meanwhile", *parts] if parts else []


def _dtypes(data: ReportData) -> Iterator[tuple[str, list[TimedResult]]]:
    for dtype, cells in data.by_dtype.items():
        timed = [result for result in cells.values() if isinstance(result, TimedResult)]
        if timed:
            yield dtype, timed


def _series(family: Family) -> Iterator[tuple[str, list[TimedResult]]]:
    for series in family.timed_series:
        yield series, [result for (_, name), result in family.timed.items() if name == series]


def _cells(members: Sequence[TimedResult]) -> list[str]:
    seen = [Observed.of(result.measurement) for result in members]
    return [
        _range([one.sm_clock_mhz for one in seen], "MHz"),
        _range([one.power_w for one in seen], "W"),
        _range([one.temperature_c for one in seen], "C"),
        _digits([result.joules_per_flop and result.joules_per_flop * 1e12 for result in members]),
        _share(members, "peak_at_clock_flops_per_s"),
        _share(members, "gemm_flops_per_s") if any(one != Observed() for one in seen) else NONE,
        _range([one.cpu_clock_mhz for one in seen], "MHz"),
        _digits([one.load for one in seen]),
        _percents([one.stolen for one in seen]),
        _flags(members),
        _discarded(members),
    ]


def _range(values: Sequence[float | None], unit: str) -> str:
    known = [value for value in values if value is not None]
    return f"{_between(f'{min(known):.0f}', f'{max(known):.0f}')} {unit}" if known else NONE


def _digits(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return _between(significant(min(known), 3), significant(max(known), 3)) if known else NONE


def _percents(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return _between(percent(min(known)), percent(max(known))) if known else NONE


def _share(members: Sequence[TimedResult], ceiling: str) -> str:
    limits = ((result.flops_per_s, getattr(result, ceiling)) for result in members)
    return _percents([rate / limit for rate, limit in limits if rate and limit])


def _between(low: str, high: str) -> str:
    return low if low == high else f"{low} – {high}"


def _flags(members: Sequence[TimedResult]) -> str:
    flags = Counter(flag for result in members for flag in result.measurement.flags)
    return ", ".join(f"{code(flag)} {number} of {len(members)}" for flag, number in sorted(flags.items())) or NONE


def _discarded(members: Sequence[TimedResult]) -> str:
    causes: Counter[str] = Counter()
    for result in members:
        causes.update(result.measurement.discarded)
    return ", ".join(f"{number} ({plain(cause)})" for cause, number in sorted(causes.items())) or NONE


def _sentinel_rows(entry: LabelledRun) -> Iterator[list[str]]:
    for drift in drifts(entry.run.sentinels):
        values = figures(entry.run.sentinels, drift.figure)
        shown = [_rate(drift.figure, value) for value in (values[0], values[-1], drift.lowest, drift.highest)]
        name = _gemm_name(entry) if drift.figure == GEMM else drift.name
        yield [code(entry.run.name), name, str(drift.count), *shown, percent(drift.relative)]


def _gemm_name(entry: LabelledRun) -> str:
    dtypes = dict.fromkeys(str(row["gemm_dtype"]) for row in entry.run.sentinels if row.get("gemm_dtype"))
    return " ".join((*map(plain, dtypes), "GEMM"))


def _rate(figure: str, value: float) -> str:
    return units.show(value / 1e12, units.TFLOPS) if figure == GEMM else units.show(value, units.BYTES_PER_S)

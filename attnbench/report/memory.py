"""Peak memory by sequence length, and the exponent by which it grows, for each backend and head_dim."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from attnbench.markdown import code, listing, table
from attnbench.records.growth import LEAST_LENGTHS, Growth, growth, memory_curves
from attnbench.records.measurement import ALLOCATOR, PROCESS
from attnbench.records.stats import CONFIDENCE
from attnbench.report.data import ReportData
from attnbench.units import count, lengths, show_bytes

ABOUT = (
    "The most bytes that one preparation and call hold above what was held before, inputs included. They grow as "
    "seqlen^exponent: 1 is linear, as FlashAttention claims of itself; 2 is quadratic, as the scores of standard "
    "attention are."
)
FIT = (
    f"Fitted on problems with at least {LEAST_LENGTHS} lengths, queries as long as keys: least squares of log(bytes) "
    "on log(seqlen), one exponent for all curves and a constant for each; curves of equal bytes, or part of another, "
    f"count once. Bytes repeat exactly, so the {100 * CONFIDENCE:.0f} % interval (Student's t on the residuals) says "
    "how well one power fits these lengths; terms of lower order widen it. Last: between the two longest lengths. "
    "Counted by the process: its resident memory, since not all was torch's."
)

Fits = Mapping[tuple[str, int, int], Growth]


def memory_section(data: ReportData, plots: Sequence[str]) -> list[str]:
    """A row for each series and head_dim whose peak memory is known at enough lengths; [] where none is."""
    fits = _fits(data)
    if not fits:
        return []
    headers = ["backend", "head_dim", "seqlen", "peak at the shortest", "at the longest", "exponent",
               f"{100 * CONFIDENCE:.0f} % interval", "last", "fitted on", "counted by"]  # fmt: skip
    rows = [_row(series, dims, fit, _counted(data, series)) for (series, *dims), fit in fits.items()]
    return ["## Memory", ABOUT, *plots, table(headers, rows, left=3), FIT]


def memory_headline(data: ReportData) -> Iterator[str]:
    """The exponents of each series, in one line."""
    held: dict[str, list[Growth]] = {}
    for (series, *_), fit in _fits(data).items():
        held.setdefault(series, []).append(fit)
    if held:
        named = [f"{code(series)} as seqlen^{_range([fit.exponent for fit in of])}" for series, of in held.items()]
        ends = [end for of in held.values() for fit in of for end in fit.lengths]
        yield f"- Peak memory grows from {lengths(min(ends))} to {lengths(max(ends))} tokens: {listing(named)}."


def _fits(data: ReportData) -> Fits:
    """In the order of head_dim, then of series."""
    fits = {key: growth(curves) for key, curves in memory_curves(data.timed).items()}
    known = {key: fit for key, fit in fits.items() if fit is not None}
    order = {series: place for place, series in enumerate(data.series)}
    return {key: known[key] for key in sorted(known, key=lambda key: (*key[1:], order[key[0]]))}


def _row(series: str, dims: Sequence[int], fit: Growth, counted_by: str) -> list[str]:
    head_dim, head_dim_v = dims
    shortest, longest = fit.lengths
    return [
        code(series),
        f"{head_dim}" if head_dim == head_dim_v else f"{head_dim}/{head_dim_v}",
        f"{lengths(shortest)} – {lengths(longest)}",
        _highest(fit, shortest),
        _highest(fit, longest),
        f"{fit.exponent:.2f}",
        f"{fit.low:.2f} – {fit.high:.2f}",
        f"{fit.last:.2f}",
        f"{count(fit.points, 'peak')}, {count(len(fit.curves), 'curve')}",
        counted_by,
    ]


def _highest(fit: Growth, seqlen: int) -> str:
    return show_bytes(max(size for curve in fit.curves for length, size in curve if length == seqlen))


def _counted(data: ReportData, series: str) -> str:
    held = {result.measurement.peak_by for (_, name), result in data.timed.items() if name == series}
    return listing([by for by in (ALLOCATOR, PROCESS) if by in held])


def _range(values: Sequence[float]) -> str:
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return low if low == high else f"{low} to {high}"

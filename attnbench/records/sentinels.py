"""What a run's sentinels say: fixed work measured at the start, every few minutes and at the end, and its drift.

A machine whose own GEMM or copy rate moved by more than DRIFT_LIMIT between two sentinels did not hold still: the run
is suspect. Facts only, and how they are read; the work itself is in `timing.sentinel`.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attnbench.units import rate_unit

START, PERIODIC, END = "start", "periodic", "end"
# A run with something left to time looks at the machine again after so long.
PERIOD_S = 300.0
DRIFT_LIMIT = 0.02
# The system's clock may be slewed by a time server; a jump of more than this was set by hand.
CLOCK_STEP_S = 1.0
GEMM, COPY = "gemm_flops_per_s", "copy_bytes_per_s"
_NAMES = {GEMM: "GEMM", COPY: "copy"}


@dataclass(frozen=True, slots=True)
class Drift:
    """How far one figure moved over a run: (highest - lowest) / median, from `count` sentinels."""

    figure: str
    lowest: float
    highest: float
    relative: float
    count: int

    @property
    def name(self) -> str:
        return _NAMES[self.figure]


def drifts(rows: Sequence[Mapping[str, Any]]) -> tuple[Drift, ...]:
    """Of each figure that at least two sentinels hold."""
    found = []
    for figure in (GEMM, COPY):
        values = figures(rows, figure)
        if len(values) > 1:
            relative = (max(values) - min(values)) / statistics.median(values)
            found.append(Drift(figure, min(values), max(values), relative, len(values)))
    return tuple(found)


def gemm_flops_per_s(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """The run's own bf16 GEMM rate, the median over its sentinels; None where there is none (a CPU's is fp32)."""
    values = figures([row for row in rows if row.get("gemm_dtype") == "bf16"], GEMM)
    return statistics.median(values) if values else None


def gemm_range(rows: Sequence[Mapping[str, Any]]) -> tuple[float, float, float] | None:
    """(lowest, median, highest) rate of the sentinels' GEMM, of whichever dtype it is; None where there is none."""
    values = figures(rows, GEMM)
    return (min(values), statistics.median(values), max(values)) if values else None


def suspicions(rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Why the run's numbers are not to be trusted, in words; () where nothing speaks against them."""
    return (*_drifted(rows), *_failed(rows), *_clock_set(rows))


def why_suspect(environment: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """`suspicions`, and what the environment's key `suspect` says, which somebody wrote there."""
    given = environment.get("suspect")
    words = ("marked so in its environment",) if given is True else (str(given),) if given else ()
    return words + suspicions(rows)


def _drifted(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for drift in drifts(rows):
        if drift.relative > DRIFT_LIMIT:
            yield (
                f"its own {drift.name} rate moved by {drift.relative:.1%} over {drift.count} sentinels "
                f"({_rate(drift, drift.lowest)} to {_rate(drift, drift.highest)}, "
                f"limit {DRIFT_LIMIT:.0%})"
            )


def _failed(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    failed = [row for row in rows if row.get("error")]
    if failed:
        number = f"{len(failed)} of {len(rows)} sentinels"
        yield f"{number} could not be measured, the first at its {failed[0].get('role')}: {failed[0]['error']}"


def _clock_set(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """NOTE: times in records run on evenly (`sampling.SystemClock`); only the dates in them can be wrong."""
    steps = [row["clock_step_s"] for row in rows if abs(row.get("clock_step_s") or 0.0) > CLOCK_STEP_S]
    if steps:
        largest = max(steps, key=abs)
        yield f"the system's clock was set {'back' if largest < 0 else 'forward'} by {abs(largest):.4g} s while it ran"


def figures(rows: Sequence[Mapping[str, Any]], figure: str) -> list[float]:
    """The figure (GEMM or COPY) of every sentinel that holds it, in the order they were taken."""
    return [row[figure] for row in rows if isinstance(row.get(figure), (int, float)) and row[figure] > 0]


def _rate(drift: Drift, value: float) -> str:
    """In one unit for both ends."""
    if drift.figure != GEMM:
        return f"{value / 1e9:.4g} GB/s"
    unit = rate_unit(drift.lowest, drift.highest)
    return f"{value / unit.flops_per_s:.4g} {unit.name}"

"""Backends of one run held against each other: does each floor (`attnbench.floor`) hold, case by case or on the mean?

A ratio is of medians. Where both took turns in the same rounds its interval is that of the rounds' own ratios, so that
what slows both counts for nothing; else it is as wide as both medians' intervals allow.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from attnbench.case import Case
from attnbench.compare.differences import process_differences, round_differences
from attnbench.compare.pairs import took_turns
from attnbench.floor import GEMM, Floor
from attnbench.records.measurement import TWO_SPEEDS
from attnbench.records.result import TimedResult, latest, results
from attnbench.records.sentinels import gemm_range
from attnbench.records.stats import interval, units_needed
from attnbench.records.store import Run

HOLDS, BELOW, UNDECIDED_FLOOR, NOTHING = "holds", "below", "undecided", "nothing to compare"


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times as fast, with the bounds of its 95 % interval; these are infinitely far apart where the samples
    say nothing of it."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if not math.isfinite(self.high):
            return f"{self.value:.3g} times, interval unknown"
        return f"{self.value:.3g} times ({self.low:.3g} to {self.high:.3g})"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a floor comes to on one case, or on the mean over `count` of them (case_key "")."""

    floor: Floor
    kind: str
    case_key: str = ""
    ratio: Ratio | None = None
    count: int = 1

    def __str__(self) -> str:
        if self.ratio is None:
            return f"{self.floor}: {NOTHING}, no case was timed with both"
        where = self.case_key or f"geometric mean over {self.count}"
        words = {HOLDS: "holds", BELOW: "does not hold", UNDECIDED_FLOOR: "cannot be told"}[self.kind]
        return f"{self.floor}: {words}, {where}: {self.ratio}"


def find(floors: Sequence[Floor], run: Run) -> list[Finding]:
    """What every floor comes to in a run."""
    timed = {
        (one.case, one.backend): one.as_used for one in latest(results(run)) if isinstance(one, TimedResult)
    }  # fmt: skip
    gemm = gemm_range(run.sentinels)
    return [finding for floor in floors for finding in _findings(floor, timed, gemm)]


def _findings(
    floor: Floor, timed: dict[tuple[Case, str], TimedResult], gemm: tuple[float, float, float] | None
) -> Iterator[Finding]:
    ratios: list[tuple[str, Ratio]] = []
    for (case, backend), own in timed.items():
        if backend != floor.backend or not floor.takes(case):
            continue
        if floor.over == GEMM:
            if gemm is not None and not case.is_fp8:
                ratios.append((case.key, _beside_gemm(own, gemm)))
        elif (case, floor.over) in timed:
            ratios.append((case.key, _beside(own, timed[case, floor.over])))
    if not ratios:
        yield Finding(floor, NOTHING)
    elif floor.geomean:
        mean = _geometric_mean([ratio for _, ratio in ratios])
        yield Finding(floor, _kind(floor, mean), "", mean, len(ratios))
    else:
        for key, ratio in ratios:
            yield Finding(floor, _kind(floor, ratio), key, ratio)


def _kind(floor: Floor, ratio: Ratio) -> str:
    if ratio.low >= floor.factor:
        return HOLDS
    return BELOW if ratio.high < floor.factor else UNDECIDED_FLOOR


def _beside(own: TimedResult, other: TimedResult) -> Ratio:
    mine, theirs = own.measurement, other.measurement
    if TWO_SPEEDS in (*mine.flags, *theirs.flags):  # no median is either speed
        value = other.time_s / own.time_s
        return Ratio(value, 0.0, math.inf)
    if took_turns(mine, theirs):
        processes = list(process_differences(mine.blocks, theirs.blocks).values())
        logs = processes if len(processes) >= units_needed() else round_differences(mine.blocks, theirs.blocks)
        if len(logs) >= units_needed():
            bounds = interval(logs, "round")
            return Ratio(*(math.exp(log) for log in (statistics.median(logs), bounds.low_s, bounds.high_s)))
    value = other.time_s / own.time_s
    if own.statistics.interval is None or other.statistics.interval is None:
        return Ratio(value, 0.0, math.inf)
    low = other.statistics.interval.low_s / own.statistics.interval.high_s
    return Ratio(value, low, other.statistics.interval.high_s / own.statistics.interval.low_s)


def _beside_gemm(own: TimedResult, gemm: tuple[float, float, float]) -> Ratio:
    """gemm: (lowest, median, highest) rate of the run's sentinels."""
    lowest, median, highest = gemm
    bounds = own.statistics.interval
    value = own.flops_per_s / median
    if bounds is None or TWO_SPEEDS in own.measurement.flags:
        return Ratio(value, 0.0, math.inf)
    flops = own.flops_per_s * own.time_s
    return Ratio(value, flops / bounds.high_s / highest, flops / bounds.low_s / lowest)


def _geometric_mean(ratios: Sequence[Ratio]) -> Ratio:
    """With the bounds of independent cases: half widths add as squares."""
    logs = [math.log(one.value) for one in ratios]
    mean = statistics.fmean(logs)
    if any(one.low <= 0 or not math.isfinite(one.high) for one in ratios):
        return Ratio(math.exp(mean), 0.0, math.inf)
    below = math.hypot(*(log - math.log(one.low) for log, one in zip(logs, ratios))) / len(ratios)
    above = math.hypot(*(math.log(one.high) - log for log, one in zip(logs, ratios))) / len(ratios)
    return Ratio(math.exp(mean), math.exp(mean - below), math.exp(mean + above))


def told(run: Run, status: str) -> list[str]:
    """A run's records of a status (`incorrect`, `error`), of which no floor says anything, a line each."""
    found = [one.record for one in latest(results(run)) if one.record.status == status]
    return [f"{one.backend} on {one.case_key}: {one.kind or one.status}: {one.reason}" for one in found]

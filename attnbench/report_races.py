"""Who is fastest: each case that several series were timed on is a race, with a winner and a lead, or level."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from attnbench.case import Case
from attnbench.records.stats import Statistics
from attnbench.report_data import Cells
from attnbench.report_speed import TIE


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


def races(cells: Cells) -> list[Race]:
    """Every case with at least two measurements, in the order of `cells`."""
    times: dict[Case, list[tuple[float, str]]] = {}
    for (case, series), result in cells.items():
        if result.statistics:
            times.setdefault(case, []).append((result.time_s, series))
    found = []
    for case, entries in times.items():
        if len(entries) > 1:
            (best_s, winner), *others = sorted(entries)
            _, high_s = _bounds(cells[case, winner].statistics)
            lows = {series: _bounds(cells[case, series].statistics)[0] for _, series in others}
            near = [name for time_s, name in others if time_s <= best_s * (1 + TIE) or lows[name] <= high_s]
            next_s, follower = others[0]
            found.append(Race(case, winner, near[0] if near else follower, next_s / best_s, bool(near)))
    return found


def _bounds(found: Statistics) -> tuple[float, float]:
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


def ratios(timed: Cells, series: str, over: str | None) -> list[float]:
    """Speedups of a series over another, on every case that both were timed on."""
    mine = {case: result.time_s for (case, name), result in timed.items() if name == series}
    theirs = {case: result.time_s for (case, name), result in timed.items() if name == over}
    return [theirs[case] / time_s for case, time_s in mine.items() if case in theirs]


def mean_and_range(values: Sequence[float], show) -> str:
    """The geometric mean, and the lowest and highest where they read otherwise; a dash where there is none."""
    if not values:
        return "—"
    mean, low, high = show(statistics.geometric_mean(values)), show(min(values)), show(max(values))
    return mean if low == high else f"{mean} ({low} – {high})"

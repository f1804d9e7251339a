"""A comparison in words: the lines above its table, the rows of the table, what came up besides times, the notes.

The terminal, the step summary of a CI job and JUnit files all say the same with these.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from attnbench.compare.comparison import Cell, Comparison
from attnbench.compare.differences import PROCESS
from attnbench.compare.margin import percent, signed
from attnbench.compare.regressions import BROKEN, ERROR, FAILS_AS_BEFORE, KERNEL, MEMORY, WRONG
from attnbench.compare.verdict import FASTER, INCONCLUSIVE, KINDS, LIKELY, SAME, SLOWER, Verdict, called_slower_from
from attnbench.units import count, show_time

HEADERS = ("case", "backend", "base", "new", "difference", "90 % interval", "verdict", "why")
# More rows scroll off a terminal; what is not shown is counted.
MAX_ROWS = 40
# A reason that so many cases share is told once, below the table; those of them without figures share a row, too.
SHARED = 4
# What became of a case before any time, the worst first.
_WITHOUT_TIME = (WRONG, BROKEN, FAILS_AS_BEFORE)
GROWN = (ERROR, MEMORY, KERNEL)
# Differences are shown to a hundredth of a percent.
SHOWN_AS_ZERO = 5e-5
CHECKED, SKIPPED = "checked only", "not run on either side"


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table; kind gives its colour."""

    kind: str
    cells: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """hidden: cases that have no row. reasons: those that many rows share, a line each."""

    rows: tuple[Row, ...]
    hidden: int
    reasons: tuple[str, ...]


def kind(cell: Cell) -> str:
    """What became of a case in one word: wrong or broken before any time, then the verdict."""
    for worst in _WITHOUT_TIME:
        if any(change.kind == worst for change in cell.changes):
            return worst
    if cell.verdict is not None:
        return cell.verdict.kind
    return CHECKED if cell.compared else SKIPPED


def counts(comparison: Comparison) -> str:
    """`1 slower, 2 missing, 37 same, of 40 cases`."""
    found = Counter(kind(cell) for cell in comparison.cells)
    order = (*_WITHOUT_TIME, *KINDS, CHECKED, SKIPPED)
    named = ", ".join(f"{found[name]:,} {name}" for name in order if found[name])
    grown = sum(any(change.kind in GROWN for change in cell.changes) for cell in comparison.cells)
    named += f" ({grown:,} grew in error, memory or static figures)" if grown else ""
    return f"{named or 'nothing'}, of {count(len(comparison.cells), 'case')} (one case on one backend each)"


def headlines(comparison: Comparison) -> Iterator[str]:
    """What a reader wants to know first, a line each; the most serious caveat before everything."""
    if comparison.forced:
        yield f"FORCED: not comparable, and compared nevertheless: {'; '.join(comparison.forced)}"
    yield f"{comparison.new} against {comparison.base}"
    yield counts(comparison)
    judged = comparison.suite is not None and comparison.suite.time is not None
    without = f", without {count(comparison.in_doubt, 'case')} in doubt" if comparison.in_doubt and judged else ""
    yield f"geometric mean: {_suite(comparison.suite)}{without}"
    yield f"margin: {comparison.margin}"
    yield f"replicated: {_replication(comparison)}"
    found = smallest_slowdown(comparison)
    if found:
        yield f"smallest slowdown: {found}"


def smallest_slowdown(comparison: Comparison) -> str:
    """What this comparison would have found, were it there; "" where no difference was judged."""
    verdicts = [cell.verdict for cell in comparison.cells if cell.verdict and cell.verdict.time]
    if not verdicts:
        return ""
    noise = comparison.margin.noise
    shown = [max(verdict.resolution or 0.0, noise) for verdict in verdicts]
    called = called_slower_from([verdict.time for verdict in verdicts if verdict.time], comparison.margin)
    typical, worst = percent(statistics.median(shown)), percent(max(shown))
    rest = "" if typical == worst else f" on half of the cases, {worst} on every one"
    return (
        f"{typical} would have shown{rest}; called slower from {percent(statistics.median(called))} on "
        f"({percent(LIKELY)} of the times)"
    )


def _suite(suite: Verdict | None) -> str:
    if suite is None:
        return "none, no difference in time could be judged"
    if suite.difference is None or suite.interval is None:
        return f"{suite.kind}: {suite.reason}"
    low, high = suite.interval
    cause = f" ({suite.cause})" if suite.cause else ""
    reason = f", {suite.reason}" if suite.kind == INCONCLUSIVE else ""
    return f"{signed(suite.difference)} (90 % interval {signed(low)} to {signed(high)}): {suite.kind}{cause}{reason}"


def _replication(comparison: Comparison) -> str:
    if comparison.unit == PROCESS:
        null = "; the baseline was not measured against itself" if comparison.margin.noise_floor is None else ""
        return f"processes, in which both sides took turns{null}"
    if comparison.allowance is None:
        return "whole runs"
    return f"whole runs; {percent(comparison.allowance)} of every interval is for what shifts a whole run"


def rows(comparison: Comparison, every: bool = False) -> Table:
    """The table's rows, the worst first; what many of them share is told once."""
    order = {name: place for place, name in enumerate((*_WITHOUT_TIME, *KINDS))}
    shown = [cell for cell in comparison.cells if kind(cell) in order]
    shown.sort(key=lambda cell: (order[kind(cell)], -_size(cell)))
    told = Counter((kind(cell), why(cell)) for cell in shown if why(cell))
    shared = {entry: times for entry, times in told.items() if times >= SHARED}
    groups: dict[tuple[object, ...], list[Cell]] = {}
    for place, cell in enumerate(shown):
        folds = not every and (kind(cell), why(cell)) in shared and None in (cell.base_s, cell.new_s)
        groups.setdefault((kind(cell), cell.backend, why(cell)) if folds else (place,), []).append(cell)
    kept = list(groups.values()) if every else list(groups.values())[:MAX_ROWS]
    reasons = tuple(f"{name} ({count(times, 'case')}): {reason}" for (name, reason), times in shared.items())
    made = tuple(_row(group, (kind(group[0]), why(group[0])) in shared) for group in kept)
    return Table(made, len(shown) - sum(map(len, kept)), reasons)


def _size(cell: Cell) -> float:
    """How far a case lies from no difference, as a log; slower and faster ones by how surely they do."""
    if cell.verdict is not None and cell.verdict.time is not None:
        time = cell.verdict.time
        return {SLOWER: time.low, FASTER: -time.high}.get(cell.verdict.kind, abs(time.mean))
    return 0.0 if cell.base_s is None or cell.new_s is None else abs(math.log(cell.new_s / cell.base_s))


def _row(group: Sequence[Cell], shared: bool) -> Row:
    cell = group[0]
    name = cell.case_key if len(group) == 1 else f"{cell.case_key} and {len(group) - 1:,} more"
    times = ["" if time is None or len(group) > 1 else show_time(time) for time in (cell.base_s, cell.new_s)]
    verdict = cell.verdict
    difference = interval = ""
    if verdict is not None and verdict.difference is not None and verdict.interval is not None:
        difference = signed(verdict.difference)
        interval = "{} to {}".format(*map(signed, verdict.interval))
    elif len(group) == 1 and cell.base_s is not None and cell.new_s is not None:
        difference = signed(cell.new_s / cell.base_s - 1)  # seen, and nothing says how certain it is
    return Row(kind(cell), (name, cell.backend, *times, difference, interval, _word(cell), "" if shared else why(cell)))


def _word(cell: Cell) -> str:
    cause = cell.verdict.cause if cell.verdict is not None else ""
    return f"{kind(cell)} ({cause})" if cause else kind(cell)


def why(cell: Cell) -> str:
    """The reason of the verdict, or what is wrong; "" where the interval says it all."""
    if kind(cell) in _WITHOUT_TIME:
        return next(change.text for change in cell.changes if change.kind == kind(cell))
    reason = "" if cell.verdict is None or cell.verdict.kind == SAME else cell.verdict.reason
    return "; ".join(filter(None, (reason, _explained(cell))))


def _explained(cell: Cell) -> str:
    """Why the times of both sides lie one way and their difference the other; "" where they do not."""
    difference = None if cell.verdict is None else cell.verdict.difference
    if difference is None or cell.base_s is None or cell.new_s is None:
        return ""
    return medians_apart(cell.base_s, cell.new_s, difference)


def medians_apart(base_s: float, new_s: float, difference: float) -> str:
    """What a reader needs who sees both sides' times beside a paired difference of the other sign; "" else."""
    alone = new_s / base_s - 1
    if alone * difference >= 0 or min(abs(alone), abs(difference)) < SHOWN_AS_ZERO:
        return ""
    return f"round by round; the times alone, of other moments each, say {signed(alone)}"


def besides(cell: Cell) -> list[str]:
    """What came up that is neither a time nor what `why` tells: errors, memory, static figures that grew, notes."""
    found = [change for change in cell.changes if change.text != why(cell)]
    return [f"{change.kind}: {change.text}" for change in found]


def extras(comparison: Comparison, every: bool = False) -> list[str]:
    """`besides` of all cases, a line each; what is beyond MAX_ROWS is counted (nothing with `every`)."""
    lines = [f"{cell.case_key} {cell.backend}: {text}" for cell in comparison.cells for text in besides(cell)]
    if every or len(lines) <= MAX_ROWS:
        return lines
    return [*lines[:MAX_ROWS], f"{len(lines) - MAX_ROWS:,} more lines like these; --all shows them"]


def notes(comparison: Comparison) -> Iterator[str]:
    """What was left out, could not be read or differs between the sides."""
    yield from (f"unreadable: {problem}" for problem in comparison.problems)
    yield from (f"left out of the baseline: {text}" for text in comparison.left_out)
    yield from (f"note: {text}" for text in comparison.cautions)

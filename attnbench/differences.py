"""How far apart two sides of one case lie: a log ratio of times, how uncertain it is, and how many units say so.

Samples taken one after the other are correlated and every process and every session has an offset of its own, so what
counts as one observation is a process (where both sides took turns inside it) or a whole run (a stored baseline).
Everything is in natural logs of time: +0.01 is 1 % slower.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from attnbench.records.measurement import Block
from attnbench.units import count

# What a block counts as: its median in seconds, or in cycles.
Weigh = Callable[[Block], float]

# Of a process's rounds, sorted, this share at either end does not count: a disturbance that outlasts a block spoils its
# whole median, and a single one of 10 % would widen the interval of five processes beyond use.
TRIMMED = 0.25
# What a one-sided bound leaves outside; an interval of both bounds then has 90 %.
TAIL = 0.05
# What a verdict of "slower" or "faster" spends of that on a shift of a whole run, where there may have been one. Such a
# shift is one event for all cases and nothing measures it again: held to half of TAIL it gave false alarms in 2.5 % of
# suites (benchmarks/false_alarms.py, sessions shifted by 1 %), and a gate should live with one in a hundred.
SHIFT_TAIL = 0.01
# No log ratio is known better than this from one process or run: a timed region is some hundred times the resolution of
# its timer, and equal medians on a coarse timer must not read as certainty.
SMALLEST_SPREAD = 1e-4


# What a difference replicates: processes in which both sides took turns, or whole stored runs.
PROCESS, RUN = "process", "run"


class NotEnough(ValueError):
    """Too few units for a statement; the message says how many there are and how many it takes."""


@dataclass(frozen=True, slots=True)
class Shift:
    """How far a whole run lies from another: standard error of their difference, with Student's degrees of freedom."""

    standard_error: float
    freedom: float

    def bound(self, tail: float) -> float:
        """What a shift exceeds, one way, with the probability `tail`."""
        return _student(self.freedom, 1 - tail) * self.standard_error


@dataclass(frozen=True, slots=True)
class Difference:
    """ln(new) - ln(base) of one case, as Student's t sees it.

    mean: the estimate. standard_error and freedom (degrees of freedom; may be infinite): of the case's own part.
    shift: of what moves all cases of a run alike, None where the sides took turns or it is not told apart.
    units: what was replicated, in order: each process's difference, or each new run's; unit: PROCESS or RUN.
    """

    mean: float
    standard_error: float
    freedom: float
    units: tuple[float, ...]
    unit: str
    shift: Shift | None = None

    @property
    def allowance(self) -> float:
        """The part of `reach` that is for a shift of the whole run."""
        return 0.0 if self.shift is None else self.shift.bound(TAIL / 2)

    @property
    def reach(self) -> float:
        """The distance from the mean to either one-sided 95 % bound; what has two parts spends half the 5 % on each."""
        tail = TAIL if self.shift is None else TAIL / 2
        return self.allowance + _student(self.freedom, 1 - tail) * self.standard_error

    @property
    def low(self) -> float:
        return self.mean - self.reach

    @property
    def high(self) -> float:
        return self.mean + self.reach

    def p_above(self, margin: float) -> float:
        """The p-value of "no more than margin" (log), to be held against TAIL.

        Below TAIL exactly where `low` is above the margin; with a shift, where a bound is that spends SHIFT_TAIL on it.
        """
        from scipy.special import stdtr

        allowance, own = (0.0, TAIL) if self.shift is None else (self.shift.bound(SHIFT_TAIL), TAIL - SHIFT_TAIL)
        beyond = (self.mean - allowance - margin) / self.standard_error
        return min(1.0, float(stdtr(self.freedom, -beyond)) * TAIL / own)

    def p_below(self, margin: float) -> float:
        """The p-value of "no faster than by margin" (log, positive)."""
        return replace(self, mean=-self.mean).p_above(margin)


def _student(freedom: float, quantile: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, quantile))


def block_median_s(block: Block) -> float:
    return statistics.median(block.samples_s)


def process_differences(base: Sequence[Block], new: Sequence[Block], weigh: Weigh = block_median_s) -> dict[int, float]:
    """By process, the (trimmed) mean over its rounds of ln(median new block) - ln(median base block).

    Blocks are matched by (process, round); several of one side in a round (ABBA) count as their mean, a round that only
    one side has counts for nothing. `weigh` gives a block's value where it is not the median of its samples in seconds
    (cycles, say). The two must have taken turns in the same processes: numbers that merely agree mean nothing.
    """
    sides = [_round_logs(blocks, weigh) for blocks in (base, new)]
    by_process: dict[int, list[float]] = defaultdict(list)
    for place in sorted(sides[0].keys() & sides[1].keys()):
        by_process[place[0]].append(sides[1][place] - sides[0][place])
    return {process: _midmean(values) for process, values in by_process.items()}


def _round_logs(blocks: Iterable[Block], weigh: Weigh) -> dict[tuple[int, int], float]:
    found: dict[tuple[int, int], list[float]] = defaultdict(list)
    for block in blocks:
        found[block.process, block.round].append(math.log(weigh(block)))
    return {place: statistics.fmean(logs) for place, logs in found.items()}


def level(blocks: Sequence[Block], weigh: Weigh = block_median_s) -> float:
    """ln of one run's time of a case: the mean over processes of the (trimmed) mean over blocks of ln(median block)."""
    by_process: dict[int, list[float]] = defaultdict(list)
    for block in blocks:
        by_process[block.process].append(math.log(weigh(block)))
    return statistics.fmean(map(_midmean, by_process.values()))


def _midmean(values: Sequence[float]) -> float:
    """The mean without the share TRIMMED of the values at either end; of three or fewer, the mean."""
    cut = int(len(values) * TRIMMED)
    return statistics.fmean(sorted(values)[cut : len(values) - cut])


def across_processes(values: Iterable[float], fewest: int) -> Difference:
    """Student's t over one difference a process. Raises NotEnough below `fewest` processes."""
    units = tuple(values)
    if len(units) < max(2, fewest):
        found = count(len(units), "process", "processes")
        raise NotEnough(f"measured in {found}; it takes {max(2, fewest)} to know how far processes lie apart")
    spread = max(statistics.stdev(units), SMALLEST_SPREAD)
    return Difference(statistics.fmean(units), spread / math.sqrt(len(units)), len(units) - 1, units, PROCESS)


def noise_floor(nulls: Iterable[Sequence[float]]) -> float:
    """The A/A noise floor: root mean square over cases of the mean difference of the baseline against itself (log).

    nulls: per case, the differences of its processes. Raises NotEnough where there is none.
    """
    means = [statistics.fmean(values) for values in nulls if len(values)]
    if not means:
        raise NotEnough("no case was measured against itself")
    return math.sqrt(statistics.fmean(mean * mean for mean in means))


def suite_mean(cases: Sequence[Mapping[int, float]], fewest: int) -> Difference:
    """The mean over cases (the log of a geometric mean), process by process, and Student's t over the processes.

    cases: each case's differences by process. Whether the cases shared those processes or had their own is the same.
    """
    by_process: dict[int, list[float]] = defaultdict(list)
    for case in cases:
        for process, value in case.items():
            by_process[process].append(value)
    return across_processes((statistics.fmean(values) for _, values in sorted(by_process.items())), fewest)

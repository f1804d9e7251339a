"""How far apart two sides of one case lie: a log ratio of times, how uncertain it is, and how many units say so.

Samples taken one after the other are correlated and every process and every session has an offset of its own, so what
counts as one observation is a process (where both sides took turns inside it) or a whole run (a stored baseline).
Everything is in natural logs of time: +0.01 is 1 % slower.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from dataclasses import dataclass
from typing import Callable, Iterable, Mapping, Sequence

from attnbench.record import Block

# What a block counts as: its median in seconds, or in cycles.
Weigh = Callable[[Block], float]

# Of a process's rounds, sorted, this share at either end does not count: a disturbance that outlasts a block spoils its
# whole median, and a single one of 10 % would widen the interval of five processes beyond use.
TRIMMED = 0.25
# One-sided confidence of a bound; a two-sided interval of both bounds then has 90 %.
CONFIDENCE = 0.95
# No log ratio is known better than this from one process or run: a timed region is some hundred times the resolution of
# its timer, and equal medians on a coarse timer must not read as certainty.
SMALLEST_SPREAD = 1e-4


class NotEnough(ValueError):
    """Too few units for a statement; the message says how many there are and how many it takes."""


@dataclass(frozen=True, slots=True)
class Difference:
    """ln(new) - ln(base) of one case, as Student's t sees it.

    mean: the estimate. standard_error and freedom (degrees of freedom; may be infinite): of the case's own part.
    allowance: how far the whole suite may have shifted between runs, one number for all its cases, 0 where the sides
    took turns. units: what was replicated, in order, for tables: each process's difference, or each new run's.
    """

    mean: float
    standard_error: float
    freedom: float
    units: tuple[float, ...]
    unit: str
    allowance: float = 0.0

    @property
    def _tail(self) -> float:
        """The probability left outside a one-sided bound. With an allowance half of it is spent on the allowance."""
        return (1 - CONFIDENCE) / (2 if self.allowance else 1)

    @property
    def reach(self) -> float:
        """The distance from the mean to either one-sided 95 % bound."""
        from scipy.special import stdtrit

        return self.allowance + float(stdtrit(self.freedom, 1 - self._tail)) * self.standard_error

    @property
    def low(self) -> float:
        return self.mean - self.reach

    @property
    def high(self) -> float:
        return self.mean + self.reach

    def p_above(self, margin: float) -> float:
        """The p-value of "no more than margin" (log); below 1 - CONFIDENCE exactly where `low` is above the margin."""
        from scipy.special import stdtr

        beyond = (self.mean - self.allowance - margin) / self.standard_error
        return min(1.0, float(stdtr(self.freedom, -beyond)) * (1 - CONFIDENCE) / self._tail)

    def p_below(self, margin: float) -> float:
        """The p-value of "no faster than by margin" (log, positive)."""
        return self.mirrored().p_above(margin)

    def mirrored(self) -> Difference:
        """The same with the two sides swapped."""
        units = tuple(-value for value in self.units)
        return Difference(-self.mean, self.standard_error, self.freedom, units, self.unit, self.allowance)


def block_median_s(block: Block) -> float:
    return statistics.median(block.samples_s)


def process_differences(
    base: Sequence[Block], new: Sequence[Block], weigh: Weigh = block_median_s
) -> dict[int, float]:
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
        raise NotEnough(f"measured in {len(units)} process{'' if len(units) == 1 else 'es'}; it takes {max(2, fewest)} "
                        f"to know how far processes lie apart")  # fmt: skip
    spread = max(statistics.stdev(units), SMALLEST_SPREAD)
    return Difference(statistics.fmean(units), spread / math.sqrt(len(units)), len(units) - 1, units, "process")


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

    cases: each case's differences by process. Whether the cases shared those processes or had their own does not matter.
    """
    by_process: dict[int, list[float]] = defaultdict(list)
    for case in cases:
        for process, value in case.items():
            by_process[process].append(value)
    return across_processes((statistics.fmean(values) for _, values in sorted(by_process.items())), fewest)

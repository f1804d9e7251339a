"""How far apart two sides of one case lie: a log ratio of times, how uncertain it is, and how many units say so.

Samples taken one after the other are correlated and every process and every session has an offset of its own, so what
counts as one observation is a process (where both sides took turns inside it) or a whole run (a stored baseline).
Everything is in natural logs of time: +0.01 is 1 % slower.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from attnbench.records.measurement import Block
from attnbench.units import count

if TYPE_CHECKING:
    import numpy


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
    down, up: how much further the new side's own records, and the base's, let the difference be, either way; added as
    they are, since what disturbs one record is no sample of anything.
    """

    mean: float
    standard_error: float
    freedom: float
    units: tuple[float, ...]
    unit: str
    shift: Shift | None = None
    down: float = 0.0
    up: float = 0.0

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
        return self.mean - self.reach - self.down

    @property
    def high(self) -> float:
        return self.mean + self.reach + self.up

    def beyond(self, tail: float, power: float) -> float:
        """How far (log) beyond a margin a true difference must be for `p_above` to be below `tail` with this power.

        NOTE: the quantiles are added, the noncentral t's is a little smaller.
        """
        if self.shift is None:
            return self.down + self._quantiles(1 - tail, power)
        own = tail * (TAIL - SHIFT_TAIL) / TAIL
        return self.down + self.shift.bound(SHIFT_TAIL) + self.shift.bound(1 - power) + self._quantiles(1 - own, power)

    def _quantiles(self, *quantiles: float) -> float:
        return sum(_student(self.freedom, quantile) for quantile in quantiles) * self.standard_error

    def p_above(self, margin: float) -> float:
        """The p-value of "no more than margin" (log), to be held against TAIL.

        Below TAIL exactly where `low` is above the margin; with a shift, where a bound is that spends SHIFT_TAIL on it.
        """
        from scipy.special import stdtr

        allowance, own = (0.0, TAIL) if self.shift is None else (self.shift.bound(SHIFT_TAIL), TAIL - SHIFT_TAIL)
        beyond = (self.mean - self.down - allowance - margin) / self.standard_error
        return min(1.0, float(stdtr(self.freedom, -beyond)) * TAIL / own)

    def p_below(self, margin: float) -> float:
        """The p-value of "no faster than by margin" (log, positive)."""
        return replace(self, mean=-self.mean, down=self.up, up=self.down).p_above(margin)


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
    by_process: dict[int, list[float]] = defaultdict(list)
    for (process, _), value in _by_round(base, new, weigh).items():
        by_process[process].append(value)
    return {process: _midmean(values) for process, values in by_process.items()}


def round_differences(base: Sequence[Block], new: Sequence[Block]) -> list[float]:
    """The same of every round, of all processes."""
    return list(_by_round(base, new, block_median_s).values())


def _by_round(base: Sequence[Block], new: Sequence[Block], weigh: Weigh) -> dict[tuple[int, int], float]:
    sides = [_round_logs(blocks, weigh) for blocks in (base, new)]
    return {place: sides[1][place] - sides[0][place] for place in sorted(sides[0].keys() & sides[1].keys())}


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


# A new run against a folder of stored runs, which cannot be measured again: whole runs are what is replicated.
#
# Two things make runs of the same code differ: everything shifts together (a warmer room, another power state), and
# each case moves on its own (where its memory lies). The first is estimated once for the suite, for all cases; the
# second, for each case, from few runs, so the cases lend each other strength (a moderated t).

Key = TypeVar("Key", bound=Hashable)

# Fewer stored runs say nothing useful of how far runs lie apart: with two the t quantile alone is over 6.
FEWEST_RUNS = 3
# With fewer cases, what is common to them and what is their own cannot be told apart; each then stands for itself.
FEWEST_FOR_SHIFT = 8
# Alternating means of an unbalanced two-way layout settle far below any timer's resolution in so many rounds.
_SETTLE = 50


@dataclass(frozen=True, slots=True)
class Levels:
    """ln of the time of one case, by run, of each side; None for a run that did not measure it.

    base_variance: of a level of the base by its own samples, the mean over runs. down, up: see Difference.
    """

    base: tuple[float | None, ...]
    new: tuple[float | None, ...]
    base_variance: float = 0.0
    down: float = 0.0
    up: float = 0.0


def against_runs(levels: Mapping[Key, Levels]) -> dict[Key, Difference | NotEnough]:
    """The difference of every case; NotEnough in place of one that too few stored runs measured.

    All cases have the same runs, in the same order. With cases c, runs r and either side's own case means,
    ln t = case + run shift + rest. The run shift's spread, over all cases, bounds what a run may be off in all of them
    at once. The rest's variance is moderated across cases, G. Smyth, "Linear models and empirical Bayes methods for
    assessing differential expression", Stat. Appl. Genet. Mol. Biol. 3 (2004), section 4. Both are of the prediction
    type: one new mean against one stored mean.
    """
    found: dict[Key, Difference | NotEnough] = {key: _too_few(one) for key, one in levels.items()}
    enough = [key for key, one in levels.items() if _measured(one.base) >= FEWEST_RUNS and _measured(one.new) >= 1]
    if enough:
        found |= zip(enough, _differences([levels[key] for key in enough]), strict=True)
    return found


def suite_against_runs(levels: Sequence[Levels]) -> Difference:
    """The mean over cases against the stored runs, over the cases that every run measured; all of it is run shift.

    Raises NotEnough where there is no such case, or fewer than FEWEST_RUNS stored runs.
    """
    whole = [one for one in levels if None not in (*one.base, *one.new)]
    if not whole:
        raise NotEnough("no case was measured in every run")
    if len(whole[0].base) < FEWEST_RUNS:
        raise _too_few(whole[0])
    columns = [zip(*(getattr(one, side) for one in whole)) for side in ("base", "new")]
    sides = [[math.fsum(run) / len(whole) for run in side] for side in columns]
    means = [math.fsum(side) / len(side) for side in sides]
    shifts = [[value - mean for value in side] for side, mean in zip(sides, means)]
    weight = math.sqrt(sum(1 / len(side) for side in sides))
    units = tuple(value - means[0] for value in sides[1])
    own = math.sqrt(sum(one.base_variance for one in whole)) / len(whole)
    down, up = (math.fsum(getattr(one, way) for one in whole) / len(whole) for way in ("down", "up"))
    error = max(SMALLEST_SPREAD, own) * weight
    return Difference(means[1] - means[0], error, math.inf, units, RUN, _shift(shifts, weight), down, up)


def _measured(values: Sequence[float | None]) -> int:
    return sum(value is not None for value in values)


def _too_few(levels: Levels) -> NotEnough:
    runs = count(_measured(levels.base), "stored run")
    return NotEnough(f"measured in {runs}; it takes {FEWEST_RUNS} to know how far runs of the same code lie apart")


def _differences(levels: Sequence[Levels]) -> list[Difference]:
    import numpy

    sides = [numpy.array([getattr(one, side) for one in levels], dtype=float) for side in ("base", "new")]
    counts = [numpy.sum(~numpy.isnan(side), axis=1) for side in sides]
    means = [numpy.nanmean(side, axis=1) for side in sides]
    weight = numpy.sqrt(1 / counts[0] + 1 / counts[1])
    shifts, rests = zip(*map(_two_way, sides)) if len(levels) >= FEWEST_FOR_SHIFT else (
        None, [side - mean[:, None] for side, mean in zip(sides, means)])  # fmt: skip
    own = sum(numpy.nansum(rest**2, axis=1) for rest in rests)
    freedom = sum(counts) - 2.0
    if shifts is None:
        variance = numpy.maximum(own / freedom, SMALLEST_SPREAD**2)
    else:
        freedom *= (len(levels) - 1) / len(levels)  # each run's shift was estimated from the same values
        variance, freedom = moderated(own / freedom, freedom)
    variance = numpy.maximum(
        variance, [one.base_variance for one in levels]
    )  # what is known of runs that agree by luck
    mean = means[1] - means[0]
    units = sides[1] - means[0][:, None]
    return [
        Difference(float(mean[i]), float(weight[i] * math.sqrt(variance[i])), float(freedom[i]),
                   tuple(float(value) for value in units[i] if not math.isnan(value)), RUN,
                   None if shifts is None else _shift(shifts, float(weight[i])), levels[i].down, levels[i].up)
        for i in range(len(levels))
    ]  # fmt: skip


def _two_way(values: numpy.ndarray) -> tuple[numpy.ndarray, numpy.ndarray]:
    """(shift of every run, rest) of cases x runs with gaps, by least squares: shifts and case means in turn."""
    import numpy

    seen = values[:, ~numpy.all(numpy.isnan(values), axis=0)]
    shift = numpy.zeros(seen.shape[1])
    for _ in range(_SETTLE if numpy.isnan(seen).any() else 1):
        rest = seen - shift
        rest -= numpy.nanmean(rest, axis=1, keepdims=True)
        shift = shift + numpy.nanmean(rest, axis=0)
        shift -= shift.mean()
    rest = seen - shift
    return shift, rest - numpy.nanmean(rest, axis=1, keepdims=True)


def _shift(shifts: Sequence[Sequence[float]], weight: float) -> Shift:
    """From the shifts of either side's runs, about their means: both spreads pooled; weight: for means of so many."""
    freedom = sum(len(shift) - 1 for shift in shifts)
    spread = math.sqrt(sum(float(value) ** 2 for shift in shifts for value in shift) / freedom)
    return Shift(max(spread, SMALLEST_SPREAD) * weight, freedom)


def moderated(variance: numpy.ndarray, freedom: numpy.ndarray) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Each case's variance drawn towards what the cases have in common, and the degrees of freedom it then has.

    Smyth (2004), section 4 and 6.2: the cases' variances are taken as draws from a scaled inverse chi-square whose two
    parameters are matched to the mean and variance of their logs. The result never claims more freedom than all the
    cases have together.
    """
    import numpy
    from scipy.special import polygamma, psi

    floored = numpy.maximum(variance, SMALLEST_SPREAD**2)
    logs = numpy.log(floored) - psi(freedom / 2) + numpy.log(freedom / 2)
    excess = float(logs.var(ddof=1) - polygamma(1, freedom / 2).mean())
    if excess <= 0:  # no more apart than chance makes them: one variance for all
        return numpy.full_like(floored, math.exp(logs.mean())), numpy.full_like(floored, freedom.sum())
    prior = 2 * _trigamma_inverse(excess)
    common = math.exp(logs.mean() + float(psi(prior / 2)) - math.log(prior / 2))
    both = prior + freedom
    return (prior * common + freedom * floored) / both, numpy.minimum(both, freedom.sum())


def _trigamma_inverse(value: float) -> float:
    """y with trigamma(y) = value, by Newton's method on 1 / trigamma, which is convex (Smyth 2004, appendix)."""
    from scipy.special import polygamma

    if value > 1e7:
        return 1 / math.sqrt(value)
    if value < 1e-6:
        return 1 / value
    y = 0.5 + 1 / value
    for _ in range(50):
        trigamma = float(polygamma(1, y))
        step = trigamma * (1 - trigamma / value) / float(polygamma(2, y))
        y += step
        if -step / y < 1e-8:
            break
    return y

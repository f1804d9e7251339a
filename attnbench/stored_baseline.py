"""A new run against a folder of stored runs, which cannot be measured again: whole runs are what is replicated.

Two things make runs of the same code differ: everything shifts together (a warmer room, another power state), and each
case moves on its own (where its memory lies). The first is estimated once for the suite, for all cases; the
second, for each case, from few runs, so the cases lend each other strength (a moderated t).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from attnbench.differences import RUN, SMALLEST_SPREAD, Difference, NotEnough, Shift
from attnbench.units import count

if TYPE_CHECKING:
    import numpy

Key = TypeVar("Key", bound=Hashable)

# Fewer stored runs say nothing useful of how far runs lie apart: with two the t quantile alone is over 6.
FEWEST_RUNS = 3
# With fewer cases, what is common to them and what is their own cannot be told apart; each then stands for itself.
FEWEST_FOR_SHIFT = 8
# Alternating means of an unbalanced two-way layout settle far below any timer's resolution in so many rounds.
_SETTLE = 50


@dataclass(frozen=True, slots=True)
class Levels:
    """ln of the time of one case, by run, of each side; None for a run that did not measure it."""

    base: tuple[float | None, ...]
    new: tuple[float | None, ...]


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
    return Difference(means[1] - means[0], SMALLEST_SPREAD * weight, math.inf, units, RUN, _shift(shifts, weight))


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
    mean = means[1] - means[0]
    units = sides[1] - means[0][:, None]
    return [
        Difference(float(mean[i]), float(weight[i] * math.sqrt(variance[i])), float(freedom[i]),
                   tuple(float(value) for value in units[i] if not math.isnan(value)), RUN,
                   None if shifts is None else _shift(shifts, float(weight[i])))
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

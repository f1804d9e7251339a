"""When there are enough samples, and when more of them would not be enough either. Pure: told samples, it says which.

The interval is that of `records.stats`, which reports show: a spike does not widen it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from attnbench.records.measurement import PREPARED_ANEW, TWO_SPEEDS
from attnbench.records.stats import (
    BATCHES,
    SAMPLES_PER_BATCH,
    batches,
    interval,
    relative_stdev,
    two_speeds,
    units_needed,
)
from attnbench.timing.sampling import Timer
from attnbench.units import show_time

# Enough: nvbench's relative standard deviation, or the interval of the median. On a CPU, whose calls whatever else runs
# disturbs, a second of samples came within 1 % for 16 of 54 records and within 0.25 % for none
# (results/2026-11-25-quick-cpu): a rule that none can meet does not tell good numbers from bad ones.
ENOUGH_STDEV = 0.005
ENOUGH_HALF_WIDTH, ENOUGH_HALF_WIDTH_CPU = 0.0025, 0.01
# No measurement is given up before this share of its time: what disturbs a machine comes in spells, and the first
# samples may lie in one.
SHARE_BEFORE_GIVING_UP = 0.1
# Of independent samples an interval falls with the square root of their number; of others, more slowly.
FASTEST_FALL = 0.5
# Short batches in each long one, by whose spreads it is told how an interval falls.
SHORT_PER_LONG = 8
# Given to the measurement's favour: the standard error of that is 0.12, sqrt(2/9 + 2/79) / 2 / ln 8 with BATCHES long
# batches, and it is looked at many times.
FALL_ALLOWANCE = 0.2
# A flag, as it stands in a measurement.
GAVE_UP = "gave_up"  # sampling ended early, since the time left would not have been enough
HAND_OVER = "hand_over"  # the hand-over to a process of a plugin's own is a large part of a sample
AHEAD = "ahead"  # such a process took long until it was ready: longer than it takes to look the calls up


# What a record says of a measurement with such a flag, in the same words each time: reports tell equal ones once.
IN_WORDS = {
    PREPARED_ANEW: "prepared anew ahead of each call, since it copies its inputs: use costs prep_s and the call",
    GAVE_UP: "sampling ended early: going by the samples at hand, the time left could not have met the stopping rule",
    TWO_SPEEDS: "two speeds: the calls fall into two clusters with nothing between them, so that their median is none",
    AHEAD: "the plugin's process took longer to be ready than calls take to be looked up; that is counted as theirs",
    HAND_OVER: "the hand-over to the plugin's process is more than 5 % of a sample, and too few input sets for longer "
    "ones: the time of a call, from which it is subtracted, is less certain",
}


class StoppingRule(Protocol):
    def add(self, samples_s: Sequence[float], calls_per_sample: int) -> None: ...

    def done(self) -> bool: ...

    def unmet(self) -> tuple[str, ...]:
        """The conditions not reached yet, in words with their values; empty when done."""

    def beyond_reach(self, more: float) -> bool:
        """Whether `more` times as many samples, which is what the time allows, would not be enough either."""

    def flags(self) -> tuple[str, ...]:
        """What is unusual about the samples, for the measurement."""


@dataclass
class Convergence:
    """Enough samples, enough timed seconds, one speed, and one of: a narrow interval of the median, a small deviation.

    What cannot become narrow enough in the time there is, is given up.
    """

    min_samples: int
    min_time_s: float
    enough_half_width: float = ENOUGH_HALF_WIDTH
    samples_s: list[float] = field(default_factory=list)
    timed_s: float = 0.0
    _speeds: tuple[int, tuple[float, float] | None] = (0, None)  # of so many samples

    def add(self, samples_s: Sequence[float], calls_per_sample: int) -> None:
        self.samples_s.extend(samples_s)
        self.timed_s += math.fsum(samples_s) * calls_per_sample

    def done(self) -> bool:
        return not self.unmet()

    def unmet(self) -> tuple[str, ...]:
        missing = self._too_little()
        if self.speeds is not None:
            low, high = map(show_time, self.speeds)
            missing.append(f"two speeds, {low} and {high}: the median between them is neither")
        elif not missing:
            width, deviation = self.half_width(), self.deviation()
            if width > self.enough_half_width and deviation > ENOUGH_STDEV:
                interval = f"+-{width:.2%}" if math.isfinite(width) else f"unknown below {self.fewest()}"
                spread = f"{deviation:.2%}" if math.isfinite(deviation) else "unknown of one sample"
                missing.append(f"interval of the median {interval}, deviation {spread}")
        return tuple(missing)

    def _too_little(self) -> list[str]:
        missing = []
        if len(self.samples_s) < self.min_samples:
            missing.append(f"{len(self.samples_s)} of {self.min_samples} samples")
        if self.timed_s < self.min_time_s:
            missing.append(f"{self.timed_s:.3g} of {self.min_time_s:g} s timed")
        return missing

    def beyond_reach(self, more: float) -> bool:
        """Not before SHARE_BEFORE_GIVING_UP of the time, nor while samples or seconds are missing; then where the
        interval would still be too wide, narrowing as fast as the samples at hand let it."""
        if more * SHARE_BEFORE_GIVING_UP > 1 or self._too_little():
            return False
        width, medians_s = self.half_width(), self.short_medians_s()
        if not math.isfinite(width):
            return False
        power = fall(medians_s)
        if medians_s and power == FASTEST_FALL:  # then the many short batches tell the interval better than the few
            spread = statistics.stdev(medians_s) / statistics.median(medians_s)
            width = min(width, spread / math.sqrt(SHORT_PER_LONG))
        at_the_end = width * max(1.0, more) ** -power
        return at_the_end > self.enough_half_width or self.speeds is not None

    def flags(self) -> tuple[str, ...]:
        return () if self.speeds is None else (TWO_SPEEDS,)

    @property
    def speeds(self) -> tuple[float, float] | None:
        """`stats.two_speeds` of the samples; looked for once for as many, since the machine idles meanwhile."""
        count = len(self.samples_s)
        if self._speeds[0] != count:
            self._speeds = count, two_speeds(self.samples_s)
        return self._speeds[1]

    def half_width(self) -> float:
        """Of the 95 % interval of the median over batches of consecutive samples, relative; infinite with too few."""
        if len(self.samples_s) < BATCHES * SAMPLES_PER_BATCH:
            return math.inf
        return relative_half_width(map(statistics.median, batches(self.samples_s)), "batch")

    def short_medians_s(self) -> list[float]:
        """Medians over short batches of consecutive samples; none where there are too few."""
        count = BATCHES * SHORT_PER_LONG
        if len(self.samples_s) < count * SAMPLES_PER_BATCH:
            return []
        return [statistics.median(batch) for batch in batches(self.samples_s, count)]

    def fewest(self) -> str:
        """What `half_width` needs at least, in words."""
        return f"{BATCHES * SAMPLES_PER_BATCH} samples"

    def deviation(self) -> float:
        """Relative standard deviation of the samples; infinite for a single one."""
        deviation = relative_stdev(self.samples_s, statistics.fmean(self.samples_s))
        return math.inf if deviation is None else deviation


@dataclass
class BlockConvergence(Convergence):
    """`Convergence` whose unit is the block: blocks are further apart than samples of one block."""

    def __post_init__(self) -> None:
        self.medians_s: list[float] = []

    def add(self, samples_s: Sequence[float], calls_per_sample: int) -> None:
        super().add(samples_s, calls_per_sample)
        self.medians_s.append(statistics.median(samples_s))

    def half_width(self) -> float:
        """Of the 95 % interval of the median over blocks, relative; infinite with too few."""
        if len(self.medians_s) < units_needed():
            return math.inf
        return relative_half_width(self.medians_s, "block")

    def short_medians_s(self) -> list[float]:
        return self.medians_s

    def fewest(self) -> str:
        return f"{units_needed()} blocks"


def relative_half_width(medians_s: Iterable[float], unit: str) -> float:
    """Of the interval of the median of so many medians, relative to it."""
    values = list(medians_s)
    return interval(values, unit).half_width(statistics.median(values))


def enough_half_width(timer: Timer) -> float:
    """How narrow the interval of the median is to become, relative."""
    return ENOUGH_HALF_WIDTH_CPU if timer.name == "cpu" else ENOUGH_HALF_WIDTH


def fall(medians_s: Sequence[float]) -> float:
    """The power of the number of samples with which their interval falls: at best FASTEST_FALL, 0 where noise is so
    slow that more samples are no more independent ones.

    From medians of consecutive short batches: the variance of means over n of them is an n-th of their own where they
    are independent, and the same where all wander together. FALL_ALLOWANCE is added, and with fewer medians than
    BATCHES * SHORT_PER_LONG nothing is told but the best.
    """
    if len(medians_s) < BATCHES * SHORT_PER_LONG:
        return FASTEST_FALL
    long = [statistics.fmean(batch) for batch in batches(medians_s)]
    own, of_means = statistics.variance(medians_s), statistics.variance(long)
    if not own or not of_means:
        return FASTEST_FALL
    per_long = len(medians_s) / BATCHES
    measured = math.log(own / of_means) / math.log(per_long) / 2
    return min(FASTEST_FALL, max(0.0, measured + FALL_ALLOWANCE))

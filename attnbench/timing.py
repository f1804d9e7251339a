"""Timing a call: warm-up, samples, a stopping rule. Method and thresholds: README, "How numbers are made".

Three seams, each with a fake in the tests: a Timer turns calls into seconds, a Clock tells time and sleeps, a
StoppingRule says when there is enough. Devices are in `timers`; nothing here imports torch.
"""

from __future__ import annotations

import itertools
import math
import statistics
import time
from dataclasses import dataclass, field
from typing import Callable, Iterator, Protocol, Sequence

from attnbench.backend import Call, Outputs
from attnbench.record import KEPT_SAMPLES, Block, Measurement
from attnbench.stats import outliers, relative_stdev
from attnbench.suite_model import Timing

WARMUP_CALLS = 5
# Warm-up ends when the medians of two consecutive windows agree this well, or at the latest after WARMUP_LIMIT.
WARMUP_AGREEMENT = 0.005
WARMUP_LIMIT = 12  # windows
MOST_IN_WINDOW = 1000  # calls
# One timed region is at least this many times the timer's resolution.
REGION_RESOLUTIONS = 100
# Burst regime: this long idle, then at most this much work.
BURST_IDLE_S = 1.0
BURST_WORK_S = 0.05
# Stopping rule: nvbench's relative standard deviation, or the confidence interval of the batch medians.
ENOUGH_STDEV = 0.005
ENOUGH_HALF_WIDTH = 0.0025
BATCHES = 10
# Significant digits kept of a sample: far below any timer's resolution, and half the size of a double's.
KEPT_DIGITS = 9
T_975_9 = 2.262  # Student's t, two-sided 95 %, BATCHES - 1 degrees of freedom


class Timer(Protocol):
    """Turns calls into seconds per call."""

    name: str

    def region(self, estimate_s: float) -> int:
        """Calls in one timed region, for a call of about that length."""

    def take(
        self, calls: Iterator[Call], count: int, calls_per_sample: int, before: Callable[[], None] | None
    ) -> Sequence[float]:
        """`count` samples, each the mean of `calls_per_sample` back-to-back calls; `before` runs, untimed, ahead of each."""

    def last(self) -> Outputs:
        """What the last timed call returned."""


class Clock(Protocol):
    def now(self) -> float: ...

    def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """Seconds since the epoch that run on evenly, whatever is done to the machine's clock meanwhile."""

    def __init__(self) -> None:
        self._epoch_s = time.time() - time.monotonic()

    def now(self) -> float:
        return self._epoch_s + time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class StoppingRule(Protocol):
    def add(self, samples_s: Sequence[float], calls_per_sample: int) -> None: ...

    def done(self) -> bool: ...

    def unmet(self) -> tuple[str, ...]:
        """The conditions not reached yet, in words with their values; empty when done."""


@dataclass
class Convergence:
    """Enough samples, enough timed seconds, and one of: a narrow interval of the batch medians, a small deviation."""

    min_samples: int
    min_time_s: float
    samples_s: list[float] = field(default_factory=list)
    timed_s: float = 0.0

    def add(self, samples_s: Sequence[float], calls_per_sample: int) -> None:
        self.samples_s.extend(samples_s)
        self.timed_s += math.fsum(samples_s) * calls_per_sample

    def done(self) -> bool:
        return not self.unmet()

    def unmet(self) -> tuple[str, ...]:
        missing = []
        if len(self.samples_s) < self.min_samples:
            missing.append(f"{len(self.samples_s)} of {self.min_samples} samples")
        if self.timed_s < self.min_time_s:
            missing.append(f"{self.timed_s:.3g} of {self.min_time_s:g} s timed")
        if not missing:
            width, deviation = self.half_width(), self.deviation()
            if width > ENOUGH_HALF_WIDTH and deviation > ENOUGH_STDEV:
                interval = f"+-{width:.2%}" if math.isfinite(width) else f"unknown below {2 * BATCHES} samples"
                spread = f"{deviation:.2%}" if math.isfinite(deviation) else "unknown of one sample"
                missing.append(f"interval of the median {interval}, deviation {spread}")
        return tuple(missing)

    def half_width(self) -> float:
        """95 % half-width, relative, of the mean of BATCHES consecutive batch medians: samples in a batch are correlated."""
        if len(self.samples_s) < 2 * BATCHES:
            return math.inf
        size = len(self.samples_s) / BATCHES
        medians = [statistics.median(self.samples_s[round(i * size) : round((i + 1) * size)]) for i in range(BATCHES)]
        return T_975_9 * relative_stdev(medians, statistics.fmean(medians)) / math.sqrt(BATCHES)

    def deviation(self) -> float:
        """Relative standard deviation of the samples; infinite for a single one."""
        deviation = relative_stdev(self.samples_s, statistics.fmean(self.samples_s))
        return math.inf if deviation is None else deviation


@dataclass(frozen=True, slots=True)
class Warm:
    """What warm-up found out."""

    estimate_s: float  # median seconds of one call
    spent_s: float


def warm_up(calls: Iterator[Call], timer: Timer, clock: Clock, window_s: float) -> Warm:
    """WARMUP_CALLS calls, then windows of window_s until two in a row agree in their medians, or WARMUP_LIMIT windows.

    Calls so long that the limit passes meanwhile get no further window.
    """
    started = clock.now()
    estimate_s = statistics.median(timer.take(calls, WARMUP_CALLS, 1, None))
    previous = None
    while clock.now() - started < WARMUP_LIMIT * window_s:
        per_sample = timer.region(estimate_s)
        count = max(WARMUP_CALLS, math.ceil(window_s / (estimate_s * per_sample)))
        estimate_s = statistics.median(timer.take(calls, count, per_sample, None))
        if previous is not None and abs(estimate_s / previous - 1) < WARMUP_AGREEMENT:
            break
        previous = estimate_s
    return Warm(estimate_s, clock.now() - started)


def measure(
    calls: Sequence[Call],
    options: Timing,
    timer: Timer,
    clock: Clock | None = None,
    rule: StoppingRule | None = None,
    flush: Callable[[], None] | None = None,
    progress: Callable[[], None] = lambda: None,
) -> Measurement:
    """Times prepared calls, one per input set, in turn.

    flush: empties the cache; used in the burst regime when the cache is to be cold. progress is called between batches.
    """
    clock = clock or SystemClock()
    rule = rule or Convergence(options.min_samples, options.min_time_s)
    turns = itertools.cycle(calls)
    warm = warm_up(turns, timer, clock, options.warmup_s)
    per_sample = timer.region(warm.estimate_s)
    burst = options.regime == "burst"
    before = flush if burst and options.cache == "cold" else None
    samples: list[float] = []
    start_s = clock.now()
    while not rule.done() and clock.now() - start_s < options.max_time_s:
        if burst:
            clock.sleep(BURST_IDLE_S)
        count = _batch(warm.estimate_s * per_sample, len(samples), options, burst)
        taken = timer.take(turns, count, per_sample, before)
        samples.extend(taken)
        rule.add(taken, per_sample)
        progress()
    kept, unmet = thin(samples, KEPT_SAMPLES), rule.unmet()
    return Measurement(
        blocks=(Block(tuple(float(f"{sample:.{KEPT_DIGITS}g}") for sample in kept), len(samples), start_s=start_s),),
        timer=timer.name,
        regime=options.regime,
        cache=options.cache,
        calls_per_sample=per_sample,
        converged=not unmet,
        unmet=unmet,
        outliers=tuple((0, index) for index in outliers(kept)),
        input_sets=len(calls),
        warmup_s=warm.spent_s,
    )


def region_calls(estimate_s: float, resolution_s: float) -> int:
    """So many calls that a timed region is over REGION_RESOLUTIONS times the timer's resolution."""
    return max(1, math.ceil(REGION_RESOLUTIONS * resolution_s / estimate_s))


def _batch(sample_s: float, taken: int, options: Timing, burst: bool) -> int:
    """Samples to take before the stopping rule is asked again: a fifth of what it needs at least, later a tenth of those
    taken, since the rule looks at all of them each time."""
    if burst:
        return max(1, min(options.min_samples, int(BURST_WORK_S / sample_s)))
    wanted = max(options.min_samples / 5, options.min_time_s / 5 / sample_s, taken / 10)
    return max(1, math.ceil(min(wanted, options.max_time_s / 5 / sample_s)))


def thin(samples: Sequence[float], most: int) -> Sequence[float]:
    """At most `most` samples, evenly spaced in time order."""
    if len(samples) <= most:
        return samples
    return [samples[i * len(samples) // most] for i in range(most)]

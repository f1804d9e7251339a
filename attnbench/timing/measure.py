"""Timing a call: warm-up, samples, a stopping rule. Method: docs/explanation/timing.md.

Seams, each with a fake in the tests: a Timer turns calls into seconds, a Clock tells time and sleeps, a Watch looks at
the machine (all in `sampling`), a StoppingRule says when there is enough. Devices are in `timers`; nothing here imports
torch.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from attnbench.backend import Call
from attnbench.records.measurement import KEPT_SAMPLES, Block, Measurement
from attnbench.records.stats import BATCHES, SAMPLES_PER_BATCH, batches, interval, outliers, relative_stdev
from attnbench.settings import Timing
from attnbench.timing.sampling import Clock, Sampler, Taken, Timer, Unwatched, Watch, join

WARMUP_CALLS = 5
# Warm-up ends when the medians of two consecutive windows agree this well, or at the latest after WARMUP_LIMIT.
WARMUP_AGREEMENT = 0.005
WARMUP_LIMIT = 12  # windows
# Sustained on a GPU: at least so long back to back before anything counts, and until the SM clock is as steady as this.
SETTLE_S = 1.0
CLOCK_AGREEMENT = 0.01
# One timed region is at least this many times the timer's resolution.
REGION_RESOLUTIONS = 100
# Burst regime: this long idle, then at most this much work.
BURST_IDLE_S = 1.0
BURST_WORK_S = 0.05
# Stopping rule: nvbench's relative standard deviation, or the interval of the median. On a CPU, whose calls whatever
# else runs disturbs, a second of samples came within 1 % for 16 of 54 records and within 0.25 % for none
# (results/2026-11-25-quick-cpu): a rule that none can meet does not tell good numbers from bad ones.
ENOUGH_STDEV = 0.005
ENOUGH_HALF_WIDTH, ENOUGH_HALF_WIDTH_CPU = 0.0025, 0.01


class StoppingRule(Protocol):
    def add(self, samples_s: Sequence[float], calls_per_sample: int) -> None: ...

    def done(self) -> bool: ...

    def unmet(self) -> tuple[str, ...]:
        """The conditions not reached yet, in words with their values; empty when done."""


@dataclass
class Convergence:
    """Enough samples, enough timed seconds, and one of: a narrow interval of the median, a small deviation.

    The interval is that of `stats`, which reports show: a spike does not widen it.
    """

    min_samples: int
    min_time_s: float
    enough_half_width: float = ENOUGH_HALF_WIDTH
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
            if width > self.enough_half_width and deviation > ENOUGH_STDEV:
                interval = f"+-{width:.2%}" if math.isfinite(width) else f"unknown below {self.fewest()}"
                spread = f"{deviation:.2%}" if math.isfinite(deviation) else "unknown of one sample"
                missing.append(f"interval of the median {interval}, deviation {spread}")
        return tuple(missing)

    def half_width(self) -> float:
        """Of the 95 % interval of the median over batches of consecutive samples, relative; infinite with too few."""
        if len(self.samples_s) < BATCHES * SAMPLES_PER_BATCH:
            return math.inf
        return relative_half_width(map(statistics.median, batches(self.samples_s)), "batch")

    def fewest(self) -> str:
        """What `half_width` needs at least, in words."""
        return f"{BATCHES * SAMPLES_PER_BATCH} samples"

    def deviation(self) -> float:
        """Relative standard deviation of the samples; infinite for a single one."""
        deviation = relative_stdev(self.samples_s, statistics.fmean(self.samples_s))
        return math.inf if deviation is None else deviation


def relative_half_width(medians_s: Iterable[float], unit: str) -> float:
    """Of the interval of the median of so many medians, relative to it."""
    values = list(medians_s)
    return interval(values, unit).half_width(statistics.median(values))


def enough_half_width(timer: Timer) -> float:
    """How narrow the interval of the median is to become, relative."""
    return ENOUGH_HALF_WIDTH_CPU if timer.name == "cpu" else ENOUGH_HALF_WIDTH


@dataclass(frozen=True, slots=True)
class Warm:
    """What warm-up found out."""

    estimate_s: float  # median seconds of one call
    spent_s: float


def warm_up(
    calls: Iterator[Call],
    timer: Timer,
    clock: Clock,
    window_s: float,
    settle_s: float = 0.0,
    watch: Watch | None = None,
) -> Warm:
    """WARMUP_CALLS calls, then windows of window_s until settle_s have passed and two in a row agree in their medians
    and in their SM clocks, as far as those are known; or until WARMUP_LIMIT windows, counted from settle_s on.

    Calls so long that the limit passes meanwhile get no further window.
    """
    started = clock.now()
    estimate_s = statistics.median(timer.take(calls, WARMUP_CALLS, 1, None))
    previous = None
    while clock.now() - started < WARMUP_LIMIT * window_s + settle_s:
        window_started = clock.now()
        per_sample = timer.region(estimate_s)
        count = max(WARMUP_CALLS, math.ceil(window_s / (estimate_s * per_sample)))
        estimate_s = statistics.median(timer.take(calls, count, per_sample, None))
        conditions = watch.between(window_started, clock.now()) if watch else None
        found = estimate_s, conditions.sm_clock_mhz if conditions else None
        if previous is not None and _agree(previous, found) and clock.now() - started >= settle_s:
            break
        previous = found
    return Warm(estimate_s, clock.now() - started)


def _agree(one: tuple[float, float | None], other: tuple[float, float | None]) -> bool:
    """Whether two windows agree in their median and, where both know it, in their SM clock."""
    (time_s, clock_mhz), (other_s, other_mhz) = one, other
    same_clock = not clock_mhz or not other_mhz or abs(clock_mhz / other_mhz - 1) < CLOCK_AGREEMENT
    return abs(other_s / time_s - 1) < WARMUP_AGREEMENT and same_clock


def settle_s(options: Timing, timer: Timer) -> float:
    """How long the machine is kept busy before anything counts: what the suite says, else SETTLE_S on a GPU."""
    if options.regime == "burst":
        return 0.0
    if options.settle_s is not None:
        return options.settle_s
    return 0.0 if timer.name == "cpu" else SETTLE_S


def measure(
    calls: Sequence[Call],
    options: Timing,
    timer: Timer,
    clock: Clock | None = None,
    rule: StoppingRule | None = None,
    flush: Callable[[], None] | None = None,
    progress: Callable[[], None] = lambda: None,
    watch: Watch | None = None,
) -> Measurement:
    """Times prepared calls, one per input set, in turn.

    flush: empties the cache; used in the burst regime when the cache is to be cold. progress is called between batches.
    Raises Unstable where the machine spoils every block.
    """
    watch = watch or Unwatched()
    clock = clock or watch.clock
    rule = rule or Convergence(options.min_samples, options.min_time_s, enough_half_width(timer))
    turns = itertools.cycle(calls)

    def settle() -> Warm:
        return warm_up(turns, timer, clock, options.warmup_s, settle_s(options, timer), watch)

    warm = settle()
    sampler = Sampler(timer, watch, settle, clock)
    before = flush if options.regime == "burst" and options.cache == "cold" else None
    parts = _sample(sampler, turns, options, rule, warm.estimate_s, before, progress)
    blocks = _blocks(parts, options, watch)
    unmet = rule.unmet()
    return Measurement(
        blocks=blocks,
        timer=timer.name,
        regime=options.regime,
        cache=options.cache,
        calls_per_sample=timer.region(warm.estimate_s),
        converged=not unmet,
        unmet=unmet,
        outliers=flagged(blocks),
        input_sets=len(calls),
        warmup_s=warm.spent_s,
        discarded=dict(sampler.discarded),
        flags=sampler.flags,
    )


def _sample(
    sampler: Sampler,
    turns: Iterator[Call],
    options: Timing,
    rule: StoppingRule,
    estimate_s: float,
    before: Callable[[], None] | None,
    progress: Callable[[], None],
) -> list[Taken]:
    """Batches of samples, one at least, until the rule is done or max_time_s has passed."""
    burst, clock = options.regime == "burst", sampler.clock
    per_sample = sampler.timer.region(estimate_s)
    parts: list[Taken] = []
    start_s, count = clock.now(), 0
    while not parts or (not rule.done() and clock.now() - start_s - sampler.lost_s < options.max_time_s):
        if burst:
            clock.sleep(BURST_IDLE_S)
        taken = sampler.take_block(turns, _batch(estimate_s * per_sample, count, options, burst), per_sample, before)
        parts.append(taken)
        count += len(taken.samples_s)
        rule.add(taken.samples_s, per_sample)
        progress()
    return parts


def _blocks(parts: Sequence[Taken], options: Timing, watch: Watch) -> tuple[Block, ...]:
    """A burst is a block of its own; batches taken back to back are one, up to where the machine spoilt a batch."""
    if options.regime == "burst":
        pieces = [[part] for part in parts]
    else:
        pieces = [list(piece) for _, piece in itertools.groupby(parts, key=lambda part: part.stretch)]
    keep = max(1, KEPT_SAMPLES // len(pieces))
    return tuple(join(piece, watch).block(round=place, keep=keep) for place, piece in enumerate(pieces))


def flagged(blocks: Sequence[Block]) -> tuple[tuple[int, int], ...]:
    """(block, sample) of every outlier among all kept samples."""
    places = [(block, sample) for block, each in enumerate(blocks) for sample in range(len(each.samples_s))]
    samples = [sample for block in blocks for sample in block.samples_s]
    return tuple(places[index] for index in outliers(samples))


def region_calls(estimate_s: float, resolution_s: float) -> int:
    """So many calls that a timed region is over REGION_RESOLUTIONS times the timer's resolution."""
    return max(1, math.ceil(REGION_RESOLUTIONS * resolution_s / estimate_s))


def _batch(sample_s: float, taken: int, options: Timing, burst: bool) -> int:
    """Samples to take before the stopping rule is asked again: a fifth of what it needs at least, later a tenth of
    those taken, since the rule looks at all of them each time."""
    if burst:
        return max(1, min(options.min_samples, int(BURST_WORK_S / sample_s)))
    wanted = max(options.min_samples / 5, options.min_time_s / 5 / sample_s, taken / 10)
    return max(1, math.ceil(min(wanted, options.max_time_s / 5 / sample_s)))

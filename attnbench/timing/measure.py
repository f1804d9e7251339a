"""Timing a call: warm-up, samples, a stopping rule. Method: docs/explanation/timing.md.

Seams, each with a fake in the tests: a Timer turns calls into seconds, a Clock tells time and sleeps, a Watch looks at
the machine (all in `sampling`), a StoppingRule (in `stopping`) says when there is enough. Devices are in `timers`;
nothing here imports torch.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from attnbench.backend import Call, Outputs
from attnbench.records.measurement import KEPT_SAMPLES, Block, Measurement
from attnbench.records.stats import BATCHES, SAMPLES_PER_BATCH, batches, interval, outliers
from attnbench.settings import Timing
from attnbench.timing.sampling import Clock, Sampler, Taken, Timer, Unwatched, Watch, join
from attnbench.timing.stopping import GAVE_UP, Convergence, StoppingRule, enough_half_width

WARMUP_CALLS = 5
# Warm-up ends when the medians of two consecutive windows agree, or at the latest after WARMUP_LIMIT. They agree within
# twice what the stopping rule asks of one median: 0.5 % on a GPU, 2 % on a CPU, whose windows agreed within 0.5 % so
# seldom, warm as they were, that 27 of 58 warm-ups ran to their end (results/2026-11-30-quick-cpu).
WARMUP_LIMIT = 12  # windows
# Sustained on a GPU: at least so long back to back before anything counts, and until the SM clock is as steady as this.
SETTLE_S = 1.0
CLOCK_AGREEMENT = 0.01
# One timed region is at least this many times the timer's resolution.
REGION_RESOLUTIONS = 100
# Burst regime: this long idle, then at most this much work.
BURST_IDLE_S = 1.0
BURST_WORK_S = 0.05


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
    estimate_s = mean_s = statistics.median(timer.take(calls, WARMUP_CALLS, 1, None))
    previous = None
    while clock.now() - started < WARMUP_LIMIT * window_s + settle_s:
        window_started = clock.now()
        per_sample = timer.region(estimate_s)
        count = max(WARMUP_CALLS, math.ceil(window_s / (mean_s * per_sample)))
        samples = timer.take(calls, count, per_sample, None)
        conditions = watch.between(window_started, clock.now()) if watch else None
        found = _Window.of(samples, timer, conditions.sm_clock_mhz if conditions else None)
        estimate_s, mean_s = found.median_s, statistics.fmean(samples)
        if previous is not None and found.agrees(previous) and clock.now() - started >= settle_s:
            break
        previous = found
    return Warm(estimate_s, clock.now() - started)


@dataclass(frozen=True, slots=True)
class _Window:
    """One window of warm-up. tolerance_s: how far from its median another may lie that agrees with it."""

    median_s: float
    tolerance_s: float
    sm_clock_mhz: float | None

    @classmethod
    def of(cls, samples_s: Sequence[float], timer: Timer, sm_clock_mhz: float | None) -> _Window:
        median_s = statistics.median(samples_s)
        tolerance_s = 2 * enough_half_width(timer) * median_s
        if timer.name == "cpu":
            tolerance_s = max(tolerance_s, _scatter_s(samples_s))
        return cls(median_s, tolerance_s, sm_clock_mhz)

    def agrees(self, previous: _Window) -> bool:
        """In the median and, where both know it, in the SM clock."""
        mine, others = self.sm_clock_mhz, previous.sm_clock_mhz
        same_clock = not mine or not others or abs(others / mine - 1) < CLOCK_AGREEMENT
        return same_clock and abs(self.median_s - previous.median_s) < previous.tolerance_s


def _scatter_s(samples_s: Sequence[float]) -> float:
    """How far apart the medians of two windows like this one may lie by chance: two half-widths of the interval."""
    enough = len(samples_s) >= BATCHES * SAMPLES_PER_BATCH
    units = [statistics.median(batch) for batch in batches(samples_s)] if enough else samples_s
    found = interval(units, "batch")
    return found.high_s - found.low_s


def settle_s(options: Timing, timer: Timer) -> float:
    """How long the machine is kept busy before anything counts: what the suite says, else SETTLE_S on a GPU."""
    if options.regime == "burst":
        return 0.0
    if options.settle_s is not None:
        return options.settle_s
    return 0.0 if timer.name == "cpu" else SETTLE_S


def measure(
    turns: Turns,
    options: Timing,
    timer: Timer,
    clock: Clock | None = None,
    rule: StoppingRule | None = None,
    flush: Callable[[], None] | None = None,
    watch: Watch | None = None,
    after: Callable[[], None] = lambda: None,
) -> Measurement:
    """Times prepared calls in turn.

    flush: empties the cache; used in the burst regime when the cache is to be cold. after: called after each batch of
    samples, to look at what the last of them returned. Raises Unstable where the machine spoils every block, and what
    `after` raises.
    """
    watch = watch or Unwatched()
    clock = clock or watch.clock
    rule = rule or Convergence(options.min_samples, options.min_time_s, enough_half_width(timer))

    def settle() -> Warm:
        return warm_up(turns, timer, clock, options.warmup_s, settle_s(options, timer), watch)

    warm = settle()
    sampler = Sampler(timer, watch, settle, clock)
    before = flush if options.regime == "burst" and options.cache == "cold" else None
    limit_s = sampling_s(options, warm.spent_s)
    parts, gave_up = _sample(sampler, turns, options, rule, warm.estimate_s, before, limit_s, after)
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
        input_sets=len(turns),
        warmup_s=warm.spent_s,
        discarded=dict(sampler.discarded),
        flags=(*sampler.flags, *rule.flags(), *((GAVE_UP,) if gave_up else ())),
    )


class Turns(Iterator[Call]):
    """Prepared calls, one per input set, one after the other, over and over.

    alive: called ahead of each. renew: given the place of a set whose numbers are to change: of the one that is
    farthest from its last call and from its next, so that it is neither in use nor in the cache again; with one set,
    right ahead of its call. calls: looked at anew for each turn. keep: given what a call returned that a timer drew, as
    soon as it is timed.
    """

    def __init__(
        self,
        calls: Sequence[Call],
        alive: Callable[[], None] = lambda: None,
        renew: Callable[[int], None] = lambda place: None,
        keep: Callable[[Outputs], None] = lambda outputs: None,
    ):
        self._calls, self._alive, self._renew, self.keep = calls, alive, renew, keep
        self.last = len(calls) - 1  # the place of the set that was called last

    def __len__(self) -> int:
        return len(self._calls)

    def __next__(self) -> Call:
        count = len(self._calls)
        self.last = (self.last + 1) % count
        self._alive()
        self._renew((self.last + count // 2) % count)
        return self._calls[self.last]


def sampling_s(options: Timing, warmup_s: float) -> float:
    """How long samples may be taken after such a warm-up: max_time_s, cut to what is left of the time-out."""
    return max(0.0, min(options.max_time_s, options.timeout_s - warmup_s))


def _sample(
    sampler: Sampler,
    turns: Iterator[Call],
    options: Timing,
    rule: StoppingRule,
    estimate_s: float,
    before: Callable[[], None] | None,
    limit_s: float,
    after: Callable[[], None],
) -> tuple[list[Taken], bool]:
    """Batches of samples, one at least, until the rule is done, limit_s has passed, or what is left of it would not be
    enough; and whether that last thing ended it."""
    burst, clock = options.regime == "burst", sampler.clock
    per_sample = sampler.timer.region(estimate_s)
    parts: list[Taken] = []
    start_s, count, sample_s = clock.now(), 0, estimate_s * per_sample
    while True:
        if burst:
            clock.sleep(BURST_IDLE_S)
        taken = sampler.take_block(turns, _batch(sample_s, count, options, limit_s), per_sample, before)
        after()
        parts.append(taken)
        count += len(taken.samples_s)
        rule.add(taken.samples_s, per_sample)
        spent_s = clock.now() - start_s - sampler.lost_s
        if not burst:  # whose idle seconds are no sample's
            sample_s = max(sample_s, spent_s / count)  # more than the median where others take the CPU
        if rule.done() or spent_s >= limit_s:
            return parts, False
        if spent_s > 0 and rule.beyond_reach(limit_s / spent_s):
            return parts, True


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


def _batch(sample_s: float, taken: int, options: Timing, limit_s: float) -> int:
    """Samples to take before the stopping rule is asked again: a fifth of what it needs at least, later a tenth of
    those taken, since the rule looks at all of them each time."""
    if options.regime == "burst":
        return max(1, min(options.min_samples, int(BURST_WORK_S / sample_s)))
    wanted = max(options.min_samples / 5, options.min_time_s / 5 / sample_s, taken / 10)
    return max(1, math.ceil(min(wanted, limit_s / 5 / sample_s)))

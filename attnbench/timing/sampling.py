"""One block of samples, taken under watch: the seam between timers, which make seconds, and whoever wants blocks.

A block that the machine spoilt (throttled, a clock that ran backwards) is counted with its cause, never used, and taken
again after a pause; a machine that stays that way ends the measurement as unstable. Nothing here imports torch.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol

from attnbench.backend import Call, Outputs
from attnbench.records.measurement import KEPT_SAMPLES, Block, Conditions

# A spoilt block is taken again so many times, each after a pause in which a hot chip cools down; and a measurement that
# loses so many in all is given up, well before its time-out ends it.
RETRIES = 3
MOST_DISCARDED = 10
COOL_DOWN_S = 5.0
# Significant digits kept of a sample: far below any timer's resolution, and half the size of a double's.
KEPT_DIGITS = 9
BACKWARDS = "a clock went backwards"
# Multiples of the golden ratio, less their whole part, cover 0 to 1 evenly and never repeat.
GOLDEN = (5**0.5 - 1) / 2


class Timer(Protocol):
    """Turns calls into seconds per call. flags: what it found unusual about them so far, for the measurement."""

    @property
    def name(self) -> str: ...

    @property
    def flags(self) -> tuple[str, ...]: ...

    def region(self, estimate_s: float) -> int:
        """Calls in one timed region, for a call of about that length."""

    def take(
        self, calls: Iterator[Call], count: int, calls_per_sample: int, before: Callable[[], None] | None
    ) -> Sequence[float]:
        """`count` samples, each the mean of `calls_per_sample` calls in a row; `before` runs untimed ahead of each."""

    def last(self) -> Outputs:
        """What the last timed call returned."""


class Clock(Protocol):
    def now(self) -> float: ...

    def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """Seconds since the epoch that run on evenly, whatever is done to the machine's clock meanwhile.

    epoch_s: what is added to the monotonic clock, where another process's clock is to be shared.
    """

    def __init__(self, epoch_s: float | None = None) -> None:
        self.epoch_s = time.time() - time.monotonic() if epoch_s is None else epoch_s

    def now(self) -> float:
        return self.epoch_s + time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


@dataclass(frozen=True, slots=True)
class Usability:
    """What the conditions make of a block: discard says why it enters no number (None: keep it); flags go on record."""

    discard: str | None = None
    flags: tuple[str, ...] = ()


class Watch(Protocol):
    """Looks at the machine while it measures. clock: the one that its times are of, for the samples too."""

    @property
    def clock(self) -> Clock: ...

    def between(self, start_s: float, end_s: float) -> Conditions | None:
        """What the machine did between two times of the sampler's clock; None where nobody looked."""

    def usability(self, conditions: Conditions | None) -> Usability: ...


class Unwatched:
    """Nobody looks: every block is kept."""

    def __init__(self) -> None:
        self.clock = SystemClock()

    def between(self, start_s: float, end_s: float) -> Conditions | None:
        return None

    def usability(self, conditions: Conditions | None) -> Usability:
        return Usability()


class Unstable(Exception):
    """The machine spoilt too many blocks, or one of them too often; the message says how."""


@dataclass(frozen=True, slots=True)
class Taken:
    """Samples (seconds per call, all of them, in time order) that were kept, and what the machine did meanwhile.

    stretch: changes whenever a block was discarded, so that what was taken before and after is not one block.
    """

    samples_s: tuple[float, ...]
    start_s: float
    end_s: float
    conditions: Conditions | None = None
    stretch: int = 0

    def block(self, process: int = 0, round: int = 0, arm: str = "", keep: int = KEPT_SAMPLES) -> Block:
        """The block for the record: at most `keep` samples, evenly thinned, the true count beside them."""
        kept = tuple(float(f"{sample:.{KEPT_DIGITS}g}") for sample in thin(self.samples_s, keep))
        length_s = self.end_s - self.start_s
        return Block(kept, len(self.samples_s), process, round, arm, self.start_s, length_s, self.conditions)


@dataclass
class Sampler:
    """Takes blocks with one timer under one watch.

    after_pause: brings the machine back to how it was measured (warm, settled) after a cool-down, untimed.
    discarded, flags: what goes into the measurement's fields of these names. lost_s: seconds spent on discarded blocks
    and pauses, which count against no limit on measuring.
    """

    timer: Timer
    watch: Watch = field(default_factory=Unwatched)
    after_pause: Callable[[], Any] = lambda: None
    clock: Clock = None  # type: ignore[assignment]  # the watch's, where no other is given
    discarded: Counter[str] = field(default_factory=Counter)
    lost_s: float = 0.0
    _flags: dict[str, None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.clock = self.clock or self.watch.clock

    @property
    def flags(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.timer.flags, *self._flags)))

    def take_block(
        self, calls: Iterator[Call], count: int, calls_per_sample: int, before: Callable[[], None] | None = None
    ) -> Taken:
        """`count` samples without interruption (see Timer.take).

        Raises Unstable when RETRIES more tries were spoilt too, or when MOST_DISCARDED blocks were lost in all.
        """
        tries = 0
        while True:
            taken, found = self._try(calls, count, calls_per_sample, before)
            if found.discard is None:
                self._flags.update(dict.fromkeys(found.flags))
                return taken
            self.discarded[found.discard] += 1
            tries += 1
            if tries > RETRIES or self.discarded.total() >= MOST_DISCARDED:
                raise Unstable(_why(self.discarded))
            self.clock.sleep(COOL_DOWN_S)
            self.after_pause()
            self.lost_s += max(0.0, self.clock.now() - taken.start_s)

    def _try(
        self, calls: Iterator[Call], count: int, calls_per_sample: int, before: Callable[[], None] | None
    ) -> tuple[Taken, Usability]:
        start_s = self.clock.now()
        samples = tuple(self.timer.take(calls, count, calls_per_sample, before))
        end_s = self.clock.now()
        if end_s < start_s or min(samples) <= 0:
            return Taken(samples, start_s, max(start_s, end_s)), Usability(discard=BACKWARDS)
        conditions = self.watch.between(start_s, end_s)
        taken = Taken(samples, start_s, end_s, conditions, stretch=self.discarded.total())
        return taken, self.watch.usability(conditions)


def _why(causes: Counter[str]) -> str:
    listed = ", ".join(f"{cause} ({count} {'block' if count == 1 else 'blocks'})" for cause, count in causes.items())
    return (
        f"the machine did not hold still: {listed}, with {COOL_DOWN_S:g} s to cool down after each; "
        "see to its cooling and power (`attnbench doctor`)"
    )


def join(parts: Sequence[Taken], watch: Watch) -> Taken:
    """Parts that were taken right after one another, as one."""
    if len(parts) == 1:
        return parts[0]
    start_s, end_s = parts[0].start_s, parts[-1].end_s
    samples = tuple(sample for part in parts for sample in part.samples_s)
    return Taken(samples, start_s, end_s, watch.between(start_s, end_s), parts[0].stretch)


def thin(samples: Sequence[float], most: int) -> Sequence[float]:
    """At most `most` samples in time order: one from each of so many equal stretches, at places that do not repeat, or
    of calls that alternate between two speeds only one would be kept."""
    if len(samples) <= most:
        return samples
    edges = [place * len(samples) // most for place in range(most + 1)]
    return [
        samples[start + int(place * GOLDEN % 1 * (end - start))] for place, (start, end) in enumerate(pairwise(edges))
    ]

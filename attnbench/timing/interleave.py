"""Timing one arm of several, block by block as its turn comes. Seams and fakes as in `timing`; imports no torch.

A block is at least BLOCK_S and BLOCK_SAMPLES long, after a few untimed calls that make up for what the arm before it
left in the caches; where calls are so long that LEAST_ROUNDS rounds would not fit into max_time_s, blocks are shorter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from attnbench.records.measurement import KEPT_SAMPLES, Measurement
from attnbench.settings import Timing
from attnbench.timing.measure import BURST_IDLE_S, BURST_WORK_S, Turns, flagged, sampling_s, settle_s, warm_up
from attnbench.timing.rounds import BLOCKS_A_ROUND
from attnbench.timing.sampling import Clock, Sampler, Taken, Timer, Watch
from attnbench.timing.stopping import GAVE_UP, BlockConvergence, enough_half_width

BLOCK_S = 0.02
BLOCK_SAMPLES = 10
LEAST_ROUNDS = 3
# Untimed calls ahead of a block; fewer of long ones, which lose nothing to what was in the caches before them.
LEAD_IN_CALLS = 3
LEAD_IN_S = 0.06


class TimedArm:
    """Prepared calls in turn, timed in blocks: an `Arm` of `rounds`. See `timing.measure`."""

    def __init__(
        self,
        label: str,
        turns: Turns,
        options: Timing,
        timer: Timer,
        watch: Watch,
        clock: Clock,
        flush: Callable[[], None] | None = None,
        process: int = 0,
    ):
        self.label, self._options, self._process, self._turns = label, options, process, turns
        self._watch = watch
        self._sampler = Sampler(timer, watch, self._warm_up, clock)
        self._rule = BlockConvergence(options.min_samples, options.min_time_s, enough_half_width(timer))
        self._burst = options.regime == "burst"
        self._before = flush if self._burst and options.cache == "cold" else None
        self._blocks: list[tuple[int, Taken]] = []
        self._warmup_s = 0.0
        self.call_s = 0.0  # what a call is taken to last; sizes of blocks and of samples follow from it

    def warm_up(self) -> None:
        """Once, before the first block."""
        self.call_s, self._warmup_s = self._warm_up()

    def _warm_up(self) -> tuple[float, float]:
        timer, options = self._sampler.timer, self._options
        settle = settle_s(options, timer)
        warm = warm_up(self._turns, timer, self._sampler.clock, options.warmup_s, settle, self._watch)
        return warm.estimate_s, warm.spent_s

    @property
    def done(self) -> bool:
        return self._rule.done()

    def enough(self, more: float) -> bool:
        """Whether its stopping rule has enough, or would not have with `more` times as many samples either."""
        return self._rule.done() or self._rule.beyond_reach(more)

    @property
    def limit_s(self) -> float:
        """Seconds that its samples may take, once it is warm."""
        return sampling_s(self._options, self._warmup_s)

    @property
    def lost_s(self) -> float:
        """Seconds lost to blocks that the machine spoilt."""
        return self._sampler.lost_s

    def take(self, round: int, growth: int) -> None:
        """One block. Raises what the call raises, and Unstable."""
        sampler, per_sample = self._sampler, self._sampler.timer.region(self.call_s)
        if self._burst:
            sampler.clock.sleep(BURST_IDLE_S)
        elif lead_in(self.call_s):
            sampler.timer.take(self._turns, lead_in(self.call_s), 1, None)
        count = block_samples(self.call_s * per_sample, self._options, growth)
        taken = sampler.take_block(self._turns, count, per_sample, self._before)
        self._blocks.append((round, taken))
        self._rule.add(taken.samples_s, per_sample)

    def measurement(self, together: Sequence[str], order_seed: int, early: bool = False) -> Measurement:
        """What was taken. early: whether the rounds ended before their time, since every arm had enough of them."""
        timer, unmet = self._sampler.timer, self._rule.unmet()
        keep = max(1, KEPT_SAMPLES // len(self._blocks))
        blocks = tuple(taken.block(self._process, round, self.label, keep) for round, taken in self._blocks)
        return Measurement(
            blocks=blocks,
            timer=timer.name,
            regime=self._options.regime,
            cache=self._options.cache,
            calls_per_sample=timer.region(self.call_s),
            converged=not unmet,
            unmet=unmet,
            outliers=flagged(blocks),
            input_sets=len(self._turns),
            warmup_s=self._warmup_s,
            discarded=dict(self._sampler.discarded),
            flags=(*self._sampler.flags, *self._rule.flags(), *((GAVE_UP,) if early and unmet else ())),
            together=tuple(together),
            order_seed=order_seed,
        )


def block_samples(sample_s: float, options: Timing, growth: int) -> int:
    """Samples in a block, for samples of about that length."""
    if options.regime == "burst":
        return max(1, min(options.min_samples, int(BURST_WORK_S / sample_s)))
    wanted = growth * max(BLOCK_SAMPLES, math.ceil(BLOCK_S / sample_s))
    return max(1, min(wanted, int(options.max_time_s / (LEAST_ROUNDS * BLOCKS_A_ROUND) / sample_s)))


def lead_in(call_s: float) -> int:
    """Untimed calls ahead of a block, for calls of about that length."""
    return min(LEAD_IN_CALLS, int(LEAD_IN_S / call_s))

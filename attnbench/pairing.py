"""From the measurements of both sides of a case to a pair that can be judged: in time, in cycles, and their clocks."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

from attnbench.differences import (
    Difference,
    NotEnough,
    Weigh,
    across_processes,
    block_median_s,
    level,
    process_differences,
    suite_mean,
)
from attnbench.records.measurement import Block, Measurement
from attnbench.stored_baseline import Levels, against_runs, suite_against_runs
from attnbench.verdict import FEWEST_PROCESSES, INCONCLUSIVE, Pair

Key = TypeVar("Key", bound=Hashable)
# A case's measurements of one side, by run; None for a run that has none.
ByRun = Sequence[Measurement | None]
# A side's clock is known where at least this share of each process's blocks has a reading: a query that failed once
# must not hide that a card ran at another clock, and few readings would stand for blocks that nobody watched.
CLOCKED_SHARE = 0.5


def took_turns(base: Measurement, new: Measurement) -> bool:
    """Whether two measurements were interleaved with each other: two arms of one schedule, and at the same time.

    NOTE: the order follows from the case and the backends, so two unrelated runs have it in common. What they do not have
    is different arms for one backend.
    """
    arms = [{block.arm for block in one.blocks} for one in (base, new)]
    if not base.together or (base.together, base.order_seed) != (new.together, new.order_seed) or arms[0] & arms[1]:
        return False
    spans = [_spans(one.blocks) for one in (base, new)]
    shared = spans[0].keys() & spans[1].keys()
    return bool(shared) and all(_overlap(spans[0][process], spans[1][process]) for process in shared)


def pair_of_turns(base: Measurement, new: Measurement) -> Pair:
    """The pair of a case whose sides took turns in the same processes; inconclusive with too few processes."""
    try:
        time = across_processes(process_differences(base.blocks, new.blocks).values(), FEWEST_PROCESSES)
    except NotEnough as reason:
        return Pair(refused=INCONCLUSIVE, reason=str(reason))
    if not _clocks_known((base, new)):
        return Pair(time)
    found = process_differences(_weighed(base, block_cycles), _weighed(new, block_cycles), block_cycles)
    try:
        cycles = across_processes(found.values(), FEWEST_PROCESSES)
    except NotEnough:  # the readings of the two sides are of different rounds
        return Pair(time)
    return Pair(time, cycles, clock_shift((base,), (new,)))


def suite_of_turns(cases: Sequence[tuple[Measurement, Measurement]]) -> Pair:
    """The geometric mean over cases whose sides took turns; inconclusive with too few processes."""

    def mean(weigh: Weigh) -> Difference:
        found = [process_differences(_weighed(base, weigh), _weighed(new, weigh), weigh) for base, new in cases]
        return suite_mean(found, FEWEST_PROCESSES)

    return _suite(mean, [((base,), (new,)) for base, new in cases])


def pairs_of_runs(cases: Mapping[Key, tuple[ByRun, ByRun]]) -> dict[Key, Pair]:
    """The pairs of a suite against stored runs; inconclusive where too few stored runs measured a case."""
    times = against_runs({key: _levels(base, new, block_median_s) for key, (base, new) in cases.items()})
    clocked = {key: sides for key, sides in cases.items() if all(map(_clocks_known, sides))}
    cycles = against_runs({key: _levels(base, new, block_cycles) for key, (base, new) in clocked.items()})
    return {key: _pair(times[key], cycles.get(key), cases[key]) for key in cases}


def suite_of_runs(cases: Sequence[tuple[ByRun, ByRun]]) -> Pair:
    """The geometric mean over cases against stored runs; inconclusive where too few measured all of them."""

    def mean(weigh: Weigh) -> Difference:
        return suite_against_runs([_levels(base, new, weigh) for base, new in cases])

    return _suite(mean, cases)


def block_cycles(block: Block) -> float:
    """SM cycles of a call: the block's median time x its mean SM clock, of which it must have a reading."""
    return block_median_s(block) * block.conditions.sm_clock_mhz * 1e6


def clock_shift(base: ByRun, new: ByRun) -> float:
    """ln(new / base) of the median SM clock of either side's blocks, of those that have a reading (there are some)."""
    clocks = [
        statistics.median(block.conditions.sm_clock_mhz for block in _blocks(side) if _has_clock(block))
        for side in (base, new)
    ]
    return math.log(clocks[1] / clocks[0])


def typical_s(side: ByRun) -> float | None:
    """Seconds per call of a side, for display: the geometric mean of its runs' medians; None where it has none."""
    levels = [level(one.blocks) for one in side if one is not None]
    return math.exp(statistics.fmean(levels)) if levels else None


def _suite(mean: Callable[[Weigh], Difference], cases: Sequence[tuple[ByRun, ByRun]]) -> Pair:
    try:
        time = mean(block_median_s)
    except NotEnough as reason:
        return Pair(refused=INCONCLUSIVE, reason=str(reason))
    if not all(_clocks_known(side) for sides in cases for side in sides):
        return Pair(time)
    try:
        cycles = mean(block_cycles)
    except NotEnough:
        return Pair(time)
    return Pair(time, cycles, statistics.fmean(clock_shift(*sides) for sides in cases))


def _pair(time: Difference | NotEnough, cycles: Difference | NotEnough | None, sides: tuple[ByRun, ByRun]) -> Pair:
    if isinstance(time, NotEnough):
        return Pair(refused=INCONCLUSIVE, reason=str(time))
    return Pair(time) if cycles is None else Pair(time, cycles, clock_shift(*sides))


def _levels(base: ByRun, new: ByRun, weigh: Weigh) -> Levels:
    return Levels(
        *(tuple(None if one is None else level(_weighed(one, weigh), weigh) for one in side) for side in (base, new))
    )


def _weighed(measurement: Measurement, weigh: Weigh) -> Sequence[Block]:
    """The blocks that `weigh` can tell the value of: in cycles, those with a reading of the clock."""
    return list(filter(_has_clock, measurement.blocks)) if weigh is block_cycles else measurement.blocks


def _clocks_known(side: ByRun) -> bool:
    """Whether each process of each measurement has readings for CLOCKED_SHARE of its blocks."""
    for measurement in side:
        by_process: dict[int, list[bool]] = defaultdict(list)
        for block in measurement.blocks if measurement is not None else ():
            by_process[block.process].append(_has_clock(block))
        if any(sum(known) < CLOCKED_SHARE * len(known) for known in by_process.values()):
            return False
    return True


def _has_clock(block: Block) -> bool:
    return block.conditions is not None and bool(block.conditions.sm_clock_mhz)


def _blocks(side: ByRun) -> list[Block]:
    return [block for one in side if one is not None for block in one.blocks]


def _spans(blocks: Sequence[Block]) -> dict[int, tuple[float, float]]:
    """By process, when its first and its last block began."""
    starts: dict[int, list[float]] = {}
    for block in blocks:
        starts.setdefault(block.process, []).append(block.start_s)
    return {process: (min(times), max(times)) for process, times in starts.items()}


def _overlap(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[0] <= other[1] and other[0] <= one[1]

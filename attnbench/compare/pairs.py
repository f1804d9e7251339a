"""The records of each case on each backend from every run of both sides, and why some have no difference in time."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from attnbench.case import Case
from attnbench.compare.differences import (
    Difference,
    Levels,
    NotEnough,
    Weigh,
    across_processes,
    against_runs,
    block_median_s,
    level,
    process_differences,
    suite_against_runs,
    suite_mean,
)
from attnbench.compare.doubts import Own, own_errors
from attnbench.compare.verdict import (
    FASTER,
    FEWEST_PROCESSES,
    INCONCLUSIVE,
    MISSING,
    NEW,
    NOT_COMPARABLE,
    SLOWER,
    Pair,
)
from attnbench.records.measurement import Block, Measurement
from attnbench.records.record import Record
from attnbench.records.store import Run
from attnbench.units import show_time

# One stored run in so many is too few to say what the code can take: it may have been disturbed unnoticed.
REFUTING = 10
Name = tuple[str, str]  # (case key, backend)


@dataclass(slots=True)
class CaseRecords:
    """The records of one case on one backend, by run; None for a run that has none."""

    base: list[Record | None]
    new: list[Record | None]

    @property
    def timed(self) -> tuple[ByRun, ByRun]:
        return _measurements(self.base), _measurements(self.new)


def gather(base: Sequence[Run], new: Sequence[Run]) -> dict[Name, CaseRecords]:
    """By (case key, backend), base's cases first; of two records of one run the later counts."""
    cases: dict[Name, CaseRecords] = {}
    for side, runs in (("base", base), ("new", new)):
        for place, run in enumerate(runs):
            for record in run.records:
                name = record.case_key, record.backend
                if name not in cases:
                    cases[name] = CaseRecords([None] * len(base), [None] * len(new))
                getattr(cases[name], side)[place] = record
    return cases


def refusal(case: CaseRecords, measured_on: str) -> Pair | None:
    """Why a case has no difference in time, from which records there are and what became of them; None where it may.

    measured_on: that NEW measured it on other inputs, or "".
    """
    base, new = [list(filter(None, side)) for side in (case.base, case.new)]
    timed_before, timed_now = (any(side) for side in case.timed)
    if not base:
        return Pair(refused=NEW, reason="not in the baseline")
    if all(record.status == "unsupported" for record in base):
        return Pair(refused=NEW, reason="unsupported in the baseline") if timed_now else None
    if not new:
        if measured_on:
            return Pair(refused=NOT_COMPARABLE, reason=measured_on)
        return Pair(refused=MISSING, reason="in the baseline, and not measured")
    if all(record.status == "unsupported" for record in new):
        return Pair(refused=MISSING, reason=f"unsupported now: {new[0].reason.splitlines()[0]}")
    if timed_before and not timed_now:
        status = new[-1].status
        return Pair(refused=MISSING, reason="checked, and not timed" if status == "ok" else f"{status}, so not timed")
    if timed_now and not timed_before:
        status = base[-1].status
        if status == "ok":
            return Pair(refused=NEW, reason="not timed in the baseline")
        return Pair(refused=INCONCLUSIVE, reason=f"{status} in the baseline, so it was not timed there")
    return None


def other_inputs(cases: Mapping[Name, CaseRecords]) -> dict[Name, str]:
    """For cases that only the baseline has: that NEW measured the same problem on other inputs, and on which."""
    only_new = {_problem(name, one): _inputs(one) for name, one in cases.items() if not any(one.base)}
    found = {}
    for name, one in cases.items():
        now = None if any(one.new) or not only_new else only_new.get(_problem(name, one))
        if now is not None:
            found[name] = f"inputs: {_inputs(one)} before, {now} now"
    return found


def _problem(name: Name, one: CaseRecords) -> tuple[object, ...]:
    """What is computed, apart from the values that it is computed on; and by whom."""
    fields = _case(one).to_dict()
    return (name[1], *(value for field, value in fields.items() if field not in ("inputs", "seed")))


def _inputs(one: CaseRecords) -> str:
    return f"{_case(one).inputs}.{_case(one).seed}"


def _case(one: CaseRecords) -> Case:
    return next(record.case for record in (*one.base, *one.new) if record is not None)


def _measurements(records: Sequence[Record | None]) -> list[Measurement | None]:
    measurements = (None if record is None else record.measurement for record in records)
    return [None if each is None else each.as_used for each in measurements]


# From the measurements of both sides of a case to a pair that can be judged: in time, in cycles, and their clocks.

Key = TypeVar("Key", bound=Hashable)
# A case's measurements of one side, by run; None for a run that has none.
ByRun = Sequence[Measurement | None]
# A side's clock is known where at least this share of each process's blocks has a reading: a query that failed once
# must not hide that a card ran at another clock, and few readings would stand for blocks that nobody watched.
CLOCKED_SHARE = 0.5


def took_turns(base: Measurement, new: Measurement) -> bool:
    """Whether two measurements were interleaved with each other: two arms of one schedule, and at the same time.

    NOTE: the order follows from the case and the backends, so two unrelated runs have it in common. What they do not
    have is different arms for one backend.
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
    levels = dict(zip(cases, _levels(list(cases.values()), block_median_s)))
    times = against_runs(levels)
    clocked = {key: sides for key, sides in cases.items() if all(map(_clocks_known, sides))}
    cycles = against_runs(dict(zip(clocked, _levels(list(clocked.values()), block_cycles))))
    return {key: _pair(times[key], cycles.get(key), cases[key], levels[key]) for key in cases}


def suite_of_runs(cases: Sequence[tuple[ByRun, ByRun]]) -> Pair:
    """The geometric mean over cases against stored runs; inconclusive where too few measured all of them."""

    def mean(weigh: Weigh) -> Difference:
        return suite_against_runs(_levels(cases, weigh))

    return _suite(mean, cases)


def block_cycles(block: Block) -> float:
    """SM cycles of a call: the block's median time x its mean SM clock, of which it must have a reading."""
    clock_mhz = _clock_mhz(block)
    assert clock_mhz is not None, "`_weighed` leaves out blocks without a reading"
    return block_median_s(block) * clock_mhz * 1e6


def clock_shift(base: ByRun, new: ByRun) -> float:
    """ln(new / base) of the median SM clock of either side's blocks, of those that have a reading (there are some)."""
    clocks = [
        statistics.median(clock_mhz for block in _blocks(side) if (clock_mhz := _clock_mhz(block)))
        for side in (base, new)
    ]
    return math.log(clocks[1] / clocks[0])


def known_clock_shift(base: ByRun, new: ByRun) -> float | None:
    """`clock_shift`; None where the clocks of a side are not known."""
    return clock_shift(base, new) if all(map(_clocks_known, (base, new))) and any(base) and any(new) else None


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


def _pair(
    time: Difference | NotEnough, cycles: Difference | NotEnough | None, sides: tuple[ByRun, ByRun], levels: Levels
) -> Pair:
    if isinstance(time, NotEnough):
        return Pair(refused=INCONCLUSIVE, reason=str(time), too_few=True)
    # NOTE: cycles are known of as many runs as times are, so that there is enough of one where there is of the other.
    seen = _seen(levels)
    if isinstance(cycles, Difference):
        return Pair(time, cycles, clock_shift(*sides), seen=seen)
    return Pair(time, seen=seen)


def _seen(levels: Levels) -> dict[str, str]:
    """Verdicts that stored runs refute: NEW is as slow, or as fast, as the same code was in one of them.

    Cases lend each other strength, so that one which is wide by itself may count as narrow. Of many runs the slowest
    and the fastest tenth refute nothing.
    """
    ordered = sorted(value for value in levels.base if value is not None)
    new = statistics.fmean(value for value in levels.new if value is not None)
    cut = len(ordered) // REFUTING
    least, most = ordered[cut], ordered[-1 - cut]
    return {
        kind: f"a stored run took {show_time(math.exp(value))}, NEW {show_time(math.exp(new))}"
        for kind, value, refuted in ((SLOWER, most, new <= most), (FASTER, least, new >= least))
        if refuted
    }


def _levels(cases: Sequence[tuple[ByRun, ByRun]], weigh: Weigh) -> list[Levels]:
    """Of each case; what its records say of themselves is the same in seconds and in cycles."""
    owns = iter(own_errors([one for sides in cases for side in sides for one in side if one is not None]))
    found = []
    for sides in cases:
        levels = [[None if one is None else level(_weighed(one, weigh), weigh) for one in side] for side in sides]
        own = [[next(owns) for one in side if one is not None] for side in sides]
        found.append(Levels(tuple(levels[0]), tuple(levels[1]), *_own_parts(own[0], own[1], _less_sure(*sides))))
    return found


def _less_sure(base: ByRun, new: ByRun) -> bool:
    """Whether NEW did not converge where all of the base did."""
    return not all(one.converged for one in new if one) and all(one.converged for one in base if one)


def _own_parts(base: Sequence[Own], new: Sequence[Own], less_sure: bool) -> tuple[float, float, float]:
    """(variance of a level of the base, what the difference may be less, what it may be more) by the records' samples.

    What is usual in the base is in the spread of its runs already; all of NEW's counts where it is `less_sure`.
    """
    if not base or not new:
        return 0.0, 0.0, 0.0
    usual = 0.0 if less_sure else statistics.fmean((one.down + one.up) / 2 for one in base)
    down, up = (max(0.0, statistics.fmean(getattr(one, way) for one in new) - usual) for way in ("down", "up"))
    return statistics.fmean(one.standard_error**2 for one in base), down, up


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
    return bool(_clock_mhz(block))


def _clock_mhz(block: Block) -> float | None:
    return None if block.conditions is None else block.conditions.sm_clock_mhz


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

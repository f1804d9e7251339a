"""What a measurement says of itself that a verdict must heed: its own interval, other work on its CPUs, two speeds.

Other work only adds time. So a NEW that it disturbed cannot be shown to be slower, nor a disturbed baseline that
something is faster, and of neither that the two are the same.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from attnbench.compare.verdict import FASTER, SAME, SLOWER
from attnbench.records.measurement import Measurement
from attnbench.records.result import HOST_TIMER, Observed
from attnbench.records.stats import Interval, medians_and_intervals, two_speeds
from attnbench.units import show_time

# The flag of a measurement during which there was more work than CPUs, as `conditions` sets it.
CPU_LOADED = "cpu_loaded"
# On a CPU where a tenth of the calls takes this many times the median, something else ran: of the 220 committed records
# that are timed none does, and of 48 on two overloaded cores 46 do. The load average that CPU_LOADED goes by takes half
# a minute to notice.
DISTURBED = 2.5


@dataclass(frozen=True, slots=True)
class Own:
    """How far a measurement's median may lie from where it is, by its own samples, in logs: down, up (both positive).

    standard_error: of a normal median with an interval as wide.
    """

    down: float = 0.0
    up: float = 0.0
    standard_error: float = 0.0


def own_errors(measurements: Sequence[Measurement]) -> list[Own]:
    """Of each, from the interval of its median, and the share of the CPUs' time that a host took meanwhile.

    Too few samples for an interval: their 10th to 90th percentile where the measurement did not converge, else nothing.
    """
    found = medians_and_intervals(measurements)
    return [_own(one, median_s, interval) for one, (median_s, interval) in zip(measurements, found)]


def _own(measurement: Measurement, median_s: float, interval: Interval | None) -> Own:
    ends = _ends(measurement, interval)
    stolen = (Observed.of(measurement).stolen or 0.0) if measurement.timer == HOST_TIMER else 0.0
    taken = -math.log1p(-min(stolen, 0.99))
    if ends is None:
        return Own(down=taken)
    low_s, high_s, coverage = ends
    median_s = min(max(median_s, low_s), high_s)
    spread = math.log(high_s / low_s) / 2 / statistics.NormalDist().inv_cdf((1 + coverage) / 2)
    return Own(math.log(median_s / low_s) + taken, math.log(high_s / median_s), spread)


def _ends(measurement: Measurement, interval: Interval | None) -> tuple[float, float, float] | None:
    """(low, high) of the median in seconds, and the coverage."""
    if interval is not None:
        return interval.low_s, interval.high_s, interval.coverage
    if measurement.converged:
        return None
    ordered = sorted(measurement.samples_s)
    cut = (len(ordered) - 1) // 10
    return ordered[cut], ordered[-1 - cut], 0.8


def disturbance(measurement: Measurement) -> str:
    """What else its CPUs did while it was timed, in words; "" where nothing says so, and on a GPU."""
    if measurement.timer != HOST_TIMER:
        return ""
    if CPU_LOADED in measurement.flags:
        load = Observed.of(measurement).load
        return f"{CPU_LOADED}{'' if load is None else f' (load {load:.1f})'}"
    ordered = sorted(measurement.samples_s)
    slow = ordered[-1 - (len(ordered) - 1) // 10] / statistics.median(ordered)
    return f"a tenth of its calls took {slow:.1f} times the median or more" if slow > DISTURBED else ""


def speeds(measurement: Measurement) -> str:
    """`two speeds, 4.00 ms and 8.00 ms`, of the process that has them; "" where most processes have one."""
    samples: dict[int, list[float]] = defaultdict(list)
    for block in measurement.blocks:
        samples[block.process] += block.samples_s
    found = [pair for one in samples.values() if (pair := two_speeds(one))]
    if 2 * len(found) <= len(samples):
        return ""
    return "two speeds, {} and {}".format(*map(show_time, found[0]))


def without_disturbed(base: Sequence[Measurement | None], fewest: int) -> tuple[Sequence[Measurement | None], int]:
    """(the measurements that nothing disturbed, if there are `fewest`, else all; how many were left out)."""
    still = [None if one is None or disturbance(one) else one for one in base]
    kept, measured = (sum(one is not None for one in side) for side in (still, base))
    return (still, measured - kept) if kept >= fewest else (base, 0)


def doubted(base: Iterable[Measurement], new: Iterable[Measurement], turns: bool) -> Mapping[str, str]:
    """Verdicts that a pair cannot have, with the reason. turns: both sides were disturbed alike, and together."""
    found: dict[str, str] = {}
    sides = (("the baseline", tuple(base), (FASTER, SAME)), ("NEW", tuple(new), (SLOWER, SAME)))
    for name, side, kinds in sides:
        word = "" if turns else next(filter(None, map(disturbance, side)), "")
        if word:
            found |= dict.fromkeys(kinds, f"{name} says of itself: {word}")
    for name, side, _ in sides:
        word = next(filter(None, map(speeds, side)), "")
        if word:
            found |= dict.fromkeys((SLOWER, FASTER, SAME), f"{name} has {word}, and no median between them")
    return found

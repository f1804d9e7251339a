"""From readings of the machine to the conditions of a block, and to what becomes of it: discarded, flagged, kept.

The rules are those of docs/explanation/watching.md; each threshold is a constant here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from attnbench.machine import nvml
from attnbench.records.measurement import Conditions
from attnbench.timing.sampling import BACKWARDS, Usability

# Flags, as they stand in a measurement.
POWER_CAPPED = "power_capped"  # the software power cap was active: usual for attention on H100, and part of the result
APPLICATION_CLOCKS = "application_clocks"  # the clock is set below what the card could reach
HOST_BOUND = "host_bound"  # the GPU was idle in the middle of a block
CLOCK_VARIED = "clock_varied"  # the SM clock varied by more than CLOCK_SPREAD within a block
CLOCK_BACKWARDS = "clock_backwards"  # a clock or counter of the telemetry ran backwards
CPU_STOLEN = "cpu_stolen"  # the host of a virtual machine took CPU time away
CPU_LOADED = "cpu_loaded"  # more work than CPUs: something else ran
TELEMETRY_INCOMPLETE = "telemetry_incomplete"  # a query failed, or no reading was taken in time

CLOCK_SPREAD = 0.01
STOLEN_SHARE = 0.01
# Our own threads make a load of 1 a CPU; what is over that by a quarter is other work.
LOAD_PER_CPU = 1.25
# One reading may still show how the GPU stood before the block; two in a row do not.
IDLE_READINGS = 2
NO_READING = "no reading in time"


@dataclass(frozen=True, slots=True)
class Reading:
    """One look at the machine, at a time of the sampler's clock. energy_j, stolen_s and cpu_s are counters."""

    time_s: float
    sm_clock_mhz: float | None = None
    memory_clock_mhz: float | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    energy_j: float | None = None
    temperature_c: float | None = None
    memory_temperature_c: float | None = None
    reasons: int | None = None
    cpu_clock_mhz: float | None = None
    load: float | None = None
    stolen_s: float | None = None
    cpu_s: float | None = None
    problems: tuple[str, ...] = ()


def summarize(readings: Sequence[Reading], start_s: float, end_s: float) -> Conditions:
    """The conditions of a block from the readings in time order around it; those inside it count, or its neighbours."""
    inside = [reading for reading in readings if start_s <= reading.time_s <= end_s]
    used, count = inside or _neighbours(readings, start_s, end_s), len(inside)
    if not used:
        return Conditions(problems=(NO_READING,))
    clocks = _known(used, "sm_clock_mhz")
    energy_j, energy_span_s, problems = _energy(used)
    problems += [problem for reading in used for problem in reading.problems]
    return Conditions(
        telemetry_samples=count,
        sm_clock_mhz=_mean(clocks),
        sm_clock_spread=_short((max(clocks) - min(clocks)) / max(clocks)) if clocks and max(clocks) > 0 else None,
        memory_clock_mhz=_mean(_known(used, "memory_clock_mhz")),
        power_w=_mean(_known(used, "power_w")),
        power_limit_w=min(_known(used, "power_limit_w"), default=None),
        energy_j=energy_j,
        energy_span_s=energy_span_s,
        temperature_c=max(_known(used, "temperature_c"), default=None),
        memory_temperature_c=max(_known(used, "memory_temperature_c"), default=None),
        reasons=nvml.names(_reasons(used)),
        cpu_clock_mhz=_mean(_known(used, "cpu_clock_mhz")),
        load=_mean(_known(used, "load")),
        stolen=_stolen(readings, start_s, end_s),
        problems=tuple(dict.fromkeys(problems)),
    )


def make_judge(cpus: int) -> Callable[[Conditions | None], Usability]:
    """The rules, for a machine with so many CPUs: whether a block is kept, and what is said of it."""

    def judge(conditions: Conditions | None) -> Usability:
        if conditions is None:
            return Usability()
        spoilt = [name for name in conditions.reasons if name in _SPOILING]
        return Usability(discard=" + ".join(spoilt) or None, flags=tuple(_flags(conditions, cpus)))

    return judge


_SPOILING = {nvml.NAMES[bit] for bit in nvml.SLOWDOWNS}
_FLAG_OF_REASON = {
    nvml.NAMES[nvml.GPU_IDLE]: HOST_BOUND,
    nvml.NAMES[nvml.APPLICATION_CLOCKS]: APPLICATION_CLOCKS,
    nvml.NAMES[nvml.POWER_CAP]: POWER_CAPPED,
}


def _flags(conditions: Conditions, cpus: int) -> Iterator[str]:
    yield from (_FLAG_OF_REASON[name] for name in conditions.reasons if name in _FLAG_OF_REASON)
    if (conditions.sm_clock_spread or 0) > CLOCK_SPREAD:
        yield CLOCK_VARIED
    if (conditions.stolen or 0) > STOLEN_SHARE:
        yield CPU_STOLEN
    if (conditions.load or 0) > LOAD_PER_CPU * cpus:
        yield CPU_LOADED
    if any(BACKWARDS in problem for problem in conditions.problems):
        yield CLOCK_BACKWARDS
    if any(BACKWARDS not in problem for problem in conditions.problems):
        yield TELEMETRY_INCOMPLETE


def _neighbours(readings: Sequence[Reading], start_s: float, end_s: float) -> list[Reading]:
    """The last reading before a block too short to hold one, and the first after it."""
    before = [reading for reading in readings if reading.time_s < start_s][-1:]
    return before + [reading for reading in readings if reading.time_s > end_s][:1]


def _reasons(used: Sequence[Reading]) -> int:
    """Every bit that was seen; idle only where it was seen often enough to be no leftover of before the block."""
    bits = [reading.reasons or 0 for reading in used]
    seen = 0
    for each in bits:
        seen |= each
    idle = sum(bool(each & nvml.GPU_IDLE) for each in bits)
    return seen if idle >= IDLE_READINGS else seen & ~nvml.GPU_IDLE


def _energy(used: Sequence[Reading]) -> tuple[float | None, float | None, list[str]]:
    """(joules, the seconds they were used in, problems): the counter's last value less its first."""
    counted = [(reading.time_s, reading.energy_j) for reading in used if reading.energy_j is not None]
    if any(later_j < earlier_j for (_, earlier_j), (_, later_j) in pairwise(counted)):
        return None, None, [f"energy counter: {BACKWARDS}"]
    if len(counted) < 2:
        return None, None, []
    (first_s, first_j), (last_s, last_j) = counted[0], counted[-1]
    return (_short(last_j - first_j), _short(last_s - first_s), []) if last_s > first_s else (None, None, [])


def _stolen(readings: Sequence[Reading], start_s: float, end_s: float) -> float | None:
    """The share of CPU time that was stolen, over the readings from just before the block to just after it."""
    counted = [
        (reading.time_s, reading.stolen_s, reading.cpu_s)
        for reading in readings
        if reading.stolen_s is not None and reading.cpu_s is not None
    ]
    before = [counter for counter in counted if counter[0] <= start_s][-1:]
    around = before + [counter for counter in counted if start_s < counter[0] <= end_s]
    if len(around) < 2:
        return None
    (_, first_stolen_s, first_cpu_s), (_, last_stolen_s, last_cpu_s) = around[0], around[-1]
    if last_cpu_s <= first_cpu_s:
        return None
    return _short(max(0.0, last_stolen_s - first_stolen_s) / (last_cpu_s - first_cpu_s))


def _known(readings: Sequence[Reading], name: str) -> list[float]:
    return [value for value in (getattr(reading, name) for reading in readings) if value is not None]


def _mean(values: Sequence[float]) -> float | None:
    return _short(math.fsum(values) / len(values)) if values else None


def _short(value: float) -> float:
    """To six digits, which no sensor has: a record may hold hundreds of blocks."""
    return float(f"{value:.6g}")

"""A result: a record as it is read, with the run and machine it comes from and what its samples say."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from attnbench.case import Case, LaterCase, forward_flops
from attnbench.records.environment import Machine
from attnbench.records.measurement import TWO_SPEEDS, Block, Conditions, Measurement
from attnbench.records.record import Check, Record
from attnbench.records.stats import Statistics, speeds
from attnbench.records.store import Run

# What a measurement's timer is called when it timed the host's clock: then no GPU's peak applies.
HOST_TIMER = "cpu"
UNKNOWN = Machine("")


@dataclass(frozen=True, slots=True)
class Result:
    """A record, read. Nothing here is stored; everything follows from the record and the run's environment.

    One that holds a measurement is a TimedResult; without one, what follows from times is None. Of a LaterCase with one
    the rate is None all the same.
    """

    run: str
    machine: Machine
    record: Record
    statistics: Statistics | None = field(init=False, default=None)

    @staticmethod
    def of(record: Record, run: str = "", machine: Machine = UNKNOWN) -> Result:
        return _result(run, machine, record, Statistics.of(record.measurement) if record.measurement else None)

    @property
    def case(self) -> Case:
        return self.record.case

    @property
    def backend(self) -> str:
        return self.record.backend

    @property
    def time_s(self) -> float | None:
        """Median seconds per call; None where the record holds no measurement."""
        return None

    @property
    def half_width(self) -> float | None:
        """Half the width of the median's interval, relative to the median; None without one."""
        return None

    @property
    def prep_s(self) -> float | None:
        """Median seconds of the preparation that use repeats for every call (8 bits: quantization); where it was not
        timed as a call, the wall time of `prepare`."""
        return None

    @property
    def prep_about(self) -> str:
        """What `prep_s` is the time of."""
        timed = self.record.measurement.prep_call if self.record.measurement else None
        return "prepare once, wall time, without the reference quantizer" if timed is None else timed.about

    @property
    def flops_per_s(self) -> float | None:
        return None

    @property
    def peak_flops_per_s(self) -> float | None:
        """The datasheet peak that this result is held against; None on a CPU or where no peak is known."""
        measurement = self.record.measurement
        if measurement is None or measurement.timer == HOST_TIMER:
            return None
        return self.machine.peak_flops_per_s(self.case.dtype)

    @property
    def sm_clock_mhz(self) -> float | None:
        """Mean SM clock while it was timed; None where nobody watched."""
        return sm_clock_mhz(self.record.measurement) if self.record.measurement else None

    @property
    def power_w(self) -> float | None:
        """Mean power of the GPU while it was timed; None where it is not known."""
        return power_w(self.record.measurement) if self.record.measurement else None

    @property
    def joules_per_flop(self) -> float | None:
        """Mean power over the blocks / rate: what is used between calls counts too, which is little in sustained."""
        watts = self.power_w
        return None if watts is None or not self.flops_per_s else watts / self.flops_per_s

    @property
    def peak_at_clock_flops_per_s(self) -> float | None:
        """The dense peak at the SM clock that was observed; None without one, on a CPU, or where no peak is known."""
        if self.peak_flops_per_s is None:
            return None
        clock_mhz = self.sm_clock_mhz
        return self.machine.peak_flops_per_s(self.case.dtype, clock_mhz * 1e6) if clock_mhz else None

    @property
    def gemm_flops_per_s(self) -> float | None:
        """The run's own bf16 GEMM rate; None where it was not recorded, and for e4m3, which runs at another rate."""
        return None if self.case.is_fp8 else self.machine.gemm_flops_per_s

    def check(self, rule: str) -> Check | None:
        """The check of that name, the last one where it was applied again after timing; None where it never was."""
        for check in reversed(self.record.accuracy.checks if self.record.accuracy else ()):
            if check.rule == rule:
                return check
        return None

    def check_value(self, rule: str) -> float | None:
        check = self.check(rule)
        return None if check is None else check.value


@dataclass(frozen=True, slots=True)
class _Measured(Result):
    """A result whose record holds a measurement."""

    statistics: Statistics

    @property
    def measurement(self) -> Measurement:
        found = self.record.measurement
        assert found is not None, "`Result.of` and `results` make one of records with a measurement only"
        return found

    @property
    def time_s(self) -> float:
        return self.statistics.median_s

    @property
    def speeds_s(self) -> tuple[float, ...]:
        """See `stats.speeds`; the median is known already."""
        return speeds(self.measurement) if TWO_SPEEDS in self.measurement.flags else (self.time_s,)

    @property
    def half_width(self) -> float | None:
        interval = self.statistics.interval
        return None if interval is None else interval.half_width(self.time_s)

    @property
    def prep_s(self) -> float:
        timed = self.measurement.prep_call
        return self.measurement.prep_s if timed is None else statistics.median(timed.samples_s)


@dataclass(frozen=True, slots=True)
class TimedResult(_Measured):
    """A result that holds a measurement, of a case whose FLOPs are known."""

    @property
    def as_used(self) -> TimedResult:
        """With its measurement as comparisons use it."""
        used = self.measurement.as_used
        if used is self.measurement:
            return self
        return replace(self, record=replace(self.record, measurement=used), statistics=Statistics.of(used))

    @property
    def flops_per_s(self) -> float:
        return forward_flops(self.case) / self.time_s

    @property
    def rates_flops_per_s(self) -> tuple[float, ...]:
        """Of each of `speeds_s`."""
        return tuple(forward_flops(self.case) / time_s for time_s in self.speeds_s)


def _result(run: str, machine: Machine, record: Record, statistics: Statistics | None) -> Result:
    if statistics is None:
        return Result(run, machine, record)
    kind = _Measured if isinstance(record.case, LaterCase) else TimedResult
    return kind(run, machine, record, statistics)


def results(run: Run) -> tuple[Result, ...]:
    """Every record of a run, read; where one case and backend was taken twice, both (see `latest`)."""
    machine = Machine.of(run.environment, run.sentinels)
    of_timed = Statistics.of_all(record.measurement for record in run.records if record.measurement)
    return tuple(
        _result(run.name, machine, record, next(of_timed) if record.measurement else None) for record in run.records
    )


def latest(items: tuple[Result, ...]) -> tuple[Result, ...]:
    """One result for each (run, case, backend): the last that was written, at the first one's place."""
    return tuple({(item.run, item.case, item.backend): item for item in items}.values())


# What the machine did while a measurement was taken: the conditions of its blocks, weighted by their length.

# The driver renews its energy counter every 20 to 100 ms, and H100 looks at its power for 25 ms of every 100 (Z. Yang,
# K. Adamek, W. Armour, "Part-time power measurements: nvidia-smi's lack of attention", arXiv:2312.02741, 2023): what
# either says of a block of 20 ms, in turns with another kernel's, is the other's as well.
LEAST_POWER_SPAN_S = 0.5
# A block's power is the call's where the call had this share of the block; the rest is the spin that hides launches,
# which takes less power, and what the host did in between.
LEAST_BUSY = 0.9

# A block that somebody watched, and what was seen.
_Watched = tuple[Block, Conditions]


@dataclass(frozen=True, slots=True)
class Observed:
    """None where no block knows it. Temperatures: the highest; power: see `power_w`; the rest: means over time."""

    sm_clock_mhz: float | None = None
    power_w: float | None = None
    temperature_c: float | None = None
    memory_temperature_c: float | None = None
    cpu_clock_mhz: float | None = None
    load: float | None = None
    stolen: float | None = None

    @classmethod
    def of(cls, measurement: Measurement) -> Observed:
        watched = _watched(measurement)
        return cls(
            sm_clock_mhz=sm_clock_mhz(measurement),
            power_w=power_w(measurement),
            temperature_c=_most(watched, lambda seen: seen.temperature_c),
            memory_temperature_c=_most(watched, lambda seen: seen.memory_temperature_c),
            cpu_clock_mhz=_mean(watched, lambda seen: seen.cpu_clock_mhz),
            load=_mean(watched, lambda seen: seen.load),
            stolen=_mean(watched, lambda seen: seen.stolen),
        )


def sm_clock_mhz(measurement: Measurement) -> float | None:
    return _mean(_watched(measurement), lambda seen: seen.sm_clock_mhz)


def power_w(measurement: Measurement) -> float | None:
    """Of blocks that are long enough and busy with the call: from the energy counter, else from power readings."""
    watched = [
        (block, seen) for block, seen in _watched(measurement) if _tells_power(block, measurement.calls_per_sample)
    ]
    counted = [
        (seen.energy_j, seen.energy_span_s)
        for _, seen in watched
        if seen.energy_j is not None and seen.energy_span_s is not None and seen.energy_span_s >= LEAST_POWER_SPAN_S
    ]
    if counted:
        return sum(energy_j for energy_j, _ in counted) / sum(span_s for _, span_s in counted)
    return _mean(watched, lambda seen: seen.power_w)


def _tells_power(block: Block, calls_per_sample: int) -> bool:
    busy_s = statistics.fmean(block.samples_s) * block.sample_count * calls_per_sample
    return block.duration_s >= LEAST_POWER_SPAN_S and busy_s >= LEAST_BUSY * block.duration_s


def _watched(measurement: Measurement) -> list[_Watched]:
    return [(block, block.conditions) for block in measurement.blocks if block.conditions is not None]


def _mean(watched: Sequence[_Watched], of: Callable[[Conditions], float | None]) -> float | None:
    """Mean over time; where no block says how long it lasted, over blocks."""
    known = [(value, block.duration_s) for block, seen in watched if (value := of(seen)) is not None]
    if not known:
        return None
    total_s = sum(duration_s for _, duration_s in known)
    if total_s <= 0:
        return statistics.fmean(value for value, _ in known)
    return sum(value * duration_s for value, duration_s in known) / total_s


def _most(watched: Sequence[_Watched], of: Callable[[Conditions], float | None]) -> float | None:
    return max((value for value in (of(seen) for _, seen in watched) if value is not None), default=None)

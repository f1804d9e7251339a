"""A result: a record as it is read, with the run and machine it comes from and what its samples say."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from attnbench.case import Case, forward_flops
from attnbench.observed import power_w, sm_clock_mhz
from attnbench.peaks import Machine
from attnbench.record import Check, Record
from attnbench.stats import Statistics
from attnbench.store import Run

# What a measurement's timer is called when it timed the host's clock: then no GPU's peak applies.
HOST_TIMER = "cpu"
UNKNOWN = Machine("")


@dataclass(frozen=True, slots=True)
class Result:
    """A record, read. Nothing here is stored; everything follows from the record and the run's environment."""

    run: str
    machine: Machine
    record: Record
    statistics: Statistics | None

    @classmethod
    def of(cls, record: Record, run: str = "", machine: Machine = UNKNOWN) -> Result:
        return cls(run, machine, record, Statistics.of(record.measurement) if record.measurement else None)

    @property
    def case(self) -> Case:
        return self.record.case

    @property
    def backend(self) -> str:
        return self.record.backend

    @property
    def time_s(self) -> float | None:
        """Median seconds per call; None where the record holds no measurement."""
        return self.statistics.median_s if self.statistics else None

    @property
    def half_width(self) -> float | None:
        """Half the width of the median's interval, relative to the median; None without one."""
        interval = self.statistics.interval if self.statistics else None
        return None if interval is None else interval.half_width(self.statistics.median_s)

    @property
    def prep_s(self) -> float | None:
        """Median seconds of the preparation that use repeats for every call (8 bits: quantization); where it was not
        timed as a call, the wall time of `prepare`."""
        measurement = self.record.measurement
        if measurement is None:
            return None
        timed = measurement.prep_call
        return measurement.prep_s if timed is None else statistics.median(timed.samples_s)

    @property
    def prep_about(self) -> str:
        """What `prep_s` is the time of."""
        timed = self.record.measurement.prep_call if self.record.measurement else None
        return "prepare once, wall time, without the reference quantizer" if timed is None else timed.about

    @property
    def flops_per_s(self) -> float | None:
        return forward_flops(self.case) / self.statistics.median_s if self.statistics else None

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


def results(run: Run) -> tuple[Result, ...]:
    """Every record of a run, read; where one case and backend was taken twice, both (see `latest`)."""
    machine = Machine.of(run.environment, run.sentinels)
    of_timed = Statistics.of_all(record.measurement for record in run.records if record.measurement)
    return tuple(
        Result(run.name, machine, record, next(of_timed) if record.measurement else None) for record in run.records
    )


def latest(items: tuple[Result, ...]) -> tuple[Result, ...]:
    """One result for each (run, case, backend): the last that was written, at the first one's place."""
    return tuple({(item.run, item.case, item.backend): item for item in items}.values())

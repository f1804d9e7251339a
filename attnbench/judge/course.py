"""How a candidate is gone through: its cases untimed, the cheapest first, until one fails; then timed in turns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from attnbench.backend import never_timed
from attnbench.backends import builtin
from attnbench.case import forward_flops
from attnbench.compare.differences import level
from attnbench.judge.twins import SPEC, twin_name
from attnbench.messages import Ready
from attnbench.plugins import split_spec
from attnbench.records.record import EMULATED, INTERPRETED, Record
from attnbench.run.process import RunError
from attnbench.run.runner import Request, Stage, unknown_backend
from attnbench.suite.suite import Job

# What judging a problem costs beside its FLOPs, in FLOPs, such as drawing inputs: 0.04 s on two cores, at 6e9 FLOP/s.
FIXED_FLOPS = 2.5e8
# Of a wrong result, mistakes are tried tile by tile of keys: what that adds, in FLOPs a key.
DIAGNOSIS_FLOPS = 1e5
# A probe, of a case's own: most draw little and hold few rows against the oracle.
PROBE = 0.6
# A case's result is computed by the oracle in fp64 and by the eager reference, which take so many times the kernel's.
REFERENCES = 4
# Cases on which the incumbent faces itself.
NULLS = 3
# A case is timed for so long at least, where it does not converge before: for enough rounds to tell their spread.
LEAST_MAX_TIME_S = 1.0
# Cases on which the stock backends are tried for the fastest, where the first has none that takes it.
TRIED = 3


class JudgeCourse:
    """The course of one candidate; afterwards it says who it was and whom it was held against.

    against: the backend asked for, or the one that was chosen. null: the one that faces itself, the incumbent where
    it is stock, else another stock one. untimed: why nothing is timed, "" where it is. timing:
    whether it came so far.
    """

    def __init__(self, against: str | None):
        self.against, self.null, self.name, self.untimed = against, "", "", ""
        self.timing = False
        self.further: tuple[str, ...] = ()
        self.jobs: dict[str, Job] = {}  # those of the suite, by case key
        self._stock: tuple[str, ...] = ()

    def backends(self, request: Request, ready: Ready) -> tuple[str, ...]:
        """The candidate, and the incumbent or what may be it. Raises RunError where there is not just one candidate,
        or one of them is not there or cannot run here."""
        self.name = _candidate(request, ready)
        known = builtin()
        self._stock = tuple(name for name in ready.unasked if name in known and not never_timed(known[name]))
        if self.against is not None and self.against not in ready.backends:
            raise RunError(f"--against: {unknown_backend(self.against, tuple(ready.backends))}")
        for name in (self.name, *filter(None, [self.against])):
            reason = ready.backends[name]
            if reason is not None:
                raise RunError(f"{name} cannot run here: {reason}")
        return (*([self.against] if self.against else self._stock), self.name)

    def stages(self, jobs: Sequence[Job], backends: Sequence[str], records: Sequence[Record]) -> Iterator[Stage]:
        self.jobs = {job.case.key: job for job in jobs}
        for job in cheapest_first(jobs):
            yield [replace(job, time=False)], [self.name]
            if self.failed(records):
                return
        timed = self._to_time(jobs, records)
        if not timed:
            return
        yield from self._choose_incumbent(timed, records)
        if self.against is None:
            return
        self.timing = True
        self.further = (SPEC,)  # not before: another import, and without trust another process
        nulls = {job.case.key for job in spread(timed, NULLS)}
        self.null = self.against if self.against in builtin() else next(iter(self._stock), "")
        twins = [self.null, twin_name(self.null)] if self.null else []
        for job in timed:
            facing = twins if job.case.key in nulls else []
            yield [job], tuple(dict.fromkeys((self.against, *facing, self.name)))
            if self.failed(records):
                return

    def failed(self, records: Sequence[Record]) -> list[Record]:
        """What the candidate failed in, each case once."""
        of = {record.case_key: record for record in records if record.backend == self.name}
        return [record for record in of.values() if record.status in ("incorrect", "error")]

    def _to_time(self, jobs: Sequence[Job], records: Sequence[Record]) -> list[Job]:
        """The timed cases that it is right in, from the one with the least to compute."""
        right = {record.case_key: record for record in records if record.backend == self.name and record.status == "ok"}
        timed = [job for job in jobs if job.time and job.case.key in right]
        if not any(job.time for job in jobs):
            self.untimed = "the suite times no case"
        elif not timed:
            self.untimed = "it takes no case that the suite times"
        elif any({EMULATED, INTERPRETED} & set(record.kernel or ()) for record in right.values()):
            self.untimed, timed = "kernels in an interpreter or an emulation are never timed", []
        return sorted(map(_long_enough, timed), key=lambda job: forward_flops(job.case))

    def _choose_incumbent(self, timed: Sequence[Job], records: Sequence[Record]) -> Iterator[Stage]:
        """The fastest stock backend on the case with the most to compute that one of them takes."""
        if self.against is not None or len(self._stock) <= 1:
            self.against = self.against or next(iter(self._stock), None)
            return
        for job in list(reversed(timed))[:TRIED]:
            before = len(records)
            yield [job], self._stock
            times = {
                record.backend: level(record.measurement.blocks) for record in records[before:] if record.measurement
            }
            if times:
                self.against = min(times, key=times.__getitem__)
                return


def cheapest_first(jobs: Sequence[Job]) -> list[Job]:
    """In the order of what a refutation costs: of a group's cases with one mask, each further one counts as finding
    half of what the one before it would, so that probes come before the tenth length."""
    weights: dict[int, float] = {}
    alike: Counter[Any] = Counter()
    for place, job in sorted(enumerate(jobs), key=lambda pair: cost(pair[1])):
        kind = job.group, job.case.causal
        weights[place] = cost(job) * 2.0 ** alike[kind]
        alike[kind] += 1
    return [jobs[place] for place in sorted(weights, key=weights.__getitem__)]


def _long_enough(job: Job) -> Job:
    timing = job.timing.model_copy(update={"max_time_s": max(LEAST_MAX_TIME_S, job.timing.max_time_s)})
    return replace(job, timing=timing)


def _candidate(request: Request, ready: Ready) -> str:
    """Its name; without a function in its spec, that of its file's only backend. Raises RunError."""
    name = split_spec(request.plugins[0])[1]
    if name or len(request.plugins) > 1:
        return name or ready.given[0]
    if len(ready.given) != 1:
        raise RunError(f"there are {len(ready.given)} backends ({', '.join(ready.given)}); name one: FILE:function")
    return ready.given[0]


def cost(job: Job) -> float:
    """What judging it takes, for an order: each probe is a problem of its own at the case's shape."""
    flops = float(forward_flops(job.case))
    problems = 1 + PROBE * len(job.checks.probes)
    judged = problems * (FIXED_FLOPS + REFERENCES * flops) + job.checks.repeats * flops
    return judged + DIAGNOSIS_FLOPS * job.case.seqlen_k


def spread(jobs: Sequence[Job], number: int) -> list[Job]:
    """So many of the jobs, evenly: the first, the last, and what lies between."""
    if len(jobs) <= number:
        return list(jobs)
    return [jobs[round(place * (len(jobs) - 1) / (number - 1))] for place in range(number)]

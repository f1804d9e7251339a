"""One worker at a time: started when needed, followed event by event, replaced when a backend has cost it its life."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from attnbench.backends import builtin
from attnbench.messages import (
    Event,
    JobDone,
    PhaseBegun,
    Poisoned,
    Ready,
    RecordMade,
    RunCase,
    SentinelTaken,
    TakeSentinel,
)
from attnbench.records.measurement import RecordError
from attnbench.records.record import Record
from attnbench.run.process import RunError, WorkerDied, WorkerProcess, WorkerRefused, WorkerSilent, WorkerStuck
from attnbench.suite.suite import Job

# Phases that are the harness's own work: their time does not count against a backend's time-out.
HARNESS_PHASES = ("build", "inputs", "oracle")
HARNESS_TIMEOUT_S = 900.0
# A sentinel takes seconds; after so long the device hangs.
SENTINEL_TIMEOUT_S = 60.0
BETWEEN = "between"  # a record and the next phase, of whichever backend
# What the wall time of a job is told as that a worker did not live to the end of: it took its phases' times with it.
LOST = "crashes and time-outs"


def end_worker(worker: WorkerProcess | None) -> None:
    """Ends it, where there is one. Raises RunError where it does not end."""
    try:
        if worker is not None:
            worker.kill()
    except WorkerStuck as error:
        raise RunError(str(error)) from None


class Supervisor:
    """At most one worker at a time, started when needed and replaced when it is lost."""

    def __init__(self, device: str, plugins: Sequence[str]):
        self._device, self._plugins = device, plugins
        self._worker: WorkerProcess | None = None
        self._used = False

    def start(self) -> Ready:
        """A fresh worker's ready event. Raises RunError when none can start."""
        self.stop()
        self._worker, self._used = WorkerProcess(self._device, self._plugins), False
        try:
            return self._worker.start()
        except WorkerRefused as error:
            self.stop()
            raise RunError(str(error)) from None
        except WorkerDied as error:
            self.stop()
            raise RunError(f"no worker could start, {error.brief}") from None

    def _running(self) -> WorkerProcess:
        """The worker, a fresh one where there is none. Raises RunError when none can start."""
        if self._worker is None:
            self.start()
        assert self._worker is not None, "`start` leaves a worker, or raises"
        return self._worker

    def stop(self) -> None:
        """Ends the worker. Raises RunError where it does not end."""
        worker, self._worker = self._worker, None
        end_worker(worker)

    def restart(self) -> None:
        """Sees to it that the next job gets a process that has not measured anything."""
        if self._used:
            self.stop()

    def take_sentinel(self) -> dict[str, Any]:
        """The figures of one sentinel, or the `error` there was. Raises RunError when no worker can start."""
        worker = self._running()
        worker.submit(TakeSentinel())
        try:
            taken = worker.next_event(SENTINEL_TIMEOUT_S)
            worker.next_event(SENTINEL_TIMEOUT_S)  # done
            if not isinstance(taken, SentinelTaken):
                raise WorkerDied(f"asked for a sentinel, it said {type(taken).__name__}")
        except WorkerDied as error:
            self.stop()
            return {"error": error.brief}
        except WorkerSilent:
            self.stop()
            return {"error": f"no figures within {SENTINEL_TIMEOUT_S:g} s"}
        return dict(taken.figures)

    def work(
        self,
        job: Job,
        backends: Sequence[str],
        keep: Callable[[Record], None],
        watch: Callable[[str, str], None],
        spent_s: Counter[str],
        bits: str | None = None,
        process: int = 0,
        note: str = "",
    ) -> None:
        """One record per backend, whatever happens; a backend that kills or hangs the worker gets an error record.

        One that was at work when a worker died that timed several together is tried once more alone: another of them
        may have done it. bits: a folder where outputs are left for, or compared with, those of other processes.
        process: which of several this is. note: a warning for the records that are timed.
        """
        left = list(backends)
        suspects: dict[str, str] = {}  # backend: what became of the worker that it was timed in
        while left:
            worker = self._running()
            alone = next((name for name in left if name in suspects), None)
            keep_noted = _noted(keep, (note, suspects[alone] if alone else ""))
            listener = Listener(job, left if alone is None else [alone], keep_noted, watch, spent_s)
            self._used, asked = True, time.monotonic()
            worker.submit(listener.run_case(process, bits))
            try:
                listener.listen(worker)
            except (WorkerDied, WorkerSilent) as error:
                spent_s[LOST] += time.monotonic() - asked  # type: ignore[assignment]  # a Counter adds floats too
                if isinstance(error, WorkerSilent):
                    listener.fail("timeout", listener.overdue())
                elif listener.together and alone is None:
                    suspects[listener.backend] = f"timed alone: {error.brief}, when it was timed with others"
                else:
                    listener.fail(error.kind, str(error))
                self.stop()  # once its record is safe
            if alone is not None and alone not in listener.left:
                left.remove(alone)


def _noted(keep: Callable[[Record], None], notes: Sequence[str]) -> Callable[[Record], None]:
    """`keep` for records whose timing has something beside it that a reader must know."""
    given = tuple(note for note in notes if note)

    def keep_noted(record: Record) -> None:
        keep(replace(record, warnings=record.warnings + given) if given and record.measurement else record)

    return keep_noted


@dataclass
class Listener:
    """Follows one submitted job event by event. `left` loses each backend as its record arrives.

    Each backend has the time-out for its own phases, however they alternate with those of others.
    """

    job: Job
    left: list[str]
    keep: Callable[[Record], None]
    watch: Callable[[str, str], None]
    spent_s: Counter[str]
    phase: str = "start"
    backend: str = ""
    together: bool = False
    allowed_s: dict[str, float] = field(default_factory=dict)
    answer: Event | None = None  # the last event that is about neither phases nor records

    def __post_init__(self) -> None:
        self.backend = self.left[0]

    def run_case(self, process: int = 0, bits: str | None = None) -> RunCase:
        """The job that it follows, as the worker gets it."""
        job = self.job
        return RunCase(
            case=job.case, backends=tuple(self.left), time=job.time, timing=job.timing, checks=job.checks,
            process=process, bits=bits, emulation=job.emulation,
        )  # fmt: skip

    def listen(self, worker: WorkerProcess) -> None:
        """Until the job is done. Raises WorkerDied, or WorkerSilent when the time-out of the phase has passed."""
        while True:
            asked = time.monotonic()
            in_harness, backend = self.phase in HARNESS_PHASES, self.backend
            allowed_s = self.allowed_s.setdefault(backend, self.job.timing.timeout_s)
            event = worker.next_event(HARNESS_TIMEOUT_S if in_harness else max(0.0, allowed_s))
            if not in_harness:
                self.allowed_s[backend] -= time.monotonic() - asked
            if isinstance(event, PhaseBegun):
                self._enter(event.backend, event.phase)
            elif isinstance(event, RecordMade):
                self._keep(self._checked(event.line))
            elif isinstance(event, Poisoned):
                raise WorkerDied(f"it left a broken CUDA context: {event.reason}")
            elif isinstance(event, JobDone):
                self.spent_s.update(event.spent_s)
                return
            else:
                self.answer = event

    def _enter(self, backend: str, phase: str) -> None:
        if backend != self.backend and phase == "time":
            self.together = True
        if phase == "start":
            self.allowed_s[backend] = self.job.timing.timeout_s
        self.backend, self.phase = backend, phase
        self.watch(backend, phase)

    def _checked(self, line: str) -> Record:
        """The record, where it is one of this job's. Raises WorkerDied for anything else."""
        from attnbench.records.stored_record import stored_record  # pydantic, which is slow to import

        try:
            record = stored_record(line)
        except RecordError as error:
            raise WorkerDied(f"it reported a record that is none: {error}") from None
        if record.case != self.job.case or record.backend not in self.left:
            raise WorkerDied(f"it reported {record.backend} on {record.case_key}, which nobody asked for")
        return record

    def _keep(self, record: Record) -> None:
        self.left.remove(record.backend)
        self.phase = BETWEEN
        self.allowed_s[self.backend] = self.job.timing.timeout_s
        self.keep(record)

    def fail(self, kind: str, reason: str) -> None:
        """The record of the backend that was at work when the worker was lost; none if its record was already in."""
        if self.phase == BETWEEN or self.backend not in self.left:
            return
        self.left.remove(self.backend)
        version = builtin()[self.backend].version() if self.backend in builtin() else ""
        where = f"in phase {self.phase}: " if self.phase != "start" else ""
        self.keep(Record(self.job.case, self.backend, version, "error", kind=kind, reason=where + reason))

    def overdue(self) -> str:
        limit = HARNESS_TIMEOUT_S if self.phase in HARNESS_PHASES else self.job.timing.timeout_s
        return f"no result within {limit:g} s; it was ended (timeout_s, --timeout)"

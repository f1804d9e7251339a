"""One worker at a time: started when needed, followed event by event, replaced when a backend has cost it its life."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from attnbench.backends import builtin
from attnbench.messages import (
    TRUSTED,
    CheckPassed,
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
from attnbench.messages import Job as Message
from attnbench.records.measurement import RecordError
from attnbench.records.record import Record
from attnbench.run.clock import held_against_the_clock
from attnbench.run.process import RunError, WorkerDied, WorkerProcess, WorkerRefused, WorkerSilent, WorkerStuck
from attnbench.stacks import is_compiling, places
from attnbench.suite.suite import Job

# Phases that are the harness's own work: their time does not count against a backend's time-out.
HARNESS_PHASES = ("build", "inputs", "oracle")
HARNESS_TIMEOUT_S = 900.0
# Those in which calls are timed.
TIMED_PHASES = ("time",)
# A sentinel takes seconds; after so long the device hangs.
SENTINEL_TIMEOUT_S = 60.0
BETWEEN = "between"  # a record and the next phase, of whichever backend
# What the wall time of a job is told as that a worker did not live to the end of: it took its phases' times with it.
LOST = "crashes and time-outs"

# Seeds are below this: whole numbers that every reader of JSON takes.
SEEDS = 2**53

Output = Callable[[str, str], None]  # of a backend, what it printed


def end_worker(worker: WorkerProcess | None) -> None:
    """Ends it, where there is one. Raises RunError where it does not end."""
    try:
        if worker is not None:
            worker.kill()
    except WorkerStuck as error:
        raise RunError(str(error)) from None


class Supervisor:
    """At most one worker at a time, started when needed and replaced when it is lost."""

    def __init__(
        self, device: str, plugins: Sequence[str], output: Output | None = None, interpret: str = "",
        seed: int | None = None, trust: str = TRUSTED,
    ):  # fmt: skip
        """output: told what a worker prints, and by which backend ("": while it starts). interpret: the mode of
        interpreters, "" for none. seed: the run's, from which each case's follows; None: workers draw their own. trust:
        in plugins, a member of `messages.TRUST`."""
        self._trust = trust
        self._seed = seed
        self._device, self._plugins, self._output, self._interpret = device, plugins, output, interpret
        self._worker: WorkerProcess | None = None
        self._ready: Ready | None = None
        self._used = False

    def launch(self) -> None:
        """A fresh worker, which is not waited for yet. Raises RunError where the last one does not end."""
        self.stop()
        self._worker = WorkerProcess(self._device, self._plugins, interpret=self._interpret, trust=self._trust)
        self._used = False
        self._ready = None

    def start(self) -> Ready:
        """A fresh worker's ready event. Raises RunError when none can start."""
        self.launch()
        return self.await_ready()

    def await_ready(self) -> Ready:
        """The ready event of the worker that was launched. Raises RunError when it could not start."""
        assert self._worker is not None, "`launch` comes first"
        if self._ready is not None:
            return self._ready
        try:
            self._ready = ready = self._worker.start()
            if self._output is not None:
                self._output("", self._worker.new_output())
            return ready
        except WorkerRefused as error:
            self.stop()
            raise RunError(str(error)) from None
        except WorkerDied as error:
            self.stop()
            raise RunError(f"no worker could start, {error.brief}") from None

    def _running(self) -> WorkerProcess:
        """The worker, a fresh one where there is none. Raises RunError when none can start."""
        if self._worker is None:
            self.launch()
        self.await_ready()
        assert self._worker is not None, "`launch` leaves a worker, or raises"
        return self._worker

    def stop(self) -> None:
        """Ends the worker. Raises RunError where it does not end."""
        worker, self._worker = self._worker, None
        end_worker(worker)

    def restart(self) -> None:
        """Sees to it that the next job gets a process that has not measured anything."""
        if self._used:
            self.stop()

    def import_also(self, plugins: Sequence[str]) -> Ready | None:
        """Sees to it that the next job finds these plugins too: in a fresh worker, whose ready event this is, where
        they are new; else None. Raises RunError where it cannot start."""
        new = [spec for spec in plugins if spec not in self._plugins]
        if not new:
            return None
        self._plugins = (*self._plugins, *new)
        return self.start()

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
            alone = next((name for name in left if name in suspects), None)
            keep_noted = noted(keep, (note, suspects[alone] if alone else ""))
            listener = self.listener(job, left if alone is None else [alone], keep_noted, watch, spent_s)
            listener.alone = alone is not None
            try:
                self.follow(listener, listener.run_case(process, bits))
            except Lost as lost:
                suspects |= lost.suspects
            if alone is not None and alone not in listener.left:
                left.remove(alone)

    def listener(
        self, job: Job, backends: list[str], keep: Callable[[Record], None], watch: Callable[[str, str], None],
        spent_s: Counter[str],
    ) -> Listener:  # fmt: skip
        """Of a job that is about to be given to the worker. backends: loses each whose record arrives."""
        return Listener(job, backends, keep, watch, spent_s, output=self._output, seed=self._seed)

    def follow(self, listener: Listener, message: Message) -> None:
        """The job given and followed to its end. Raises Lost where that cost the worker its life, once whoever was at
        work has a record or is a suspect; and RunError when no worker can start."""
        worker = self._running()
        self._used, asked = True, time.monotonic()
        worker.submit(message)
        try:
            listener.listen(worker)
        except (WorkerDied, WorkerSilent) as error:
            listener.show_output(worker)
            listener.spent_s[LOST] += time.monotonic() - asked  # type: ignore[assignment]  # a Counter adds floats too
            suspects = {}
            if isinstance(error, WorkerSilent):
                listener.fail("timeout", listener.overdue())
            elif listener.together and not listener.alone:
                suspects = {listener.backend: f"timed alone: {error.brief}, when it was timed with others"}
            else:
                listener.fail(error.kind, str(error))
            self.stop()  # once its record is safe
            raise Lost(suspects) from None


class Lost(Exception):
    """A worker ended before its job did. suspects: backends that may have done it, and what became of the worker."""

    def __init__(self, suspects: dict[str, str]):
        super().__init__("a worker was lost")
        self.suspects = suspects


def noted(keep: Callable[[Record], None], notes: Sequence[str]) -> Callable[[Record], None]:
    """`keep` for records whose timing has something beside it that a reader must know."""
    given = tuple(note for note in notes if note)

    def keep_noted(record: Record) -> None:
        keep(replace(record, warnings=record.warnings + given) if given and record.measurement else record)

    return keep_noted


@dataclass
class Listener:
    """Follows one submitted job event by event. `left` loses each backend as its record arrives.

    A worker says a word ahead of every call, so that silence is a call that does not return: for so long as the
    time-out of its phase is, or of compilation where that is what it does.
    """

    job: Job
    left: list[str]
    keep: Callable[[Record], None]
    watch: Callable[[str, str], None]
    spent_s: Counter[str]
    phase: str = "start"
    backend: str = ""
    together: bool = False
    passed: dict[str, Record] = field(default_factory=dict)
    stacks: str = ""  # what the worker was doing when it was silent for too long
    output: Output | None = None  # see Supervisor
    answer: Event | None = None  # the last event that is about neither phases nor records
    seed: int | None = None  # of the run
    alone: bool = False  # whether nothing else was timed in the worker
    timed_s: Counter[str] = field(default_factory=Counter)  # by backend, what its timing lasted by this process's clock
    heard_s: float = 0.0  # when, of the last event

    def __post_init__(self) -> None:
        self.backend = self.left[0]

    def run_case(self, process: int = 0, bits: str | None = None) -> RunCase:
        """The job that it follows, as the worker gets it."""
        job = self.job
        return RunCase(
            case=job.case, backends=tuple(self.left), time=job.time, timing=job.timing, checks=job.checks,
            process=process, bits=bits, emulation=job.emulation, seed=self.case_seed,
        )  # fmt: skip

    @property
    def case_seed(self) -> int | None:
        """Of the job's case: it says nothing of the run's seed, and so nothing of other cases'."""
        if self.seed is None:
            return None
        digest = hashlib.blake2b(f"{self.seed}.{self.job.case.key}".encode(), digest_size=8).digest()
        return int.from_bytes(digest) % SEEDS

    def listen(self, worker: WorkerProcess) -> None:
        """Until the job is done. Raises WorkerDied, or WorkerSilent when the time-out of the phase has passed."""
        self.heard_s = time.monotonic()
        while True:
            event = self._next_event(worker)
            self._count_time()
            self.show_output(worker)
            if isinstance(event, PhaseBegun):
                self._enter(event.backend, event.phase)
            elif isinstance(event, CheckPassed):
                record = self._of_this_job(event.line)
                self.passed[record.backend] = record
            elif isinstance(event, RecordMade):
                self._keep(self._of_this_job(event.line))
            elif isinstance(event, Poisoned):
                raise WorkerDied(event.reason)
            elif isinstance(event, JobDone):
                self.spent_s.update(event.spent_s)
                return
            else:
                self.answer = event

    def _next_event(self, worker: WorkerProcess) -> Event:
        """Raises as `listen` does. A compiler that is at work is waited for, a call after it as long as any other."""
        timing, spent_s, compiled = self.job.timing, 0.0, False
        limit_s = HARNESS_TIMEOUT_S if self.phase in HARNESS_PHASES else timing.timeout_s
        while True:
            wait_s = min(limit_s, timing.compile_timeout_s - spent_s) if compiled else limit_s
            try:
                return worker.next_event(wait_s)
            except WorkerSilent:
                spent_s += wait_s
                self.stacks = worker.stacks()
                was_compiling, compiled = compiled, is_compiling(self.stacks)
                out_of_time = spent_s >= timing.compile_timeout_s if compiled else not was_compiling
                if out_of_time or self.phase in HARNESS_PHASES:
                    raise

    def _count_time(self) -> None:
        now = time.monotonic()
        if self.phase in TIMED_PHASES:
            self.timed_s[self.backend] += now - self.heard_s  # type: ignore[assignment]  # a Counter adds floats too
        self.heard_s = now

    def show_output(self, worker: WorkerProcess) -> None:
        """Hands on what the backend at work has printed so far, to whoever wants it."""
        if self.output is not None:
            self.output(self.backend, worker.new_output())

    def _enter(self, backend: str, phase: str) -> None:
        if backend != self.backend and phase == "time":
            self.together = True
        if phase == "start":
            self.together = False
        self.backend, self.phase = backend, phase
        self.watch(backend, phase)

    def _of_this_job(self, line: str) -> Record:
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
        record = held_against_the_clock(record, self.timed_s[record.backend])
        self.left.remove(record.backend)
        self.phase = BETWEEN
        self.keep(record if record.status == "unsupported" else replace(record, seed=self.case_seed))

    def fail(self, kind: str, reason: str) -> None:
        """The record of the backend that was at work when the worker was lost; none if its record was already in."""
        if self.phase == BETWEEN or self.backend not in self.left:
            return
        self.left.remove(self.backend)
        where = f"in phase {self.phase}: " if self.phase != "start" else ""
        self.keep(replace(self._so_far(), status="error", kind=kind, reason=where + reason))

    def _so_far(self) -> Record:
        """What is known of the backend at work: that it passed its check, or nothing."""
        version = builtin()[self.backend].version() if self.backend in builtin() else ""
        nothing = Record(self.job.case, self.backend, version, "error", kind="crash", reason="not finished")
        return self.passed.get(self.backend, nothing)

    def overdue(self) -> str:
        """Why a worker that was silent for too long was ended, and what it was doing."""
        timing = self.job.timing
        at = places(self.stacks)
        doing = f"; it was at {at}" if at else ""
        if is_compiling(self.stacks):
            return f"compiling took more than {timing.compile_timeout_s:g} s; it was ended (compile_timeout_s){doing}"
        if self.phase in HARNESS_PHASES:
            return f"no result within {HARNESS_TIMEOUT_S:g} s; it was ended{doing}"
        return f"a call did not return within {timing.timeout_s:g} s; it was ended (timeout_s, --timeout){doing}"

"""suite x backends -> jobs -> worker -> records. Survives whatever a backend does to its process.

A job is one case with all its backends, so that inputs and oracle are made once. Each crash, hang or poisoned CUDA
context costs the one record that was being made; the rest of the job goes on in a fresh worker.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Callable, Mapping, Protocol, Sequence

from attnbench import environment, store
from attnbench.backends import builtin
from attnbench.record import Accuracy, Measurement, Record, RecordError
from attnbench.suite import Job, Suite
from attnbench.suite_yaml import suggest
from attnbench.worker_process import WorkerDied, WorkerProcess, WorkerRefused, WorkerSilent

# Phases that are the harness's own work: their time does not count against a backend's time-out.
HARNESS_PHASES = ("inputs", "oracle")
HARNESS_TIMEOUT_S = 900.0
STATUS_MEANS = {
    0: "all good",
    1: "a result is incorrect",
    3: "incomplete: something crashed, hung, failed or did not run",
    130: "interrupted",
}


class RunError(Exception):
    """A run that cannot begin or go on; the message names the thing and the way out."""


class Progress(Protocol):
    """Told what happens; a bar on a terminal, plain lines elsewhere."""

    def begin(self, records: int, taken: int) -> None: ...

    def phase(self, job: Job, backend: str, phase: str) -> None: ...

    def record(self, record: Record) -> None: ...

    def end(self) -> None: ...


@dataclass(frozen=True)
class Request:
    """One suite, to be run on a device ("cpu", "cuda", "cuda:1").

    out: the run directory, new, or with `resume` the one to continue. add_plugins: plugins join the suite's own list.
    budget_s: begin no case after so long.
    """

    suite: Suite
    device: str
    out: Path
    progress: Progress
    plugins: tuple[str, ...] = ()
    add_plugins: bool = True
    resume: bool = False
    budget_s: float | None = None


@dataclass
class Outcome:
    """What came of a run: all its records, those taken before a resume included, and what keeps it from complete."""

    path: Path
    records: list[Record] = field(default_factory=list)
    incomplete: list[str] = field(default_factory=list)
    spent_s: Counter[str] = field(default_factory=Counter)
    wall_s: float = 0.0
    interrupted: bool = False

    @property
    def exit_status(self) -> int:
        statuses = Counter(record.status for record in self.records)
        if self.interrupted:
            return 130
        if statuses["incorrect"]:
            return 1
        if statuses["error"] or self.incomplete or not statuses["ok"]:
            return 3
        return 0


def run_suite(request: Request) -> Outcome:
    """Runs every job that has no record yet. Raises RunError or StoreError before anything is written."""
    started = time.monotonic()
    jobs = request.suite.jobs()
    if not request.resume:
        store.refuse_occupied(request.out)  # before seconds go into a worker
    crew = Crew(request.device, request.plugins)
    outcome = Outcome(request.out)
    try:
        ready = crew.hire()
        backends = choose_backends(request, ready)
        writer = _open_writer(request, ready, backends)
    except BaseException:
        crew.dismiss()
        raise
    try:
        outcome.records.extend(writer.taken)
        _run_jobs(request, jobs, backends, crew, writer, outcome, started)
    except KeyboardInterrupt:
        outcome.interrupted = True
    except (store.StoreError, RunError) as error:
        outcome.incomplete.append(str(error))
    finally:
        request.progress.end()
        crew.dismiss()
        writer.close()
    outcome.wall_s = time.monotonic() - started
    return outcome


def choose_backends(request: Request, ready: Mapping[str, Any]) -> tuple[str, ...]:
    """The suite's list, or all that can run on the device; those given by --plugin are added, whether they can run or not.

    Raises RunError for an unknown name.
    """
    names = ready["unasked"] if request.suite.backends is None else request.suite.backends
    for name in names:
        if name not in ready["backends"]:
            raise RunError(unknown_backend(name, tuple(ready["backends"])))
    return tuple(dict.fromkeys((*names, *(ready["given"] if request.add_plugins else ()))))


def unknown_backend(name: str, known: Sequence[str]) -> str:
    return f'unknown backend "{name}"{suggest(name, known)}; `attnbench list backends` shows all'


def _open_writer(request: Request, ready: Mapping[str, Any], backends: tuple[str, ...]) -> store.Writer:
    """The suite is stored with the backends that really run, so that --resume finishes those and no others."""
    facts = {
        **environment.with_worker(environment.collect(request.device), ready["facts"]),
        "device": request.device,
        "plugins": [plain_spec(spec) for spec in request.plugins],
    }
    try:
        if request.resume:
            return store.Writer.resume(request.out, facts)
        suite = replace(request.suite, backends=backends or request.suite.backends)
        return store.Writer.create(request.out, facts, suite.to_yaml())
    except store.StoreError as error:
        raise RunError(str(error)) from None


def plain_spec(spec: str) -> str:
    """A plugin spec with its file named from here, or by its bare name where it lies elsewhere."""
    place, separator, function = spec.rpartition(":") if ".py:" in spec else (spec, "", "")
    path = Path(place)
    if path.is_absolute():
        path = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else Path(path.name)
    return f"{path}{separator}{function}"


def _run_jobs(
    request: Request,
    jobs: Sequence[Job],
    backends: Sequence[str],
    crew: Crew,
    writer: store.Writer,
    outcome: Outcome,
    started: float,
) -> None:
    taken = {(record.case_key, record.backend) for record in writer.taken}
    total = len(jobs) * len(backends)
    request.progress.begin(total, len(taken))
    for number, job in enumerate(jobs):
        wanted = [name for name in backends if (job.case.key, name) not in taken]
        if not wanted:
            continue
        if request.budget_s is not None and time.monotonic() - started > request.budget_s:
            outcome.incomplete.append(f"the budget was used up with {len(jobs) - number} of {len(jobs)} cases left")
            return

        def keep(record: Record) -> None:
            writer.append(record)
            outcome.records.append(record)
            request.progress.record(record)

        def watch(backend: str, phase: str) -> None:
            request.progress.phase(job, backend, phase)

        if job.time and job.timing.processes > 1:
            for record in _replicated(crew, job, wanted, watch, outcome.spent_s):
                keep(record)
        else:
            crew.work(job, wanted, keep, watch, outcome.spent_s)


def _replicated(
    crew: Crew, job: Job, backends: Sequence[str], watch: Callable[[str, str], None], spent_s: Counter[str]
) -> list[Record]:
    """The job once in each of `processes` fresh workers; a backend's record is merged from all of them."""
    by_backend: dict[str, list[Record]] = {name: [] for name in backends}
    for _ in range(job.timing.processes):
        crew.renew()
        going = [name for name, records in by_backend.items() if all(record.status == "ok" for record in records)]
        crew.work(job, going, lambda record: by_backend[record.backend].append(record), watch, spent_s)
    return [merge_processes(records) for records in by_backend.values()]


def merge_processes(records: Sequence[Record]) -> Record:
    """One record from one per process: the first that is not ok, or the first with the blocks of all, numbered."""
    failed = next((record for record in records if record.status != "ok"), None)
    if failed is not None:
        return failed
    first = records[0]
    measurements = [record.measurement for record in records]
    blocks, outliers = [], []
    for process, measurement in enumerate(measurements):
        outliers += [(len(blocks) + block, sample) for block, sample in measurement.outliers]
        blocks += [replace(block, process=process) for block in measurement.blocks]
    merged: Measurement = replace(
        measurements[0],
        blocks=tuple(blocks),
        outliers=tuple(outliers),
        converged=all(measurement.converged for measurement in measurements),
        unmet=tuple(dict.fromkeys(text for measurement in measurements for text in measurement.unmet)),
    )
    warnings = tuple(dict.fromkeys(text for record in records for text in record.warnings))
    return replace(
        first, measurement=merged, warnings=warnings, accuracy=_worst([record.accuracy for record in records])
    )


def _worst(accuracies: Sequence[Accuracy]) -> Accuracy:
    """The accuracy of the process whose largest share of a limit was the largest."""

    def strain(accuracy: Accuracy) -> float:
        return max((check.value / check.limit for check in accuracy.checks if check.limit), default=0.0)

    return max(accuracies, key=strain)


class Crew:
    """At most one worker at a time, hired when needed and replaced when it is lost."""

    def __init__(self, device: str, plugins: Sequence[str]):
        self._device, self._plugins = device, plugins
        self._worker: WorkerProcess | None = None
        self._used = False

    def hire(self) -> Mapping[str, Any]:
        """A fresh worker's ready event. Raises RunError when none can start."""
        self.dismiss()
        self._worker, self._used = WorkerProcess(self._device, self._plugins), False
        try:
            return self._worker.start()
        except WorkerRefused as error:
            self.dismiss()
            raise RunError(str(error)) from None
        except WorkerDied as error:
            self.dismiss()
            raise RunError(f"no worker could start, {error.brief}") from None

    def dismiss(self) -> None:
        if self._worker is not None:
            self._worker.kill()
            self._worker = None

    def renew(self) -> None:
        """Sees to it that the next job gets a process that has not measured anything."""
        if self._used:
            self.dismiss()

    def work(
        self,
        job: Job,
        backends: Sequence[str],
        keep: Callable[[Record], None],
        watch: Callable[[str, str], None],
        spent_s: Counter[str],
    ) -> None:
        """One record per backend, whatever happens; a backend that kills or hangs the worker gets an error record."""
        left = list(backends)
        while left:
            if self._worker is None:
                self.hire()
            listener = Listener(job, left, keep, watch, spent_s)
            self._used = True
            self._worker.submit(listener.message())
            try:
                listener.listen(self._worker)
            except WorkerDied as error:
                listener.fail(error.kind, str(error))
                self.dismiss()
            except WorkerSilent:
                listener.fail("timeout", listener.overdue())
                self.dismiss()


@dataclass
class Listener:
    """Follows one submitted job event by event. `left` loses each backend as its record arrives."""

    job: Job
    left: list[str]
    keep: Callable[[Record], None]
    watch: Callable[[str, str], None]
    spent_s: Counter[str]
    phase: str = "start"
    allowed_s: float = 0.0
    recorded: bool = False

    def message(self) -> dict[str, Any]:
        return {
            "case": self.job.case.to_dict(),
            "backends": self.left,
            "time": self.job.time,
            "timing": self.job.timing.model_dump(),
            "checks": self.job.checks.model_dump(),
        }

    def listen(self, worker: WorkerProcess) -> None:
        """Until the job is done. Raises WorkerDied, or WorkerSilent when the time-out of the phase has passed."""
        self.allowed_s = self.job.timing.timeout_s
        while True:
            asked = time.monotonic()
            in_harness = self.phase in HARNESS_PHASES
            event = worker.next_event(HARNESS_TIMEOUT_S if in_harness else max(0.0, self.allowed_s))
            if not in_harness:
                self.allowed_s -= time.monotonic() - asked
            kind = event.get("event")
            if kind == "phase":
                self._enter(event["backend"], event["phase"])
            elif kind == "record":
                self._keep(self._checked(event["record"]))
            elif kind == "poisoned":
                raise WorkerDied(f"it left a broken CUDA context: {event['reason']}")
            elif kind == "done":
                self.spent_s.update(event["spent_s"])
                return

    def _enter(self, backend: str, phase: str) -> None:
        if phase == "start":
            self.allowed_s = self.job.timing.timeout_s
        self.phase = phase
        self.watch(backend, phase)

    def _checked(self, line: str) -> Record:
        """The record, where it is one of this job's. Raises WorkerDied for anything else: the worker is not to be trusted."""
        try:
            record = Record.from_json(line)
        except RecordError as error:
            raise WorkerDied(f"it reported a record that is none: {error}") from None
        if record.case != self.job.case or record.backend not in self.left:
            raise WorkerDied(f"it reported {record.backend} on {record.case_key}, which nobody asked for")
        return record

    def _keep(self, record: Record) -> None:
        self.left.remove(record.backend)
        self.phase = "between"
        self.allowed_s = self.job.timing.timeout_s
        self.recorded = True
        self.keep(record)

    def fail(self, kind: str, reason: str) -> None:
        """The record of the backend that was at work when the worker was lost; none if its record was already in."""
        if self.phase == "between" or not self.left:
            return
        backend = self.left.pop(0)
        version = builtin()[backend].version() if backend in builtin() else ""
        where = f"in phase {self.phase}: " if self.phase != "start" else ""
        self.keep(Record(self.job.case, backend, version, "error", kind=kind, reason=where + reason))

    def overdue(self) -> str:
        limit = HARNESS_TIMEOUT_S if self.phase in HARNESS_PHASES else self.job.timing.timeout_s
        return f"no result within {limit:g} s; it was ended (timeout_s, --timeout)"

"""One worker at a time: hired when needed, followed event by event, replaced when a backend has cost it its life."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import Any, Callable, Mapping, Sequence

from attnbench.backends import builtin
from attnbench.record import Record, RecordError
from attnbench.suite import Job
from attnbench.worker_process import WorkerDied, WorkerProcess, WorkerRefused, WorkerSilent

# Phases that are the harness's own work: their time does not count against a backend's time-out.
HARNESS_PHASES = ("inputs", "oracle")
HARNESS_TIMEOUT_S = 900.0


class RunError(Exception):
    """A run that cannot begin or go on; the message names the thing and the way out."""


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
        bits: str | None = None,
    ) -> None:
        """One record per backend, whatever happens; a backend that kills or hangs the worker gets an error record.

        bits: a folder where outputs are left for, or compared with, those of other processes.
        """
        left = list(backends)
        while left:
            if self._worker is None:
                self.hire()
            listener = Listener(job, left, keep, watch, spent_s)
            self._used = True
            self._worker.submit(listener.message() | ({"bits": bits} if bits else {}))
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
        """The record, where it is one of this job's. Raises WorkerDied for anything else."""
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

"""suite x backends -> jobs -> worker -> records. Survives whatever a backend does to its process.

A job is one case with all its backends, so that inputs and oracle are made once. Each crash, hang or poisoned CUDA
context costs the one record that was being made; the rest of the job goes on in a fresh worker.
"""

from __future__ import annotations

import re
import secrets
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Protocol

from attnbench.errors import suggest
from attnbench.machine.nvml import gpus
from attnbench.messages import TRUSTED, UNTRUSTED, Ready
from attnbench.plugins import plain_spec
from attnbench.records import store
from attnbench.records.record import Record, merge_processes
from attnbench.records.sentinels import suspicions
from attnbench.run.emulated import in_order, joining
from attnbench.run.interpreted import CaseCost, smallest_first
from attnbench.run.process import RunError
from attnbench.run.sentinels import Sentinels
from attnbench.run.supervisor import SEEDS, Supervisor
from attnbench.run.turns import TwoWorkers
from attnbench.suite.suite import Job, Suite

STATUS_MEANS = {
    0: "all good",
    1: "a result is incorrect, or a kernel has a hazard",
    3: "incomplete: something crashed, hung, failed or did not run",
    130: "interrupted",
}

# Of a run directory in which somebody else wrote.
ALTERED = "its records were changed while the run went on; they are not what was measured, run it again"


class Progress(Protocol):
    """Told what happens; a bar on a terminal, plain lines elsewhere. todo: the jobs with the backends still to run."""

    def begin(self, records: int, taken: int, todo: Sequence[tuple[Job, Sequence[str]]]) -> None: ...

    def phase(self, job: Job, backend: str, phase: str) -> None: ...

    def record(self, record: Record) -> None: ...

    def output(self, backend: str, text: str) -> None: ...

    def end(self) -> None: ...


class Silent:
    """For a run of which nobody expects anything: its backends cannot run here, and each record says so."""

    def begin(self, records: int, taken: int, todo: Sequence[tuple[Job, Sequence[str]]]) -> None: ...

    def phase(self, job: Job, backend: str, phase: str) -> None: ...

    def record(self, record: Record) -> None: ...

    def output(self, backend: str, text: str) -> None: ...

    def end(self) -> None: ...


# Jobs that are run next, and the backends that they are run on.
Stage = tuple[Sequence[Job], Sequence[str]]


class Course(Protocol):
    """How a run goes through its suite, where that is not every job once, on all backends, in the suite's order.

    further: plugins that a stage needs beside the request's, looked at ahead of each.
    """

    further: tuple[str, ...]

    def backends(self, request: Request, ready: Ready) -> tuple[str, ...]:
        """Those of the run, which are stored with its suite. Raises RunError before anything is written."""

    def stages(self, jobs: Sequence[Job], backends: Sequence[str], records: Sequence[Record]) -> Iterator[Stage]:
        """What is run, one stage after the other. records: of the run, which grow meanwhile. A case that a backend has
        a record of may come again: of two records the later counts."""


@dataclass(frozen=True)
class Request:
    """One suite, to be run on a device ("cpu", "cuda", "cuda:1").

    out: the run directory, new, or with `resume` the one to continue. add_plugins: plugins join the suite's own list
    (not where a run is continued: its stored list is complete). budget_s: begin no case after so long. show_output:
    tell `progress` what kernels print. interpret: the mode of interpreters ("auto", "hlo", "tpu"), "" for none.
    seed: the run's, of what kernels must not know beforehand; None: drawn, and in the environment once the run is over.
    course: how the run goes through its jobs; None: each once, on all backends.
    trust: in plugins, a member of `messages.TRUST`.
    """

    suite: Suite
    device: str
    out: Path
    progress: Progress
    plugins: tuple[str, ...] = ()
    add_plugins: bool = True
    resume: bool = False
    budget_s: float | None = None
    show_output: bool = False
    interpret: str = ""
    seed: int | None = None
    course: Course | None = None
    trust: str = TRUSTED


@dataclass
class Outcome:
    """What came of a run: all its records, those taken before a resume included, and what keeps it from complete.

    suspicions: why its numbers are not to be trusted, as its sentinels tell. unavailable: where none of its backends
    can run here, why not, by name; able: those that can. not_run: keys of the cases that a budget left no time for.
    notes: what the user should know and what changes no status.
    """

    path: Path
    records: list[Record] = field(default_factory=list)
    incomplete: list[str] = field(default_factory=list)
    spent_s: Counter[str] = field(default_factory=Counter)
    wall_s: float = 0.0
    interrupted: bool = False
    suspicions: tuple[str, ...] = ()
    unavailable: Mapping[str, str] = field(default_factory=dict)
    able: tuple[str, ...] = ()
    not_run: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def exit_status(self) -> int:
        statuses = Counter(record.status for record in self.records)
        if self.interrupted:
            return 130
        if statuses["incorrect"] or any(record.kind == "hazard" for record in self.records):
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
    seed = secrets.randbelow(SEEDS) if request.seed is None else request.seed
    supervisor = _workers(request, jobs, seed)
    outcome = Outcome(request.out)
    try:
        ready = supervisor.start()
        course = request.course
        backends = choose_backends(request, ready) if course is None else course.backends(request, ready)
        note = joining(request.suite, request.device, ready.backends)[1]
        outcome.notes = tuple(told for told in (note, interpreter_note(request, ready)) if told)
        jobs = smallest_first(jobs) if request.interpret else in_order(jobs, backends)
        writer = _open_writer(request, ready, backends)
        outcome.unavailable, outcome.able = none_can_run(ready, backends)
        if outcome.unavailable:
            request = replace(request, progress=Silent())
    except BaseException:
        supervisor.stop()
        raise
    try:
        outcome.records.extend(writer.taken)
        sentinels = Sentinels(supervisor.take_sentinel, writer.append_sentinel, outcome.spent_s)
        stages = iter([(jobs, backends)]) if course is None else course.stages(jobs, backends, outcome.records)
        for some, wanted in stages:
            supervisor.import_also(course.further if course else ())
            _run_jobs(request, some, wanted, supervisor, writer, outcome, started, sentinels)
            if outcome.not_run:
                break
        sentinels.close()
        if not request.resume:  # other seeds went before
            writer.tell(seed=seed)
    except KeyboardInterrupt:
        outcome.interrupted = True
    except (store.StoreError, RunError) as error:
        outcome.incomplete.append(str(error))
    finally:
        request.progress.end()
        if writer.altered():
            outcome.incomplete.append(f"{writer.path}: {ALTERED}")
        writer.close()
        try:
            supervisor.stop()
        except RunError as error:
            outcome.incomplete.append(str(error))
    outcome.suspicions = suspicions(writer.sentinels)
    outcome.wall_s = time.monotonic() - started
    return outcome


def _workers(request: Request, jobs: Sequence[Job], seed: int) -> Supervisor | TwoWorkers:
    """One worker; two where plugins are timed, one of which imports none."""
    output = request.progress.output if request.show_output else None
    one = Supervisor(request.device, request.plugins, output, request.interpret, seed, request.trust)
    apart = request.trust == UNTRUSTED  # in processes of their own already
    if not request.plugins or apart or request.interpret or not any(job.time for job in jobs):
        return one
    return TwoWorkers(one, Supervisor(request.device, (), output, seed=seed))


def none_can_run(ready: Ready, backends: Sequence[str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Why each of the backends cannot run here, and which others can; nothing where one of them can."""
    reasons = {name: ready.backends[name] for name in backends}
    if not reasons or None in reasons.values():
        return {}, ()
    able = tuple(name for name, reason in ready.backends.items() if reason is None)
    return {name: str(reason) for name, reason in reasons.items()}, able


def interpreter_note(request: Request, ready: Ready) -> str | None:
    """For a person whose kernels fail for want of a GPU."""
    if not ready.languages or request.interpret or request.device != "cpu":
        return None
    return f"plugins import {' and '.join(ready.languages)}, whose kernels need a GPU; --interpret judges them here"


def choose_backends(request: Request, ready: Ready) -> tuple[str, ...]:
    """The suite's list, or all that can run on the device; what --plugin gave is added, whether it can run or not.

    Raises RunError for an unknown name.
    """
    names = request.suite.backends
    if names is None:
        names = (*ready.unasked, *joining(request.suite, request.device, ready.backends)[0])
    for name in names:
        if name not in ready.backends:
            raise RunError(unknown_backend(name, tuple(ready.backends)))
    return tuple(dict.fromkeys((*names, *(ready.given if request.add_plugins else ()))))


def unknown_backend(name: str, known: Sequence[str]) -> str:
    parts = name.split(",")
    if len(parts) > 1 and set(parts) <= set(known):
        return f'unknown backend "{name}"; name them one by one: {" ".join(f"--backend {part}" for part in parts)}'
    return f'unknown backend "{name}"{suggest(name, known)}; `attnbench list backends` shows all'


def _open_writer(request: Request, ready: Ready, backends: tuple[str, ...]) -> store.Writer:
    """The suite is stored with the backends that really run, so that --resume finishes those and no others."""
    from attnbench.hopper.build import build_facts
    from attnbench.machine import facts as environment

    facts = {
        **environment.with_worker(environment.collect(request.device), ready.facts),
        "trust": ready.facts.get("trust", {"mode": TRUSTED}),
        **build_facts(),
        "device": request.device,
        "plugins": [plain_spec(spec) for spec in request.plugins],
        **({"interpret": request.interpret} if request.interpret else {}),
        **({} if request.course else {"planned_records": len(request.suite.jobs()) * len(backends)}),
    }
    try:
        if request.resume:
            return store.Writer.resume(request.out, facts)
        suite = replace(request.suite, backends=backends or request.suite.backends)
        return store.Writer.create(request.out, facts, suite.to_yaml())
    except store.StoreError as error:
        raise RunError(str(error)) from None


def _run_jobs(
    request: Request,
    jobs: Sequence[Job],
    backends: Sequence[str],
    supervisor: Supervisor | TwoWorkers,
    writer: store.Writer,
    outcome: Outcome,
    started: float,
    sentinels: Sentinels,
) -> None:
    todo = _todo(jobs, backends, writer.taken)
    total, cost = len(jobs) * len(backends), CaseCost()
    request.progress.begin(total, total - sum(len(wanted) for _, wanted in todo), todo)
    for number, (job, wanted) in enumerate(todo):
        needed_s = cost.expected_s(job.case) if request.interpret else 0.0
        if request.budget_s is not None and time.monotonic() - started + needed_s > request.budget_s:
            outcome.not_run = tuple(left.case.key for left, _ in todo[number:])
            outcome.incomplete.append(f"the budget was used up with {len(todo) - number} of {len(jobs)} cases left")
            return
        if job.time and not outcome.unavailable:
            sentinels.look()
        note = _apart(job, writer.taken)

        def keep(record: Record) -> None:
            writer.append(record)
            outcome.records.append(record)
            request.progress.record(record)

        begun, before = time.monotonic(), len(outcome.records)
        watch = partial(request.progress.phase, job)
        if _processes(job) > 1:
            for record in _replicated(supervisor, job, wanted, watch, outcome.spent_s, note):
                keep(record)
        else:
            supervisor.work(job, wanted, keep, watch, outcome.spent_s, note=note)
        if any(record.status != "unsupported" for record in outcome.records[before:]):  # a refusal costs nothing
            cost.add(job.case, time.monotonic() - begun)


def _todo(jobs: Sequence[Job], backends: Sequence[str], taken: Sequence[Record]) -> list[tuple[Job, list[str]]]:
    """Each job that is not done yet, with the backends that have no record of it."""
    done = {(record.case_key, record.backend) for record in taken}
    left = ((job, [name for name in backends if (job.case.key, name) not in done]) for job in jobs)
    return [(job, wanted) for job, wanted in left if wanted]


def _apart(job: Job, taken: Sequence[Record]) -> str:
    """What a reader must know of a case that an interrupted run left half done: the rest is timed among itself."""
    names = [record.backend for record in taken if record.measurement and record.case_key == job.case.key]
    if not (names and job.timing.interleave):
        return ""
    return f"timed apart from {', '.join(names)}, whose records are from before this run was resumed"


def _replicated(
    supervisor: Supervisor | TwoWorkers,
    job: Job,
    backends: Sequence[str],
    watch: Callable[[str, str], None],
    spent_s: Counter[str],
    note: str = "",
) -> list[Record]:
    """The job once in each of several fresh workers; a backend's record is merged from all of them.

    The first worker leaves its outputs in a folder for the others to compare with, where the suite asks for that.
    """
    by_backend: dict[str, list[Record]] = {name: [] for name in backends}
    with tempfile.TemporaryDirectory(prefix="attnbench-") as folder:
        bits = folder if job.checks.processes > 1 else None
        for process in range(_processes(job)):
            supervisor.restart()
            going = [name for name, records in by_backend.items() if all(record.status == "ok" for record in records)]

            def keep(record: Record) -> None:
                by_backend[record.backend].append(record)

            supervisor.work(job, going, keep, watch, spent_s, bits, process, note)
    return [merge_processes(records) for records in by_backend.values()]


def _processes(job: Job) -> int:
    return max(job.checks.processes, job.timing.processes if job.time else 1)


RESULTS = Path("results")


def choose_device(asked: str) -> str:
    """The device that "auto" stands for. Raises RunError for a name that is no device."""
    if asked == "auto":
        return "cuda:0" if gpus() else "cpu"
    if asked == "cuda":
        return "cuda:0"
    if asked != "cpu" and not re.fullmatch(r"cuda:(0|[1-9][0-9]*)", asked):
        raise RunError(f'unknown device "{asked}"; use auto, cpu, cuda, or one card such as cuda:1')
    return asked

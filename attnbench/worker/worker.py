"""The measuring half's main: reads jobs from one pipe, writes events to another, dies with its parent.

What goes through the pipes: `attnbench.messages`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from attnbench.backend import Base, ContractError, never_timed
from attnbench.breakpoints import breakpointhook
from attnbench.errors import UserError
from attnbench.machine.facts import GET_TORCH
from attnbench.machine.host import cpus_allowed
from attnbench.messages import (
    STACKS_SIGNAL,
    UNTRUSTED,
    ArmEnough,
    ArmsReady,
    AskEnough,
    BackendHeld,
    BlockTaken,
    CheckPassed,
    Event,
    HoldBackend,
    Job,
    JobDone,
    PhaseBegun,
    Poisoned,
    PrepareArms,
    Ready,
    RecordMade,
    Refused,
    ReleaseArms,
    ReleaseBackend,
    RunCase,
    SentinelTaken,
    TakeBlock,
    TakeSentinel,
    TakeTurn,
    TimeHeld,
    TurnTaken,
    job_of,
    to_line,
)  # fmt: skip
from attnbench.timing.telemetry import TelemetryProcess
from attnbench.worker.loading import load, load_untrusted
from attnbench.worker.phases import Phases
from attnbench.worker.streams import Streams

if TYPE_CHECKING:
    from attnbench.records.record import Record
    from attnbench.untrusted.session import Session as Candidates
    from attnbench.worker.arms import HeldBackend
    from attnbench.worker.ceilings import Ceilings
    from attnbench.worker.held import HeldCase
    from attnbench.worker.integrity import Integrity
    from attnbench.worker.problem import Problem


def main() -> None:
    """Arguments: descriptors of the job and event pipes and of a file for stacks, the device, the mode of interpreters
    ("": none), whether plugins are trusted (a member of `messages.TRUST`), then plugin specs."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to handle; a KeyboardInterrupt here is a backend's
    jobs_fd, events_fd, stacks_fd, device, interpret, trust, *specs = sys.argv[1:]
    stacks = open(int(stacks_fd), "w")  # noqa: SIM115  # for as long as the process lives
    faulthandler.register(STACKS_SIGNAL, stacks)
    print(os.getpid(), file=stacks, flush=True)  # to whom that signal is to be sent
    sys.breakpointhook = breakpointhook
    cores = len(cpus_allowed())  # NOTE: ahead of torch's import, by which OpenMP pins this thread to one core
    with os.fdopen(int(jobs_fd)) as jobs, os.fdopen(int(events_fd), "w", buffering=1) as events:
        worker = Worker(events, device, cores, TelemetryProcess(device, cores))  # which is to have all cores, too
        if worker.start(specs, interpret, trust == UNTRUSTED):
            import_what_measures()  # while the parent writes down what it was told
            for line in jobs:
                worker.work(job_of(line))


def import_what_measures() -> None:
    """What the first job will need. A worker is ready before it has that: nobody waits for it then."""
    importlib.import_module("attnbench.settings")
    importlib.import_module("attnbench.worker.arms")


class Worker:
    def __init__(self, events: IO[str], device: str, threads: int, watch: TelemetryProcess):
        self._events, self._watch = events, watch
        self._threads = threads
        self._device = device
        self._backends: dict[str, Base] = {}
        self._cache_bytes = 0
        self._phases = Phases(self._announce)
        self._streams = Streams()
        self._held: HeldBackend | None = None
        self._case: HeldCase | None = None
        self._integrity: Integrity | None = None
        self._given: tuple[str, ...] = ()
        self._imported = ""  # what plugins replaced while they were imported, of that which judges or measures
        self._ceilings: Ceilings | None = None
        self._candidates: Candidates | None = None

    def start(self, specs: list[str], interpret: str = "", untrusted: bool = False) -> bool:
        """Loads torch, the device and every backend, and says so; False when it cannot work."""
        try:
            if untrusted:
                threads = 0 if "OMP_NUM_THREADS" in os.environ else self._threads
                loaded = load_untrusted(specs, self._device, threads)
            else:
                loaded = load(specs, interpret, self._device, ahead=self._watch_what_judges)
            self._backends, self._given, self._candidates = loaded.backends, loaded.given, loaded.candidates
            self._look_after_import()
            facts = self._open_device()
        except (UserError, DeviceError) as error:
            self._send(Refused(str(error)))
            return False
        reasons = {name: self._cannot_run(backend) for name, backend in self._backends.items()}
        if self._candidates is not None:
            facts["trust"] = {"mode": UNTRUSTED, "missing": list(self._candidates.missing)}
        self._send(Ready(facts, reasons, self._unasked(reasons), loaded.given, loaded.languages))
        return True

    def _watch_what_judges(self) -> None:
        """How all that judges and measures is now, ahead of code that may want to change it."""
        with contextlib.suppress(ImportError):  # without torch, which `_open_device` tells
            from attnbench.worker.integrity import Integrity

            self._integrity = Integrity()

    def _look_after_import(self) -> None:
        """What plugins replaced while they were imported is put back; their records say it."""
        if self._integrity is not None:
            with contextlib.suppress(ContractError):
                self._integrity.look()
            self._imported = self._integrity.accepted()

    def _cannot_run(self, backend: Base) -> str | None:
        """Why the backend can run no case on this device here; None where it can."""
        kind = self._device.split(":")[0]
        elsewhere = None if kind in backend.devices else f"it runs on {', '.join(backend.devices)} only, not on {kind}"
        return _unavailable(backend) or elsewhere

    def _unasked(self, reasons: dict[str, str | None]) -> tuple[str, ...]:
        """The backends that join a run which names none: they can run here, and not only where they are named."""
        kind = self._device.split(":")[0]
        return tuple(
            name
            for name, backend in self._backends.items()
            if reasons[name] is None and kind not in backend.by_name_only
        )

    def _open_device(self) -> dict[str, Any]:
        try:
            import torch
        except ImportError as error:
            raise DeviceError(f"torch does not import ({error}); {GET_TORCH}") from None
        from attnbench.machine.facts import worker_facts

        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(self._threads)
        torch.backends.cuda.matmul.allow_tf32 = False
        if self._device != "cpu":
            if not torch.cuda.is_available():
                raise DeviceError(
                    f"torch {torch.__version__} sees no CUDA device; install a CUDA build, or use --device cpu"
                )
            index = torch.device(self._device).index or 0
            if index >= torch.cuda.device_count():
                raise DeviceError(
                    f"there is no {self._device}; this machine has {torch.cuda.device_count()} CUDA devices"
                )
            torch.cuda.set_device(index)
        facts = {**worker_facts(self._device), "telemetry": self._watch.facts()}
        self._cache_bytes = facts.get("cache_bytes") or 0
        return facts

    def work(self, job: Job) -> None:
        """One job; says that it is done, and what each phase took."""
        if isinstance(job, RunCase):
            self._run(job)
        elif isinstance(job, HoldBackend):
            self._hold(job)
        elif isinstance(job, TakeBlock):
            self._take_block(job)
        elif isinstance(job, ReleaseBackend):
            self._release(job)
        elif isinstance(job, TakeSentinel):
            self._take_sentinel()
        else:
            self._turn(job)
        self._send(JobDone(dict(self._phases.spent_s)))
        self._phases.spent_s.clear()

    def _run(self, job: RunCase) -> None:
        """All backends of one case; inputs and oracle are made once.

        Those that are never timed come last: they take no part in the timing, and what they compile first may take
        minutes.
        """
        self._case = None
        problem = self._problem(job, job.bits, job.seed)
        untimed = [name for name in job.backends if never_timed(self._backends[name])]
        self._run_some(job, problem, [name for name in job.backends if name not in untimed])
        self._build_ahead([name for name in untimed if self._backends[name].emulated])
        self._run_some(job, problem, untimed)

    def _run_some(self, job: RunCase, problem: Problem, names: Sequence[str]) -> None:
        from attnbench.records.record import Record
        from attnbench.worker.arms import time_together
        from attnbench.worker.held import HeldCase
        from attnbench.worker.trial import check_trial, time_alone, with_printed

        held = []
        for name in names:
            self._begin(name)
            backend = self._backends[name]
            if backend.emulated and job.emulation is not None:
                backend = backend.under(job.emulation)
            if self._imported and name in self._given:
                self._report(Record(job.case, name, "", "error", kind="contract", reason=self._imported))
                continue
            before = self._streams.printed_bytes()
            checked = with_printed(check_trial(problem, backend, timed=job.time), self._streams.first_line(before))
            if isinstance(checked, Record):
                self._report(checked)
                continue
            self._send(CheckPassed(checked.record.to_json()))
            if problem.timing.interleave:
                held.append(checked)
            else:
                self._report(time_alone(problem, checked))
        if job.hold and held:
            self._case = HeldCase(problem, held)
            return
        for record in time_together(problem, held, job.process):
            self._report(record)

    def _turn(self, job: PrepareArms | TakeTurn | AskEnough | ReleaseArms | TimeHeld) -> None:
        """What the parent asks of backends that take turns with others in another process."""
        case = self._case
        assert case is not None, "turns are of backends that are held"
        if isinstance(job, PrepareArms):
            limits_s, reason, failed = case.prepare(job.labels, job.others, job.process)
            for record in failed:
                self._report(record)
            self._send(ArmsReady(limits_s, reason))
        elif isinstance(job, TakeTurn):
            failure = case.take(job.backend, job.round, job.growth)
            if failure is not None:
                self._report(failure)
            else:
                self._send(TurnTaken(case.lost_s(job.backend)))
        elif isinstance(job, AskEnough):
            self._send(ArmEnough(case.enough(job.backend, job.more)))
        else:
            for record in case.release(*job) if isinstance(job, ReleaseArms) else case.alone(*job):
                self._report(record)
            self._case = None

    def _build_ahead(self, names: Sequence[str]) -> None:
        """Compiles the emulated kernels of a job side by side; what fails does so again when its turn comes."""
        emulated = [self._backends[name] for name in names]
        if len(emulated) < 2 or any(backend.unavailable() for backend in emulated):
            return
        from concurrent.futures import ThreadPoolExecutor

        self._begin(emulated[0].name)
        with self._phases("build"), ThreadPoolExecutor(self._threads) as pool:
            for built in [pool.submit(backend.build) for backend in emulated]:
                built.exception()

    def _take_sentinel(self) -> None:
        from attnbench.timing.sentinel import take_sentinel

        self._send(SentinelTaken(take_sentinel(self._device, self._watch)))

    def _hold(self, job: HoldBackend) -> None:
        from attnbench.records.record import Record
        from attnbench.worker.arms import HeldBackend, strays

        self._begin(job.backend)
        held = HeldBackend.of(self._problem(job), self._backends[job.backend], job.time, job.arm, job.process)
        if isinstance(held, Record):
            self._report(held)
        else:
            self._held = held
        call_s = None if isinstance(held, Record) else held.call_s
        self._send(BackendHeld(call_s, tuple(strays(Path(job.checkout)))))

    def _take_block(self, job: TakeBlock) -> None:
        assert self._held is not None, "a block is asked of a backend that is held"
        failure = self._held.take(job.round, job.growth, job.call_s)
        if failure is not None:
            self._held = None
            self._report(failure)
        else:
            self._send(BlockTaken(self._held.done, self._held.lost_s))

    def _release(self, job: ReleaseBackend) -> None:
        assert self._held is not None, "what is released is held"
        held, self._held = self._held, None
        self._report(held.release(job.together, job.order_seed, job.timed))

    def _problem(self, job: RunCase | HoldBackend, bits: str | None = None, seed: int | None = None) -> Problem:
        from attnbench.worker.ceilings import Ceilings
        from attnbench.worker.problem import Problem

        self._ceilings = self._ceilings or Ceilings(self._device, self._cache_bytes)
        if self._candidates is not None:
            self._candidates.wait(job.timing.timeout_s, job.timing.compile_timeout_s, self._phases.again)
        return Problem(
            case=job.case,
            device=self._device,
            checks=job.checks,
            timing=job.timing,
            cache_bytes=self._cache_bytes,
            phases=self._phases,
            bits=bits,
            watch=self._watch,
            seed=seed,
            ceilings=self._ceilings,
            integrity=self._integrity,
        )

    def _begin(self, backend: str) -> None:
        self._phases.backend = backend
        self._announce(backend, "start")

    def _announce(self, backend: str, phase: str) -> None:
        self._streams.restore()  # between the turns of backends that are timed together too
        self._send(PhaseBegun(backend, phase))

    def _report(self, record: Record) -> None:
        if self._integrity is not None:
            told = self._integrity.told(record.backend)
            record = dataclasses.replace(record, warnings=(*record.warnings, *told)) if told else record
        self._send(RecordMade(record.to_json()))
        if record.status == "error":
            self._end_if_poisoned()

    def _end_if_poisoned(self) -> None:
        """A sticky CUDA error makes every later call fail: a fresh process is the only cure."""
        import torch

        if self._integrity is not None and self._integrity.broken:
            self._send(Poisoned(self._integrity.broken))
            os._exit(1)
        if self._device == "cpu":
            return
        try:
            torch.cuda.synchronize()
        except Exception as error:
            self._send(Poisoned(f"it left a broken CUDA context: {str(error).splitlines()[0]}"))
            os._exit(1)

    def _send(self, event: Event) -> None:
        self._events.write(to_line(event) + "\n")
        self._events.flush()


def _unavailable(backend: Base) -> str | None:
    try:
        reason = backend.unavailable()
    except (Exception, SystemExit) as error:  # a plugin's; its record will say the same
        return f"unavailable() raised {type(error).__name__}: {error}"
    return None if reason is None else str(reason)


class DeviceError(Exception):
    """The device asked for is not there, or nothing that drives it."""

"""One side of an A/B: a revision in its folder, and the worker that imports from there and from nowhere else."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from attnbench.ab.worktree import Repository, Revision
from attnbench.messages import BackendHeld, BlockTaken, HoldBackend, Ready, RecordMade, ReleaseBackend, TakeBlock
from attnbench.plugins import split_spec
from attnbench.records.record import Record
from attnbench.run.process import Place, RunError, WorkerDied, WorkerProcess, WorkerRefused, WorkerSilent
from attnbench.run.supervisor import Listener, end_worker
from attnbench.suite.suite import Job


class RevisionWorker:
    """A revision and, while it runs, its worker."""

    def __init__(self, revision: Revision, top: Path, repository: Repository, device: str, specs: Sequence[str]):
        self.revision, self.repository = revision, repository
        self.folder = top / repository.inside
        self.place = Place(self.folder, import_path(repository, top))
        self.specs = [self._moved(spec, top) for spec in specs]
        self._device = device
        self._worker: WorkerProcess | None = None
        self._used = False
        self._event: Ready | None = None

    @property
    def name(self) -> str:
        return self.revision.name

    def environment(self) -> dict[str, str]:
        """For a build: what the worker will have."""
        return {**os.environ, "PYTHONPATH": os.pathsep.join(self.place.import_path)}

    def start(self) -> None:
        """Starts a fresh worker unless there is one; `ready` waits for it, so that two can start at the same time."""
        if self._worker is None or self._used:
            self.stop()
            self._worker = WorkerProcess(self._device, self.specs, self.place)
            self._used, self._event = False, None

    def ready(self) -> Ready:
        """The worker's ready event. Raises RunError when it cannot work."""
        assert self._worker is not None, "`start` comes first"
        try:
            self._event = self._event or self._worker.start()
        except WorkerRefused as error:
            raise RunError(f"{self.revision}: {str(error).replace(f'{self.folder}/', '')}") from None
        except WorkerDied as error:
            raise RunError(f"{self.revision}: no worker could start, {error.brief}") from None
        return self._event

    def worker(self) -> WorkerProcess:
        """The one at work; a fresh one where the last was lost."""
        if self._worker is None:
            self.start()
        self.ready()
        self._used = True
        assert self._worker is not None, "`start` leaves a worker"
        return self._worker

    def stop(self) -> None:
        """Ends the worker. Raises RunError where it does not end."""
        worker, self._worker = self._worker, None
        end_worker(worker)

    def _moved(self, spec: str, top: Path) -> str:
        """A plugin spec with its file in this revision's folder, where it lies in the repository. Raises RunError."""
        place, function = split_spec(spec)
        if not place.endswith(".py"):
            return spec
        path = Path(place).resolve()
        if path.is_relative_to(self.repository.top):
            path = top / path.relative_to(self.repository.top)
        if not path.is_file():
            where = f"{self.revision} has" if path.is_relative_to(top) else "there is"
            raise RunError(f'plugin "{spec}": {where} no file {place}')
        return f"{path}:{function}" if function else str(path)


def import_path(repository: Repository, top: Path) -> tuple[str, ...]:
    """What a revision's worker imports from: its own folders, then PYTHONPATH, the checkout's folders moved there."""
    own = [top / repository.inside, top, top / "src"]
    for entry in filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)):
        path = Path(entry).resolve()
        own.append(top / path.relative_to(repository.top) if path.is_relative_to(repository.top) else path)
    return tuple(dict.fromkeys(str(path) for path in own))


A = TypeVar("A")


class ArmLost(Exception):
    """The backend failed, or its worker did; the arm has the record of it."""


class RemoteArm:
    """One backend on one case, held in a side's worker: an `Arm` of `rounds`. Raises ArmLost where it fails."""

    def __init__(self, side: RevisionWorker, job: Job, backend: str, process: int, watch: Callable[[str, str], None]):
        self.name, self.done, self.lost_s, self.call_s = side.name, False, 0.0, 0.0
        self.record: Record | None = None
        self._side, self._process, self._held = side, process, False
        self._listener = Listener(job, [backend], self._keep, watch, Counter())

    def hold(self) -> None:
        """Checks and prepares. Raises ArmLost also where the backend passed and is not to be timed."""
        checkout = self._side.repository.top
        posed = self._listener.run_case(self._process)
        held = self._ask(
            HoldBackend(
                case=posed.case, backend=self._listener.backend, time=posed.time, timing=posed.timing,
                checks=posed.checks, process=self._process, arm=self.name, checkout=str(checkout),
            ),
            BackendHeld,
        )  # fmt: skip
        strays = held.strays
        if strays:
            raise RunError(
                f"{self._side.revision} imported {', '.join(strays[:3])} from the checkout {checkout} and not from its "
                "own folder, so both sides would measure the same; put the folder that is imported from on PYTHONPATH"
            )
        assert held.call_s is not None, "a backend that failed has its record"
        self.call_s, self._held = held.call_s, True

    def take(self, round: int, growth: int) -> None:
        taken = self._ask(TakeBlock(round=round, growth=growth, call_s=self.call_s), BlockTaken)
        self.done, self.lost_s = taken.done, taken.lost_s

    def enough(self, more: float) -> bool:
        """Both sides go on while there is time: what is compared is their difference, not either's own time."""
        return self.done

    def release(self, together: Sequence[str], order_seed: int, timed: bool) -> Record:
        """The record, without its times unless `timed`."""
        if self.record is None and self._held:
            with contextlib.suppress(ArmLost):
                self._ask(ReleaseBackend(together=tuple(together), order_seed=order_seed, timed=timed), RecordMade)
        assert self.record is not None, "an arm that is not held has a record, and one that is released gets one"
        return self.record

    def _ask(self, job: HoldBackend | TakeBlock | ReleaseBackend, answer: type[A]) -> A:
        """The worker's answer. Raises ArmLost where there is a record instead."""
        worker, told = self._side.worker(), None
        self._listener.answer = None
        worker.submit(job)
        try:
            self._listener.listen(worker)
            told = self._listener.answer
            if self.record is None and not isinstance(told, answer):
                raise WorkerDied(f"asked for {answer.__name__}, it said {type(told).__name__}")
        except (WorkerDied, WorkerSilent) as error:
            self._side.stop()
            if isinstance(error, WorkerDied):
                self._listener.fail(error.kind, str(error))
            else:
                self._listener.fail("timeout", self._listener.overdue())
        if self.record is not None or not isinstance(told, answer):
            raise ArmLost
        return told

    def _keep(self, record: Record) -> None:
        self.record = record

"""Two workers for one case: the plugins' backends in one, all others in another that imports no plugin.

Backends take turns block by block over both, so that they are compared as in one process; what a plugin changes in its
own (a slower torch.bmm, another number of threads) reaches no other backend. Each worker draws the same inputs and
makes the oracle anew.
"""

from __future__ import annotations

import time
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from attnbench.messages import (
    ArmEnough,
    ArmsReady,
    AskEnough,
    PrepareArms,
    Ready,
    ReleaseArms,
    TakeTurn,
    TimeHeld,
    TurnTaken,
)
from attnbench.messages import Job as Message
from attnbench.records.record import Record
from attnbench.run.supervisor import Listener, Lost, Supervisor, noted
from attnbench.suite.suite import Job
from attnbench.timing.rounds import take_turns

A = TypeVar("A")
Keep = Callable[[Record], None]


class ArmGone(Exception):
    """A backend failed while it was timed, and has its record; the others start again without it."""


class WorkerGone(Exception):
    """A worker was lost; whoever was at work has a record or is a suspect."""


class TwoWorkers:
    """A `Supervisor` of two workers. candidates: with the plugins; references: without, started beside it."""

    def __init__(self, candidates: Supervisor, references: Supervisor):
        self.candidates, self.references = candidates, references
        self._given: frozenset[str] = frozenset()

    def start(self) -> Ready:
        """Fresh workers; the ready event of the one that has the plugins, which knows all backends. Raises RunError."""
        self.references.launch()
        ready = self.candidates.start()
        self._given = frozenset(ready.given)
        self.references.await_ready()
        return ready

    @property
    def _sides(self) -> tuple[Supervisor, Supervisor]:
        return self.references, self.candidates

    def _side(self, backend: str) -> Supervisor:
        return self.candidates if backend in self._given else self.references

    def stop(self) -> None:
        """Ends both. Raises RunError where one does not end."""
        try:
            self.candidates.stop()
        finally:
            self.references.stop()

    def restart(self) -> None:
        """Sees to it that the next job gets processes that have not measured anything."""
        self.candidates.restart()
        self.references.restart()

    def import_also(self, plugins: Sequence[str]) -> None:
        """As `Supervisor.import_also` has it: the references import none."""
        ready = self.candidates.import_also(plugins)
        if ready is not None:
            self._given = frozenset(ready.given)

    def take_sentinel(self) -> dict[str, Any]:
        """Of the process that no plugin is in."""
        return self.references.take_sentinel()

    def work(
        self,
        job: Job,
        backends: Sequence[str],
        keep: Keep,
        watch: Callable[[str, str], None],
        spent_s: Counter[str],
        bits: str | None = None,
        process: int = 0,
        note: str = "",
    ) -> None:
        """As `Supervisor.work` has it."""
        here = [(each, [name for name in backends if self._side(name) is each]) for each in self._sides]
        if not (job.time and job.timing.interleave and all(names for _, names in here)):
            for supervisor, names in here:
                if names:
                    supervisor.work(job, names, keep, watch, spent_s, bits, process, note)
            return
        left, suspects = list(backends), dict[str, str]()

        def kept(record: Record) -> None:
            left.remove(record.backend)
            keep(record)

        while left:
            alone = next((name for name in left if name in suspects), None)
            if alone is not None:
                told = noted(kept, (note, suspects[alone]))
                self._side(alone).work(job, [alone], told, watch, spent_s, bits, process)
                continue
            posed = []
            for supervisor in self._sides:
                names = [name for name in left if self._side(name) is supervisor]
                if names:
                    posed.append(
                        Side(supervisor, supervisor.listener(job, names, noted(kept, (note,)), watch, spent_s))
                    )
            try:
                Turns(posed, list(left), process, bits).run()
            except WorkerGone:
                suspects |= {name: why for side in posed for name, why in side.suspects.items() if name in left}


@dataclass
class Side:
    """One of the workers on one job. suspects: who was timed when it died with others beside it, and how it died."""

    supervisor: Supervisor
    listener: Listener
    suspects: dict[str, str] = field(default_factory=dict)

    @property
    def left(self) -> list[str]:
        return self.listener.left

    def ask(self, message: Message, answer: type[A]) -> A | None:
        """The worker's answer, None where there is a record instead. Raises WorkerGone."""
        self.listener.answer = None
        try:
            self.supervisor.follow(self.listener, message)
        except Lost as lost:
            self.suspects |= lost.suspects
            raise WorkerGone from None
        told = self.listener.answer
        return told if isinstance(told, answer) else None


@dataclass
class Turns:
    """The backends of one case, held in both workers, from their checks to their records.

    order: of all of them, in which blocks are labelled.
    """

    sides: Sequence[Side]
    order: Sequence[str]
    process: int
    bits: str | None

    def run(self) -> None:
        """Every backend has its record afterwards. Raises WorkerGone where one of the workers was lost."""
        for side in self.sides:
            side.ask(side.listener.run_case(self.process, self.bits)._replace(hold=True), object)
        while (held := [side for side in self.sides if side.left]) and len(held) > 1:
            try:
                reason = self._timed_together(held)
            except ArmGone:
                continue
            if reason:
                self._alone(held, reason)
            return
        self._alone(held, "")

    def _alone(self, held: Sequence[Side], reason: str) -> None:
        for side in held:
            side.ask(TimeHeld(self.process, reason), object)

    def _timed_together(self, held: Sequence[Side]) -> str:
        """Why they cannot all be held at once; "" once all have their records. Raises ArmGone and WorkerGone."""
        names = [name for name in self.order if any(name in side.left for side in held)]
        labels = {name: str(place) for place, name in enumerate(names, start=1)}
        limit_s = 0.0
        for side in held:
            own = {name: labels[name] for name in names if name in side.left}
            ready = side.ask(PrepareArms(own, len(names) - len(own), self.process), ArmsReady)
            if ready is None or (len(ready.limits_s) < len(own) and not ready.reason):
                raise ArmGone
            if ready.reason:
                return ready.reason
            limit_s += sum(ready.limits_s.values())
        arms = [Arm(name, next(side for side in held if name in side.left)) for name in names]
        seed = zlib.crc32(" ".join((held[0].listener.job.case.key, *names)).encode())
        early = take_turns(
            arms, seed + self.process, limit_s, lambda: time.monotonic() - sum(arm.lost_s for arm in arms)
        )
        for side in held:
            side.ask(ReleaseArms(tuple(names), seed, early), object)
        return ""


@dataclass
class Arm:
    """A backend that is held in a worker: an `Arm` of `rounds`."""

    name: str
    side: Side
    lost_s: float = 0.0

    def take(self, round: int, growth: int) -> None:
        """Raises ArmGone and WorkerGone."""
        taken = self.side.ask(TakeTurn(self.name, round, growth), TurnTaken)
        if taken is None:
            raise ArmGone
        self.lost_s = taken.lost_s

    def enough(self, more: float) -> bool:
        """Raises WorkerGone."""
        told = self.side.ask(AskEnough(self.name, more), ArmEnough)
        return told is not None and told.enough

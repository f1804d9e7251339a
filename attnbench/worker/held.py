"""The checked backends of a case that wait in this process for their turns, while others of the case wait in another:
what a plugin does to its process does not reach the backends that it is compared with.

The parent says whose turn it is. What one of them raises costs its own record; the others are then prepared anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from attnbench.records.record import Record
from attnbench.timing.interleave import TimedArm
from attnbench.worker.arms import (
    NO_MEMORY,
    AnnouncedArm,
    ArmFailed,
    prepared_arm,
    recorded,
    time_apart,
    time_together,
    timed_arm,
    too_large_together,
)
from attnbench.worker.guard import DURING, guarded
from attnbench.worker.prepared import Checked, Prepared

if TYPE_CHECKING:
    from attnbench.worker.problem import Problem


class HeldCase:
    """What passed its checks and has no record yet, in the order of the job."""

    def __init__(self, problem: Problem, checked: Sequence[Checked]):
        self._problem = problem
        self._checked = {each.backend.name: each for each in checked}
        self._arms: dict[str, tuple[Prepared, TimedArm]] = {}

    def prepare(
        self, labels: Mapping[str, str], others: int, process: int
    ) -> tuple[dict[str, float], str, list[Record]]:
        """Prepares and warms up these; seconds that the samples of each may take, why they cannot all be held ("" where
        they can), and the records of those that failed. labels: of their blocks, by name; others: how many more are
        held elsewhere at the same time."""
        self._arms.clear()  # and their input sets with them
        held = [self._checked[name] for name in labels]
        reason = too_large_together(self._problem, held, others) if len(held) + others > 1 else ""
        failed = list[Record]()
        for checked in held if not reason else ():
            name = checked.backend.name
            try:
                arm = prepared_arm(self._problem, checked, [*held, *[checked] * others])
                self._arms[name] = arm, timed_arm(arm, labels[name], process)
                self._turn(name).warm_up()
            except ArmFailed as error:
                self._arms.pop(name, None)
                if error.record.kind == "oom":
                    self._arms.clear()
                    return {}, NO_MEMORY.format(count=len(held) + others), failed
                failed.append(self._gone(error.record))
        return {name: times.limit_s for name, (_, times) in self._arms.items()}, reason, failed

    def take(self, backend: str, round: int, growth: int) -> Record | None:
        """One block; the record of what the backend raised in it, or None."""
        try:
            self._turn(backend).take(round, growth)
        except ArmFailed as error:
            self._arms.pop(backend)
            return self._gone(error.record)
        return None

    def lost_s(self, backend: str) -> float:
        """Seconds of its blocks that the machine spoilt."""
        return self._arms[backend][1].lost_s

    def enough(self, backend: str, more: float) -> bool:
        """As `rounds.Arm` has it."""
        return self._arms[backend][1].enough(more)

    def release(self, together: Sequence[str], order_seed: int, early: bool) -> Iterator[Record]:
        """The records of all that took turns."""
        for name, (arm, times) in self._arms.items():
            self._problem.phases.backend = name
            record = partial(recorded, arm, times, together, order_seed, early)
            yield guarded(self._problem, arm.checked.record, record, DURING)
        self._arms.clear()

    def alone(self, process: int, reason: str) -> Iterator[Record]:
        """All of them timed in this process: in turns, or, where there is a reason, one after the other."""
        self._arms.clear()
        held = list(self._checked.values())
        yield from time_apart(self._problem, held, reason) if reason else time_together(self._problem, held, process)

    def _turn(self, backend: str) -> AnnouncedArm:
        return AnnouncedArm(self._problem, *self._arms[backend])

    def _gone(self, record: Record) -> Record:
        del self._checked[record.backend]
        return record

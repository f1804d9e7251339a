"""Two revisions side by side: each backend on each case, block by block in turns, in fresh pairs of processes.

Base against itself on some cases gives the noise floor. What comes out slower is measured again, in fresh processes.
"""

from __future__ import annotations

import math
import time
import zlib
from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import Callable, Iterable, Sequence

from attnbench.differences import NotEnough, noise_floor, process_differences
from attnbench.record import Record
from attnbench.replication import merge_processes
from attnbench.rounds import take_turns
from attnbench.side import ArmLost, RemoteArm, Side
from attnbench.suite import Job

# Cases on which base is measured against itself: evenly spaced over the suite.
NULL_CASES = 3
ARMS = ("base", "head")

Key = tuple[str, str]  # (case key, backend)


@dataclass(frozen=True, slots=True)
class Task:
    """One case on one backend, to be measured on both sides."""

    job: Job
    backend: str

    @property
    def key(self) -> Key:
        return self.job.case.key, self.backend


@dataclass
class Measured:
    """Per task and side the records of its processes, in order; and by task how base differed from itself."""

    records: dict[Key, tuple[list[Record], list[Record]]] = field(
        default_factory=lambda: defaultdict(lambda: ([], []))
    )
    nulls: dict[Key, list[float]] = field(default_factory=lambda: defaultdict(list))

    def going(self, task: Task) -> bool:
        """Whether a further process is of use: nothing has failed on either side so far."""
        return all(record.status == "ok" for side in self.records[task.key] for record in side)

    def merged(self, side: int) -> list[Record]:
        """One record per task, from as many processes as there were."""
        return [_merged(sides[side]) for sides in self.records.values() if sides[side]]

    def floor(self) -> float | None:
        """The A/A noise floor, a fraction of base's time; None where base was not measured against itself."""
        try:
            return math.expm1(noise_floor(self.nulls.values()))
        except NotEnough:
            return None


@dataclass
class Bout:
    """Measures tasks on two sides. Records land in `measured` as they come.

    again: base once more, for the A/A null. tell: a line a pair, for whoever watches; watch: (backend, phase).
    """

    base: Side
    head: Side
    again: Side
    seed: int
    tell: Callable[[int, Task, Record, Record], None]
    watch: Callable[[str, str], None] = lambda backend, phase: None
    measured: Measured = field(default_factory=Measured)

    def run(self, tasks: Sequence[Task], processes: int, nulls: Iterable[Task] = ()) -> Measured:
        """Every task in `processes` fresh pairs of processes; the tasks in `nulls` also on base against itself."""
        nulls = list(nulls)
        try:
            for process in range(processes):
                self._process(process, tasks, nulls)
        finally:
            for side in (self.base, self.head, self.again):
                side.dismiss()
        return self.measured

    def _process(self, process: int, tasks: Sequence[Task], nulls: Sequence[Task]) -> None:
        hire(self.base, self.head)
        for task in filter(self.measured.going, tasks):
            pair = self._pair(task, (self.base, self.head), process)
            for side, record in zip(self.measured.records[task.key], pair):
                side.append(record)
            self.tell(process, task, *pair)
        self.head.dismiss()
        left = [task for task in nulls if self.measured.going(task)]
        if left:
            hire(self.again)
        for task in left:
            one, other = (record.measurement for record in self._pair(task, (self.base, self.again), process))
            if one and other:
                self.measured.nulls[task.key] += process_differences(one.blocks, other.blocks).values()

    def _pair(self, task: Task, sides: Sequence[Side], process: int) -> tuple[Record, Record]:
        """The records of both sides: with their times where both are right, else without."""
        arms = [RemoteArm(side, task.job, task.backend, process, self.watch) for side in sides]
        limit_s = len(arms) * task.job.timing.max_time_s
        seed = zlib.crc32(f"{self.seed} {task.job.case.key} {task.backend}".encode())
        if all([_holds(arm) for arm in arms]):  # a list: both sides are checked, whatever came of the first
            shared_s = min(arm.call_s for arm in arms)
            for arm in arms:
                arm.call_s = shared_s
            try:
                take_turns(arms, seed + process, limit_s, lambda: time.monotonic() - sum(arm.lost_s for arm in arms))
            except ArmLost:
                pass
        timed = all(arm.record is None for arm in arms)
        one, other = (arm.release(ARMS, seed, timed) for arm in arms)
        return one, other


def hire(*sides: Side) -> list:
    """A fresh worker for each, started at the same time; their ready events. Raises RunError."""
    for side in sides:
        side.start()
    return [side.ready() for side in sides]


def null_tasks(tasks: Sequence[Task]) -> list[Task]:
    """NULL_CASES of the tasks that are timed, evenly spaced over them."""
    timed = [task for task in tasks if task.job.time]
    count = min(NULL_CASES, len(timed))
    return [timed[(2 * place + 1) * len(timed) // (2 * count)] for place in range(count)]


def _holds(arm: RemoteArm) -> bool:
    try:
        arm.hold()
    except ArmLost:
        return False
    return True


def _merged(records: Sequence[Record]) -> Record:
    """As `merge_processes`; a process in which it was right and not timed, since the other side failed, is left out."""
    if any(record.status != "ok" for record in records):
        return merge_processes(records)
    timed = [record for record in records if record.measurement]
    if not timed or len(timed) == len(records):
        return merge_processes(records)
    warning = f"timed in {len(timed)} of {len(records)} processes: the other side failed"
    return replace(merge_processes(timed), warnings=(*timed[0].warnings, warning))

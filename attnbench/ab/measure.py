"""Two revisions side by side: each backend on each case, block by block in turns, in fresh pairs of processes.

Base against itself on some cases gives the noise floor. What comes out slower is measured again, in fresh processes.
"""

from __future__ import annotations

import contextlib
import math
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from attnbench.ab.revision import ArmLost, RemoteArm, RevisionWorker
from attnbench.ab.worktree import Revision
from attnbench.compare.baseline import read_sides
from attnbench.compare.comparison import Cell, Comparison, compare
from attnbench.compare.differences import NotEnough, noise_floor, process_differences
from attnbench.compare.margin import Margin
from attnbench.compare.pairs import pair_of_turns, suite_of_turns, typical_s
from attnbench.compare.verdict import SLOWER, Verdict, confirm
from attnbench.messages import Ready
from attnbench.records.measurement import Measurement
from attnbench.records.record import Record, merge_processes
from attnbench.suite.suite import Job
from attnbench.timing.rounds import take_turns

# Cases on which base is measured against itself: evenly spaced over the suite.
NULL_CASES = 3
ARMS = ("base", "head")
# What base is measured against in a pair: head, or itself.
HEAD, NULL = "head", "null"

Key = tuple[str, str]  # (case key, backend)
Sides = tuple[list[Record], list[Record]]


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
    """Per task and side the records of its processes, in order; nulls: the same of base against itself.

    keep: told of each pair as soon as it is there (HEAD or NULL, and the two records).
    """

    keep: Callable[[str, Record, Record], None] = lambda against, base, other: None
    records: dict[Key, Sides] = field(default_factory=lambda: defaultdict(lambda: ([], [])))
    nulls: dict[Key, Sides] = field(default_factory=lambda: defaultdict(lambda: ([], [])))

    @classmethod
    def of(cls, pairs: Iterable[tuple[str, Record, Record]], keep: Callable[[str, Record, Record], None]) -> Measured:
        """What was measured before; `keep` is told of what comes."""
        measured = cls()
        for pair in pairs:
            measured.add(*pair)
        measured.keep = keep
        return measured

    def add(self, against: str, base: Record, other: Record) -> None:
        sides = (self.nulls if against == NULL else self.records)[base.case_key, base.backend]
        for side, record in zip(sides, (base, other)):
            side.append(record)
        self.keep(against, base, other)

    def going(self, task: Task) -> bool:
        """Whether a further process is of use: nothing has failed on either side so far."""
        return all(record.status == "ok" for side in self.records[task.key] for record in side)

    def lacks(self, against: str, task: Task, process: int) -> bool:
        """Whether a pair is still to be measured in a process, and of use."""
        return self.going(task) and len((self.nulls if against == NULL else self.records)[task.key][0]) <= process

    def merged(self, side: int) -> list[Record]:
        """One record per task, from as many processes as there were."""
        return [_merged(sides[side]) for sides in self.records.values() if sides[side]]

    def floor(self) -> float | None:
        """The A/A noise floor, a fraction of base's time; None where base was not measured against itself."""
        try:
            return math.expm1(noise_floor(map(_null_differences, self.nulls.values())))
        except NotEnough:
            return None


def _null_differences(sides: Sides) -> list[float]:
    """One for each process in which base was measured against itself."""
    pairs = ((one.measurement, other.measurement) for one, other in zip(*sides))
    found = (process_differences(one.blocks, other.blocks) for one, other in pairs if one and other)
    return [value for differences in found for value in differences.values()]


@dataclass
class PairedRun:
    """Measures tasks on two sides. Records land in `measured` as they come.

    again: base once more, for the A/A null. tell: of each pair, for whoever watches, and tell_null, of base against
    itself; watch: (backend, phase).
    """

    base: RevisionWorker
    head: RevisionWorker
    again: RevisionWorker
    seed: int
    tell: Callable[[int, Task, Record, Record], None] = lambda process, task, base, head: None
    tell_null: Callable[[], None] = lambda: None
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
                side.stop()
        return self.measured

    def left(self, tasks: Sequence[Task], processes: int, nulls: Sequence[Task] = ()) -> int:
        """How many pairs are still to be measured, if nothing fails."""
        sides = ((HEAD, tasks), (NULL, nulls))
        return sum(
            self.measured.lacks(against, task, process)
            for against, those in sides for task in those for process in range(processes)
        )  # fmt: skip

    def _process(self, process: int, tasks: Sequence[Task], nulls: Sequence[Task]) -> None:
        left = [task for task in tasks if self.measured.lacks(HEAD, task, process)]
        if left:
            start(self.base, self.head)
        for task in left:
            pair = self._pair(task, (self.base, self.head), process)
            self.measured.add(HEAD, *pair)
            self.tell(process, task, *pair)
        self.head.stop()
        left = [task for task in nulls if self.measured.lacks(NULL, task, process)]
        if left:
            start(self.again)
        for task in left:
            self.measured.add(NULL, *self._pair(task, (self.base, self.again), process))
            self.tell_null()

    def _pair(self, task: Task, sides: Sequence[RevisionWorker], process: int) -> tuple[Record, Record]:
        """The records of both sides: with their times where both are right, else without."""
        arms = [RemoteArm(side, task.job, task.backend, process, self.watch) for side in sides]
        limit_s = len(arms) * task.job.timing.max_time_s
        seed = zlib.crc32(f"{self.seed} {task.job.case.key} {task.backend}".encode())
        held = [_holds(arm) for arm in arms]  # both sides are checked, whatever came of the first
        if all(held):
            shared_s = min(arm.call_s for arm in arms)
            for arm in arms:
                arm.call_s = shared_s
            with contextlib.suppress(ArmLost):
                take_turns(arms, seed + process, limit_s, lambda: time.monotonic() - sum(arm.lost_s for arm in arms))
        timed = all(arm.record is None for arm in arms)
        one, other = (arm.release(ARMS, seed, timed) for arm in arms)
        return one, other


def start(*sides: RevisionWorker) -> list[Ready]:
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


# Verdicts on two revisions: of the first measurement, and of what was measured again because it came out slower.


def comparison_of(out: Path, revisions: Sequence[Revision], margin: Margin) -> Comparison:
    """What the run directories of both sides say, before anything is confirmed."""
    found = compare(*read_sides(out / "base", out / "head"), margin)
    return replace(found, base=str(revisions[0]), new=str(revisions[1]))


def tasks_to_confirm(comparison: Comparison, tasks: Sequence[Task]) -> list[Task]:
    """The tasks that came out slower; all that are timed where the suite as a whole did."""
    slower = {
        (cell.case_key, cell.backend) for cell in comparison.cells if cell.verdict and cell.verdict.kind == SLOWER
    }
    if comparison.suite is not None and comparison.suite.kind == SLOWER:
        slower = {(cell.case_key, cell.backend) for cell in comparison.cells if cell.verdict and cell.verdict.time}
    return [task for task in tasks if task.key in slower]


def confirmed(comparison: Comparison, second: Measured) -> Comparison:
    """The comparison with what the fresh processes say of what was slower."""
    base, head = (
        {(record.case_key, record.backend): record.measurement for record in second.merged(place)} for place in (0, 1)
    )
    both = {key: (one, other) for key, one in base.items() if one and (other := head.get(key))}
    first = {(cell.case_key, cell.backend): cell.verdict for cell in comparison.cells if cell.verdict}
    verdicts = confirm(first, {key: pair_of_turns(*pair) for key, pair in both.items()}, comparison.margin)
    cells = tuple(_again(cell, verdicts, both) for cell in comparison.cells)
    suite = comparison.suite
    if suite is not None and suite.kind == SLOWER:
        again = {"": suite_of_turns(list(both.values()))} if both else {}
        suite = confirm({"": suite}, again, comparison.margin)[""]
    return replace(comparison, cells=cells, suite=suite)


def _again(cell: Cell, verdicts: Mapping[Key, Verdict], both: Mapping[Key, tuple[Measurement, Measurement]]) -> Cell:
    """The cell with its verdict, and the times that the verdict is about."""
    key = cell.case_key, cell.backend
    made = replace(cell, verdict=verdicts.get(key, cell.verdict))
    if key not in both:
        return made
    base, other = both[key]
    return replace(made, base_s=typical_s((base,)), new_s=typical_s((other,)))

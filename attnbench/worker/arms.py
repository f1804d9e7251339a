"""Several checked backends of one case, timed in turns in this process, and the records of all.

What one of them raises costs its own record; the others then start again without it.
"""

from __future__ import annotations

import sys
import sysconfig
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from attnbench.backend import Base
from attnbench.machine.facts import available_memory_bytes
from attnbench.paths import PACKAGE
from attnbench.records.record import Record
from attnbench.reference.inputs import input_bytes
from attnbench.timing.interleave import TimedArm
from attnbench.timing.rounds import take_turns
from attnbench.worker.guard import DURING, guarded
from attnbench.worker.prepared import Checked, Prepared, set_bytes
from attnbench.worker.problem import MEMORY_SHARE
from attnbench.worker.trial import check_trial, time_alone

if TYPE_CHECKING:
    from attnbench.worker.problem import Problem


ONE_BY_ONE = "timed one after the other"
NO_MEMORY = ONE_BY_ONE + ": there was no memory for all of {count} at once"


def time_together(problem: Problem, held: Sequence[Checked], process: int = 0) -> Iterator[Record]:
    """One record per backend, in any order. Never raises for what a backend did.

    process: which of several processes this is that measure the same case; each has an order of its own.
    """
    left = list(held)
    while left:
        reason = too_large_together(problem, left) if len(left) > 1 else ""
        if len(left) == 1 or reason:
            yield from time_apart(problem, left, reason)
            return
        try:
            yield from _in_turns(problem, left, process)
            return
        except ArmFailed as error:
            failure = error.record
        # NOTE: only here, with the exception, are the frames gone that hold every arm's input sets.
        if failure.kind == "oom":
            yield from time_apart(problem, left, NO_MEMORY.format(count=len(left)))
            return
        yield failure
        left = [checked for checked in left if checked.backend.name != failure.backend]


def _in_turns(problem: Problem, held: Sequence[Checked], process: int) -> Iterator[Record]:
    """The records of all, once all are timed. Raises ArmFailed before the first one."""
    arms = [prepared_arm(problem, checked, held) for checked in held]
    timed = [timed_arm(arm, str(place), process) for place, arm in enumerate(arms, start=1)]
    names = [arm.name for arm in arms]
    seed = order_seed(problem.case.key, names)
    announced = [AnnouncedArm(problem, arm, times) for arm, times in zip(arms, timed)]
    for turn in announced:
        turn.warm_up()
    clock = problem.watch.clock
    limit_s = sum(times.limit_s for times in timed)
    early = take_turns(announced, seed + process, limit_s, lambda: clock.now() - sum(times.lost_s for times in timed))
    for arm, times in zip(arms, timed):
        problem.phases.backend = arm.name
        yield guarded(problem, arm.checked.record, partial(recorded, arm, times, names, seed, early), DURING)


def recorded(arm: Prepared, times: TimedArm, names: Sequence[str], seed: int, early: bool) -> Record:
    """The record of an arm that took its turns."""
    return arm.record(times.measurement(names, seed, early))


def order_seed(case_key: str, names: Sequence[str]) -> int:
    """The same for the same case and arms, so that a run can be repeated turn by turn."""
    return zlib.crc32(" ".join((case_key, *names)).encode())


def too_large_together(problem: Problem, held: Sequence[Checked], others: int = 0) -> str:
    """Why the input sets and outputs of all cannot be held at the same time; "" where they can. others: so many more
    in another process, and a second set of checked inputs."""
    backends = [checked.backend for checked in held]
    count = len(held) + others
    need = set_bytes(problem.case, backends) + (count + 1) * input_bytes(problem.case)
    if others:
        need += (others + 1) * input_bytes(problem.case)
    have = int(available_memory_bytes(problem.device) * MEMORY_SHARE)
    if need <= have:
        return ""
    return (
        f"{ONE_BY_ONE}: inputs of {count} backends together need about {need / 2**30:.1f} GiB, and "
        f"{have / 2**30:.1f} GiB of the {problem.device} memory may be used"
    )


def time_apart(problem: Problem, held: Sequence[Checked], reason: str) -> Iterator[Record]:
    """One after the other; reason: why, for their records; "" for a backend that has none beside it."""
    for checked in held:
        yield _alone(problem, checked, reason)


def _alone(problem: Problem, checked: Checked, reason: str) -> Record:
    problem.phases.backend = checked.backend.name
    record = time_alone(problem, checked)
    return replace(record, warnings=(*record.warnings, reason)) if reason else record


def prepared_arm(problem: Problem, checked: Checked, held: Sequence[Checked]) -> Prepared:
    """held: all that are to be held at the same time. Raises ArmFailed."""
    problem.phases.backend = checked.backend.name
    backends = [other.backend for other in held]
    arm = guarded(
        problem,
        checked.record,
        lambda: Prepared(problem, checked, backends),
        DURING,
    )
    if isinstance(arm, Record):
        raise ArmFailed(arm)
    return arm


def timed_arm(arm: Prepared, label: str, process: int) -> TimedArm:
    problem = arm.problem
    return TimedArm(
        label,
        arm.turns,
        problem.timing,
        arm.timer,
        problem.watch,
        problem.watch.clock,
        arm.flush(),
        process,
    )


class ArmFailed(Exception):
    """One of several arms raised; the record of it."""

    def __init__(self, record: Record):
        super().__init__(record.reason)
        self.record = record


class AnnouncedArm:
    """An arm whose turns are phases of its backend, so that whoever watches knows who is at work. Raises ArmFailed."""

    def __init__(self, problem: Problem, prepared: Prepared, arm: TimedArm):
        self._problem, self._prepared, self._arm = problem, prepared, arm

    def enough(self, more: float) -> bool:
        return self._arm.enough(more)

    def warm_up(self) -> None:
        self._at_work(self._arm.warm_up)

    def take(self, round: int, growth: int) -> None:
        def taken() -> None:
            self._arm.take(round, growth)
            self._prepared.judge_last()

        self._at_work(taken)

    def _at_work(self, step: Callable[[], None]) -> None:
        self._problem.phases.backend = self._prepared.name
        with self._problem.phases("time"):
            outcome = guarded(self._problem, self._prepared.checked.record, step, DURING)
        if outcome is not None:
            raise ArmFailed(outcome)


# A checked backend that is held in this process between jobs and takes a block whenever it is asked to.
#
# So two processes can take turns: two revisions of a kernel, which cannot both be imported into one.

PROCESSES_AT_ONCE = 2  # each holds a backend, and the device's memory is for both


class HeldBackend:
    """The backend, prepared and warm."""

    def __init__(self, problem: Problem, prepared: Prepared, arm: TimedArm):
        self._problem, self._prepared, self._arm, self._blocks = problem, prepared, arm, 0

    @classmethod
    def of(cls, problem: Problem, backend: Base, timed: bool, label: str, process: int) -> HeldBackend | Record:
        """The held backend, of one that passed its checks, or its record where it did not or is not to be timed."""
        checked = check_trial(problem, backend, timed)
        if isinstance(checked, Record):
            return checked

        def hold() -> HeldBackend:
            prepared = Prepared(problem, checked, [backend] * PROCESSES_AT_ONCE)
            arm = TimedArm(
                label,
                prepared.turns,
                problem.timing,
                prepared.timer,
                problem.watch,
                problem.watch.clock,
                prepared.flush(),
                process,
            )
            with problem.phases("time"):
                arm.warm_up()
            return cls(problem, prepared, arm)

        return guarded(problem, checked.record, hold, DURING)

    @property
    def done(self) -> bool:
        return self._arm.done

    @property
    def lost_s(self) -> float:
        return self._arm.lost_s

    @property
    def call_s(self) -> float:
        """What a call lasted when it was warm."""
        return self._arm.call_s

    def take(self, round: int, growth: int, call_s: float) -> Record | None:
        """One block; the record of what the backend raised in it, else None.

        call_s: what both sides take a call to last, so that their blocks and samples are made alike: where noise is
        skewed, the median of few samples lies elsewhere than that of many.
        """
        self._arm.call_s = call_s
        with self._problem.phases("time"):
            checked = self._prepared.checked.record
            outcome = guarded(self._problem, checked, lambda: self._taken(round, growth), DURING)
        self._blocks += 1
        return outcome

    def _taken(self, round: int, growth: int) -> None:
        self._arm.take(round, growth)
        self._prepared.judge_last()

    def release(self, together: tuple[str, ...], order_seed: int, timed: bool) -> Record:
        """The record, judged again after timing; without its times where they are not wanted, or none were taken."""
        checked = self._prepared.checked
        if not (timed and self._blocks):
            return checked.record

        def judged() -> Record:
            return self._prepared.record(self._arm.measurement(together, order_seed))

        return guarded(self._problem, checked.record, judged, DURING)


def strays(checkout: Path) -> list[str]:
    """Files of imported modules that lie in a checkout, relative to it; this package and installed ones are none."""
    spared = {PACKAGE, *(Path(path).resolve() for path in sysconfig.get_paths().values())}
    spared |= {Path(path).resolve() for path in sys.path if Path(path).name in ("site-packages", "dist-packages")}
    files = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    found = {Path(file).resolve() for file in files if isinstance(file, str)}
    inside = (path for path in found if path.is_relative_to(checkout) and not any(map(path.is_relative_to, spared)))
    return sorted(str(path.relative_to(checkout)) for path in inside)

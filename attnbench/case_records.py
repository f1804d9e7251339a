"""The records of each case on each backend from every run of both sides, and why some have no difference in time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from attnbench.case import Case
from attnbench.pairing import ByRun
from attnbench.records.measurement import Measurement
from attnbench.records.record import Record
from attnbench.records.store import Run
from attnbench.verdict import INCONCLUSIVE, MISSING, NEW, NOT_COMPARABLE, Pair

Name = tuple[str, str]  # (case key, backend)


@dataclass(slots=True)
class CaseRecords:
    """The records of one case on one backend, by run; None for a run that has none."""

    base: list[Record | None]
    new: list[Record | None]

    @property
    def timed(self) -> tuple[ByRun, ByRun]:
        return _measurements(self.base), _measurements(self.new)


def gather(base: Sequence[Run], new: Sequence[Run]) -> dict[Name, CaseRecords]:
    """By (case key, backend), base's cases first; of two records of one run the later counts."""
    cases: dict[Name, CaseRecords] = {}
    for side, runs in (("base", base), ("new", new)):
        for place, run in enumerate(runs):
            for record in run.records:
                name = record.case_key, record.backend
                if name not in cases:
                    cases[name] = CaseRecords([None] * len(base), [None] * len(new))
                getattr(cases[name], side)[place] = record
    return cases


def refusal(case: CaseRecords, measured_on: str) -> Pair | None:
    """Why a case has no difference in time, from which records there are and what became of them; None where it may.

    measured_on: that NEW measured it on other inputs, or "".
    """
    base, new = [list(filter(None, side)) for side in (case.base, case.new)]
    timed_before, timed_now = (any(side) for side in case.timed)
    if not base:
        return Pair(refused=NEW, reason="not in the baseline")
    if all(record.status == "unsupported" for record in base):
        return Pair(refused=NEW, reason="unsupported in the baseline") if timed_now else None
    if not new:
        if measured_on:
            return Pair(refused=NOT_COMPARABLE, reason=measured_on)
        return Pair(refused=MISSING, reason="in the baseline, and not measured")
    if all(record.status == "unsupported" for record in new):
        return Pair(refused=MISSING, reason=f"unsupported now: {new[0].reason.splitlines()[0]}")
    if timed_before and not timed_now:
        status = new[-1].status
        return Pair(refused=MISSING, reason="checked, and not timed" if status == "ok" else f"{status}, so not timed")
    if timed_now and not timed_before:
        status = base[-1].status
        if status == "ok":
            return Pair(refused=NEW, reason="not timed in the baseline")
        return Pair(refused=INCONCLUSIVE, reason=f"{status} in the baseline, so it was not timed there")
    return None


def other_inputs(cases: Mapping[Name, CaseRecords]) -> dict[Name, str]:
    """For cases that only the baseline has: that NEW measured the same problem on other inputs, and on which."""
    only_new = {_problem(name, one): _inputs(one) for name, one in cases.items() if not any(one.base)}
    found = {}
    for name, one in cases.items():
        now = None if any(one.new) or not only_new else only_new.get(_problem(name, one))
        if now is not None:
            found[name] = f"inputs: {_inputs(one)} before, {now} now"
    return found


def _problem(name: Name, one: CaseRecords) -> tuple:
    """What is computed, apart from the values that it is computed on; and by whom."""
    fields = _case(one).to_dict()
    return (name[1], *(value for field, value in fields.items() if field not in ("inputs", "seed")))


def _inputs(one: CaseRecords) -> str:
    return f"{_case(one).inputs}.{_case(one).seed}"


def _case(one: CaseRecords) -> Case:
    return next(record.case for record in (*one.base, *one.new) if record is not None)


def _measurements(records: Sequence[Record | None]) -> list[Measurement | None]:
    return [None if record is None else record.measurement for record in records]

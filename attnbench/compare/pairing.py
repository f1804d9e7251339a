"""Which measurements of both sides are held against each other, and what these say of themselves."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from attnbench.compare.comparable import differences_of_measurements
from attnbench.compare.differences import FEWEST_RUNS, PROCESS
from attnbench.compare.doubts import doubted, without_disturbed
from attnbench.compare.pairs import (
    ByRun,
    CaseRecords,
    Name,
    known_clock_shift,
    other_inputs,
    pair_of_turns,
    pairs_of_runs,
    refusal,
    took_turns,
)
from attnbench.compare.plausible import LEAST_EXCESS, excess
from attnbench.compare.verdict import NOT_COMPARABLE, Pair
from attnbench.records.environment import section
from attnbench.records.measurement import Measurement
from attnbench.records.store import Run

# A difference (log) below which no excess can be: between the percentiles that it is of lie the levels, nearly.
NEARLY_FAR = 0.8 * math.log1p(LEAST_EXCESS)
DISTURBED = "disturbed by other work while it was measured"


@dataclass(frozen=True, slots=True)
class Machine:
    """drift: how far the sentinels of all runs moved (`plausible.drift_of`); cpus: those that NEW was allowed."""

    drift: float
    cpus: int


@dataclass(frozen=True, slots=True)
class Paired:
    """pairs: for every case that either side timed; None where checks alone are compared. sides: the measurements
    (base, new) that stand behind a pair with a difference. unlike: why stored measurements were left out, counted, or,
    with force, used nevertheless.
    """

    pairs: Mapping[Name, Pair | None]
    sides: Mapping[Name, tuple[ByRun, ByRun]]
    unlike: Counter[str]


def pair_up(cases: Mapping[Name, CaseRecords], machine: Machine, force: bool) -> Paired:
    """force: what was measured otherwise, or under other work, is used all the same."""
    pairs: dict[Name, Pair | None] = {}
    stored: dict[Name, tuple[ByRun, ByRun]] = {}
    in_turns: dict[Name, tuple[ByRun, ByRun]] = {}
    unlike: Counter[str] = Counter()
    inputs = other_inputs(cases)
    for name, case in cases.items():
        pairs[name] = refusal(case, inputs.get(name, ""))
        base, new = case.timed
        if pairs[name] is not None or not any(base):
            continue
        alike, reasons = _alike(base, new)
        unlike.update(reasons)
        base = base if force else alike
        if not any(base):
            pairs[name] = Pair(refused=NOT_COMPARABLE, reason="; ".join(dict.fromkeys(reasons)))
            continue
        turns = turns_of(base, new)
        if turns is not None and took_turns(*turns):
            in_turns[name] = base, new
            pairs[name] = _heeding_records(pair_of_turns(*turns), base, new, replace(machine, drift=0.0))
            continue
        still, left_out = (base, 0) if force else without_disturbed(base, FEWEST_RUNS)
        unlike.update({DISTURBED: left_out} if left_out else {})
        stored[name] = still, new
    for name, pair in pairs_of_runs(stored).items():
        pairs[name] = _heeding_records(pair, *stored[name], machine)
    return Paired(pairs, in_turns | stored, unlike)


def _heeding_records(pair: Pair, base: ByRun, new: ByRun, machine: Machine) -> Pair:
    """The pair with what its records say of themselves, and with what lies far outside anything plausible."""
    before, now = ([one for one in side if one is not None] for side in (base, new))
    if not before or not now:
        return pair
    turns = pair.time is not None and pair.time.unit == PROCESS
    found = 0.0
    if pair.time is None or pair.time.mean > NEARLY_FAR:  # most cases end here, unsorted
        found = excess(before, now, machine.drift, known_clock_shift(base, new), machine.cpus)
    return replace(pair, excess=found, doubted=doubted(before, now, turns))


def cpus_of(run: Run) -> int:
    """CPUs that the run was allowed; 1 where that was not recorded."""
    cores = section(run.environment, "cpu").get("cores")
    return cores if isinstance(cores, int) and cores > 0 else 1


def turns_of(base: ByRun, new: ByRun) -> tuple[Measurement, Measurement] | None:
    """The measurements of a case, of which each side must have just one for the two to have taken turns."""
    (one, *more), (other, *others) = base, new
    return None if more or others or one is None or other is None else (one, other)


def _alike(base: ByRun, new: ByRun) -> tuple[list[Measurement | None], list[str]]:
    """The baseline's measurements that were made as NEW's were, and why each of the others was not."""
    kept: list[Measurement | None] = []
    reasons: list[str] = []
    others = [one for one in new if one is not None]
    for measurement in base:
        differ = [] if measurement is None else [
            reason for other in others for reason in differences_of_measurements(measurement, other)]  # fmt: skip
        kept.append(None if differ else measurement)
        reasons += dict.fromkeys(differ)
    return kept, reasons

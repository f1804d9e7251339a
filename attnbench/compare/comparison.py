"""Two sides of runs to a verdict for every case and backend: slower, faster, same, missing, not comparable and so on.

Where both sides took turns in the same processes, processes are what is replicated; otherwise BASE is a stored baseline
and its runs are. What cannot be compared is refused with a reason and never left out.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from attnbench.compare.baseline import Side, UsableRuns, commands_of_missing, usable
from attnbench.compare.comparable import (
    cautions,
    cautions_of_measurements,
    differences_of_machines,
    disqualified,
    suspicion,
)
from attnbench.compare.differences import FEWEST_RUNS, PROCESS, RUN
from attnbench.compare.judged import judged_by_less
from attnbench.compare.margin import Margin
from attnbench.compare.pairing import Machine, Paired, cpus_of, pair_up, turns_of
from attnbench.compare.pairs import ByRun, CaseRecords, Name, gather, suite_of_runs, suite_of_turns, typical_s
from attnbench.compare.plausible import drift_of
from attnbench.compare.regressions import WRONG, Change, changes
from attnbench.compare.verdict import INCONCLUSIVE, NOT_COMPARABLE, Pair, Verdict, decide, decide_one
from attnbench.records.store import Run, StoreError
from attnbench.units import count


@dataclass(frozen=True, slots=True)
class Cell:
    """One case on one backend. verdict: None where neither side was timed (checks alone are compared then).

    compared: whether both sides have a right result of it. base_s, new_s: seconds per call, the geometric mean over a
    side's runs; None where it was not timed.
    """

    case_key: str
    backend: str
    verdict: Verdict | None
    changes: tuple[Change, ...]
    compared: bool
    base_s: float | None
    new_s: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """suite: the geometric mean over the cases with a difference; None where no case has one.

    unit: what was replicated, PROCESS or RUN. allowance: of a whole run's shift, a fraction; None where it is
    estimated with each case. forced: why the comparison is none, where it was made nevertheless. left_out: why some of
    the stored runs were not used. cautions: what differs and forbids nothing. problems: lines that are no records.
    too_few: that there are too few stored runs to judge by, and the commands that make the missing ones; "" where there
    are enough. in_doubt: cases that are not in `suite`, because of what their records say of themselves.
    """

    base: str
    new: str
    cells: tuple[Cell, ...]
    margin: Margin
    unit: str
    suite: Verdict | None
    allowance: float | None
    forced: tuple[str, ...]
    left_out: tuple[str, ...]
    cautions: tuple[str, ...]
    problems: tuple[str, ...]
    too_few: str = ""
    in_doubt: int = 0

    @classmethod
    def of_nothing(cls, base: str, new: str, margin: Margin) -> Comparison:
        """Where there is no baseline to compare with."""
        return cls(base, new, (), margin, RUN, None, None, (), (), (), ())


def compare(base: Side, new: Side, margin: Margin, force: bool = False) -> Comparison:
    """Every case of both sides, judged. `force` compares what is not comparable, and the result says so.

    Raises StoreError where the runs of NEW are themselves not comparable: then it is not one side.
    """
    for run in new.runs[1:]:
        for reason in differences_of_machines(new.runs[0], run):
            raise StoreError(f"{new.path}: its runs {new.runs[0].name} and {run.name} are not comparable: {reason}")
    stored = usable(base, new, force)
    cases = gather(stored.runs or base.runs, new.runs)
    if stored.runs:
        paired = pair_up(cases, Machine(drift_of((*stored.runs, *new.runs)), cpus_of(new.runs[0])), force)
    else:
        reason = "the runs are not comparable: " + "; ".join(stored.left_out)
        paired = Paired(dict.fromkeys(cases, Pair(refused=NOT_COMPARABLE, reason=reason)), {}, Counter())
    unlike_told = [f"{reason} ({count(times, 'measurement')})" for reason, times in paired.unlike.items()]
    stored = replace(stored, left_out=(*stored.left_out, *([] if force else unlike_told)))
    forced = unlike_told if force else []
    drifted = _drifted(new.runs)
    if drifted and any(map(_is_stored, paired.pairs.values())):
        forced += drifted
        if not force:
            refused = Pair(refused=INCONCLUSIVE, reason="; ".join(drifted))
            held = {name: _refused(pair, refused) for name, pair in paired.pairs.items() if _is_stored(pair)}
            paired = replace(paired, pairs={**paired.pairs, **held})
    return _comparison(base, new, stored, cases, paired, margin, (*stored.forced, *forced) if force else ())


def _drifted(runs: Sequence[Run], told_only: bool = False) -> list[str]:
    """The suspect runs on which no verdict may rest, or those of which that is only told."""
    chosen = [run for run in runs if suspicion(run) and bool(disqualified(run)) != told_only]
    return [f"{run.name} is marked suspect: {suspicion(run)}" for run in chosen]


def _is_stored(pair: Pair | None) -> bool:
    """Whether a difference is one against stored runs, which a machine that drifts spoils; turns stand it."""
    return pair is not None and pair.time is not None and pair.time.unit == RUN


def _refused(pair: Pair | None, refused: Pair) -> Pair:
    """In place of a difference that no verdict may rest on; what is far outside anything plausible stays."""
    return refused if pair is None else replace(refused, excess=pair.excess)


def _comparison(
    base: Side,
    new: Side,
    stored: UsableRuns,
    cases: Mapping[Name, CaseRecords],
    paired: Paired,
    margin: Margin,
    forced: Sequence[str],
) -> Comparison:
    pairs = {name: pair for name, pair in paired.pairs.items() if pair is not None}
    verdicts = decide(pairs, margin)
    cells = tuple(_cell(name, case, verdicts.get(name)) for name, case in cases.items())
    judged = {name: pair.time for name, pair in pairs.items() if pair.time is not None}
    unit = next((time.unit for time in judged.values()), RUN)
    judged = {name: time for name, time in judged.items() if time.unit == unit}
    firm = [paired.sides[name] for name in judged if not pairs[name].doubted]
    allowances = [time.allowance for time in judged.values() if time.allowance]
    pairs_of_machines = [(run, new.runs[0]) for run in stored.runs]
    return Comparison(
        base=str(base),
        new=str(new),
        cells=cells,
        margin=margin,
        unit=unit,
        suite=_suite(firm, unit, margin) if judged else None,
        in_doubt=len(judged) - len(firm),
        allowance=math.expm1(max(allowances)) if allowances else None,
        forced=tuple(forced),
        left_out=(*base.copies, *(stored.left_out if stored.runs else ())),
        cautions=(
            *(f"{text}, and counts once" for text in new.copies),
            *stored.doubts,
            *(f"{run.path}: {run.later}" for run in (*base.runs, *new.runs) if run.later),
            *_drifted(new.runs, told_only=True),
            *dict.fromkeys(chain.from_iterable(cautions(*pair) for pair in pairs_of_machines)),
            *cautions_of_measurements(cases[name].timed for name in judged),
        ),
        problems=(*base.problems, *new.problems),
        too_few=_too_few(base, stored, cells),
    )


def _too_few(base: Side, stored: UsableRuns, cells: Sequence[Cell]) -> str:
    """In words, with what to do; "" where no case lacks stored runs."""
    lacking = sum(cell.verdict is not None and cell.verdict.too_few for cell in cells)
    if not lacking:
        return ""
    there = min(len(stored.runs), FEWEST_RUNS - 1)  # as many, where only some cases lack one
    runs, missing = count(len(stored.runs), "stored run"), commands_of_missing(base.path, stored.runs[0], there)
    return (
        f"too few stored runs: {count(lacking, 'case')} of {runs}, and a verdict takes {FEWEST_RUNS} runs of each; "
        f"the missing ones are made by {missing}"
    )


def _cell(name: Name, case: CaseRecords, verdict: Verdict | None) -> Cell:
    base, new = [list(filter(None, side)) for side in (case.base, case.new)]
    compared = all(any(record.status == "ok" for record in side) for side in (base, new))
    found = (*changes(base, new), *judged_by_less(base, new, WRONG))
    return Cell(*name, verdict, found, compared, *map(typical_s, case.timed))


def _suite(sides: Sequence[tuple[ByRun, ByRun]], unit: str, margin: Margin) -> Verdict:
    """The geometric mean over the cases that are not in doubt, so that many small losses are not lost."""
    if not sides:
        return decide_one(Pair(refused=INCONCLUSIVE, reason="every case is in doubt by its own records"), margin)
    if unit == PROCESS:
        return decide_one(suite_of_turns([turns for side in sides if (turns := turns_of(*side))]), margin)
    return decide_one(suite_of_runs(sides), margin)

"""What a reader asks first: is everything right, who is fastest, what of our kernels, what to trust, what is missing.

Each answer is computed from the records and is a line or two; tables and figures come after it.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence

from attnbench.markdown import anonymous, code, listing, plain
from attnbench.records.record import EMULATED
from attnbench.records.result import Result
from attnbench.records.sentinels import why_suspect
from attnbench.report.causes import Failure, cut, failures, unsupported
from attnbench.report.data import ReportData, TimedCells
from attnbench.report.speed import Field, bounds, close, speedup, wins
from attnbench.report.trust import interval_words
from attnbench.units import count

# Of each kind so many are told before the first figure; the sections below have them all.
SHOWN_FAILURES, SHOWN_CAUSES, SHOWN_DTYPES, SHOWN_OURS, SHOWN_MISSING = 2, 2, 3, 3, 4
# Letters of a likely cause and of a reason.
CAUSE_LETTERS, REASON_LETTERS = 80, 110
# Our own kernels on a GPU, with their schedules in brackets.
OURS = ("hopper", "hopper_fp8")


def answers(data: ReportData, of_dtypes: Mapping[str, Field], figures: Sequence[str]) -> list[str]:
    """Bullets, with the first figure as near to the top as the first two answers allow."""
    first = "\n".join((right(data), fastest(of_dtypes)))
    rest = "\n".join((ours(data, of_dtypes), trusted(data), missing(data)))
    return [first, *figures, rest]


def right(data: ReportData) -> str:
    judged = [result for result in data.cells.values() if result.record.status != "unsupported"]
    found = failures((series, result.record) for (_, series), result in data.cells.items())
    if not judged:
        return "- **Is everything right?** Nothing was checked."
    if not found:
        cases, backends = len({result.case for result in judged}), len({result.backend for result in judged})
        words = f"{count(cases, 'case')} on {count(backends, 'backend')}"
        return f"- **Is everything right?** Yes: {count(len(judged), 'result')} ({words}) passed every check."
    told = [_failed(failure) for failure in found[:SHOWN_FAILURES]]
    if len(found) > SHOWN_FAILURES:
        told.append(f"{count(len(found) - SHOWN_FAILURES, 'further kind')} of failure")
    wrong = sum(len(failure.records) for failure in found)
    share = f"{wrong:,} of {count(len(judged), 'result')} failed ([incomplete cases](#incomplete-cases))"
    return f"- **Is everything right? No**: {share}: {'; '.join(told)}."


def _failed(failure: Failure) -> str:
    """`mine` incorrect in 10 cases, the smallest `bf16-...`: mask: causal is aligned top left (6), ..."""
    known = [(cause, times) for cause, times in failure.causes if cause]
    causes = [plain(cut(anonymous(cause), CAUSE_LETTERS)) + (f" ({times:,})" if len(known) > 1 else "")
              for cause, times in known[:SHOWN_CAUSES]]  # fmt: skip
    why = f": {', '.join(causes)}" if causes else ""
    smallest = f", the smallest {code(failure.smallest.case_key)}" if len(failure.records) > 1 else ""
    return f"{code(failure.series)} {failure.where}{smallest}{why}"


def fastest(of_dtypes: Mapping[str, Field]) -> str:
    """By dtype: in how many cases, and by how much over all of them, with the interval that the medians' allow."""
    parts = [(dtype, field) for dtype, field in of_dtypes.items() if field.timed]
    if not parts:
        return "- **Who is fastest?** Nothing was timed."
    lines = [f"  - {dtype}: {_leader(field)}" for dtype, field in parts[:SHOWN_DTYPES]]
    if len(parts) > SHOWN_DTYPES:
        lines.append(f"  - {listing([dtype for dtype, _ in parts[SHOWN_DTYPES:]])}: in the tables below")
    return "\n".join(["- **Who is fastest?**", *lines])


def _leader(field: Field) -> str:
    timed, found = field.timed, field.races
    if not found:
        names = list(dict.fromkeys(series for _, series in timed))
        alone = "alone" if len(names) == 1 else "on different cases"
        return f"{listing([code(name) for name in names])} {alone}."
    won, front = wins(found), close(found)
    leader = (won or front).most_common(1)[0][0]
    others = [f"{code(series)} in {number:,}" for series, number in won.most_common()[1:3]]
    level = sum(race.level for race in found)
    others += [f"{level:,} too close to call"] if level and won else []
    where = f"{code(leader)} in {won[leader]:,} of {count(len(found), 'case')}" if won else "too close to call"
    against = _against(field, leader)
    factor = ratio_words(timed, leader, against) if against else ""
    gain = f"; {'it' if won else code(leader)} is {factor} as fast as {code(str(against))}" if factor else ""
    return f"{where}{f' ({listing(others)})' if others else ''}{gain}."


def _against(field: Field, leader: str) -> str | None:
    """The baseline, or where that leads itself the one most often next to it."""
    if field.baseline != leader:
        return field.baseline
    next_to = [race.follower if race.winner == leader else race.winner for race in field.races
               if leader in (race.winner, race.follower)]  # fmt: skip
    return statistics.mode(next_to) if next_to else None


def ratio_words(timed: TimedCells, series: str, over: str) -> str:
    """`2.46x (2.31x to 2.62x)`: the geometric mean of the speedups, and of the least and the most that the intervals of
    both medians allow in each case; "" where no case was timed on both.
    """
    mine = {case: result for (case, name), result in timed.items() if name == series}
    pairs = [(result, base) for case, result in mine.items() if (base := timed.get((case, over))) is not None]
    if not pairs:
        return ""
    ends = [(bounds(result.statistics), bounds(base.statistics)) for result, base in pairs]
    mean = statistics.geometric_mean([base.time_s / result.time_s for result, base in pairs])
    low = statistics.geometric_mean([base[0] / own[1] for own, base in ends])
    high = statistics.geometric_mean([base[1] / own[0] for own, base in ends])
    return f"{speedup(mean)} ({speedup(low)} to {speedup(high)})"


def ours(data: ReportData, of_dtypes: Mapping[str, Field]) -> str:
    """Our own kernels: on a GPU right and how fast, in the emulation right and never timed."""
    by_series: dict[str, list[Result]] = {}
    for (_, series), result in data.cells.items():
        if result.record.status != "unsupported" and _is_ours(result):
            by_series.setdefault(series, []).append(result)
    if not by_series:
        return "- **Our own kernels?** None ran here."
    emulated = {series for series, of in by_series.items() if any(_emulated(result) for result in of)}
    parts = [_emulated_words({series: by_series[series] for series in emulated})] if emulated else []
    on_gpu = sorted((series for series in by_series if series not in emulated), key=len)
    parts += [_timed_words(of_dtypes, series, by_series[series]) for series in on_gpu[:SHOWN_OURS]]
    if len(on_gpu) > SHOWN_OURS:
        parts.append(f"{count(len(on_gpu) - SHOWN_OURS, 'further schedule')} in the tables")
    return f"- **Our own kernels?** {'; '.join(parts)}."


def _is_ours(result: Result) -> bool:
    return result.backend.partition("[")[0] in OURS or _emulated(result)


def _emulated(result: Result) -> bool:
    return EMULATED in (result.record.kernel or {})


def _emulated_words(by_series: Mapping[str, Sequence[Result]]) -> str:
    results = [result for of in by_series.values() for result in of]
    passed = sum(result.record.status == "ok" for result in results)
    return f"{passed:,} of {count(len(results), 'case')} right in the CPU emulation, where nothing is timed"


def _timed_words(of_dtypes: Mapping[str, Field], series: str, results: Sequence[Result]) -> str:
    """Right in how many cases; and against the baseline of each dtype that it was timed on."""
    passed = sum(result.record.status == "ok" for result in results)
    words = f"{code(series)} right in {passed:,} of {count(len(results), 'case')}"
    for dtype, field in of_dtypes.items():
        over = field.baseline
        factor = ratio_words(field.timed, series, over) if over is not None and over != series else ""
        words += f", {factor} as fast as {code(str(over))} in {dtype}" if factor else ""
    return words


def trusted(data: ReportData) -> str:
    """Suspect runs, wide intervals, warnings; or that there are none."""
    if not data.timed:
        return "- **Can the times be trusted?** There are none."
    caveats = []
    for entry in data.runs:
        why = why_suspect(entry.run.environment, entry.run.sentinels)
        if why:
            caveats.append(f"**suspect run** {code(entry.run.name)}: {plain(anonymous('; '.join(why)))}")
    widths = data.widths
    if widths.mostly_loose:
        environment = data.runs[0].run.environment
        caveats.insert(0, interval_words(widths, environment, tuple(data.timed.values())))
    elif widths.loose:
        caveats.append(f"{widths.loose:,} of {count(widths.timed, 'measurement')} did not converge")
    warned = sum(1 for result in data.cells.values() if result.record.warnings)
    if warned:
        caveats.append(f"{count(warned, 'record')} with warnings")
    if not caveats:
        known = f": intervals of {widths.words}" if widths.words else ""
        return f"- **Can the times be trusted?** Yes: all {widths.timed:,} converged{known}; no warnings."
    see = "; see [warnings](#warnings)"
    return f"- **Can the times be trusted?** With care: {'; '.join(caveats)}{see}."


def missing(data: ReportData) -> str:
    """Who is unsupported where, by reason."""
    found = unsupported((series, result.record) for (_, series), result in data.cells.items())
    absent = list(_not_begun(data))
    if not found and not absent:
        return "- **What did not run?** Nothing: every backend took every case."
    told = [f"{listing([code(name) for name in part.series])} in {part.where}: "
            f"{plain(cut(anonymous(part.why), REASON_LETTERS))}" for part in found[:SHOWN_MISSING]]  # fmt: skip
    if len(found) > SHOWN_MISSING:
        left = sum(len(part.series) for part in found[SHOWN_MISSING:])
        told.append(f"{count(left, 'further backend')}, see [incomplete cases](#incomplete-cases)")
    return f"- **What did not run?** {'; '.join([*absent, *told])}."


def _not_begun(data: ReportData) -> Iterator[str]:
    """Of runs that say how many records were to be made; older ones do not."""
    for entry in data.runs:
        planned = entry.run.environment.get("planned_records")
        if not isinstance(planned, int):
            continue
        made = len({(record.case_key, record.backend) for record in entry.run.records})
        if planned > made:
            run = f" of {code(entry.run.name)}" if len(data.runs) > 1 else ""
            why = "which an interruption or the budget left no time for"
            yield f"**{planned - made:,} of {planned:,} records{run}**, {why}"

"""The summary: what ran and failed, in words computed from the records; then who is fastest where and by how much."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from attnbench.case import Case
from attnbench.markdown import anonymous, code, filled_table, listing, plain
from attnbench.records.measurement import REFERENCE_PREP
from attnbench.records.result import Result, TimedResult
from attnbench.report.answers import answers
from attnbench.report.data import Cells, Family, ReportData
from attnbench.report.errors import ratio
from attnbench.report.fp8 import paper_headline
from attnbench.report.memory import memory_headline
from attnbench.report.speed import (
    Field,
    Race,
    close,
    fields,
    leads,
    mean_and_range,
    percent,
    plus_minus,
    races,
    ratios,
    speedup,
    wins,
)
from attnbench.units import RateUnit, count, significant

# The backend that emulates e4m3 in fp32.
EMULATION = "fp8_emulated"


def summary_section(data: ReportData, figures: Sequence[str]) -> list[str]:
    """The answers with the first figure, further findings, then the tables of dtypes and families."""
    lines = [*_highest_rate(data), *_fp8_against_16_bit(data), *paper_headline(data), *memory_headline(data)]
    lines += [*_closest_to_limit(data), _counts(data)]
    of_dtypes = fields(data)
    return ["## Summary", *answers(data, of_dtypes, figures), "\n".join(lines), *glance_section(data, of_dtypes)]


def _counts(data: ReportData) -> str:
    status = Counter(result.record.status for result in data.cells.values())
    cases = len({case for case, _ in data.cells})
    backends = len({result.backend for result in data.cells.values()})
    timed = len(data.timed)
    return (
        f"- {count(len(data.cells), 'record')}: {count(cases, 'case')} on {count(backends, 'backend')}. "
        f"{status['ok']:,} passed every check ({timed:,} timed), {status['incorrect']:,} incorrect, "
        f"{count(status['error'], 'error')}, {status['unsupported']:,} unsupported."
    )


def _fp8_against_16_bit(data: ReportData) -> Iterator[str]:
    """8 bits against the fastest 16-bit result of the same shape and machine: the kernel alone, and with its prep in
    every call. Without the emulation, whose time says nothing about FP8 hardware.
    """
    fastest: dict[tuple[object, ...], float] = {}
    for (case, _), result in data.timed.items():
        if not case.is_fp8:
            place = _place(result)
            fastest[place] = min(fastest.get(place, result.time_s), result.time_s)
    by_series: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    for (case, series), result in data.timed.items():
        if case.is_fp8 and _place(result) in fastest and result.backend != EMULATION:
            base_s = fastest[_place(result)]
            speedups = base_s / result.time_s, base_s / (result.prep_s + result.time_s)
            by_series.setdefault((case.dtype, series, result.prep_about), []).append(speedups)
    for (dtype, series, about), pairs in by_series.items():
        kernel, whole = (speedup(statistics.geometric_mean(values)) for values in zip(*pairs))
        slow = ", which is not written for speed" if about == REFERENCE_PREP else ""
        yield (
            f"- **{dtype} against 16 bit**: {code(series)} is {kernel} as fast as the fastest 16-bit backend on the "
            f"same shape by its kernel alone (geometric mean, {count(len(pairs), 'case')}). With prep + kernel it is "
            f"{whole}; its prep is {plain(anonymous(about))}{slow}."
        )


def _place(result: Result) -> tuple[object, ...]:
    """The machine and the shape."""
    case = result.case
    return (result.machine.name, result.machine.sm_count, case.batch, case.seqlen_q, case.seqlen_k, case.num_heads,
            case.num_heads_kv, case.head_dim, case.head_dim_v, case.causal)  # fmt: skip


def _highest_rate(data: ReportData) -> Iterator[str]:
    if not data.timed:
        return
    (case, series), result = max(data.timed.items(), key=lambda item: item[1].flops_per_s)
    shares = []
    if result.peak_flops_per_s:
        shares.append(f"{percent(result.flops_per_s / result.peak_flops_per_s)} of the datasheet's peak")
    if result.gemm_flops_per_s:
        shares.append(f"{percent(result.flops_per_s / result.gemm_flops_per_s)} of the run's own GEMM")
    share = f" ({', '.join(shares)})" if shares else ""
    rate = f"{data.unit.show(result.flops_per_s)} {data.unit.name}"
    yield f"- Highest rate: {code(series)}, {rate}{share} at {code(case.key)}."


def _closest_to_limit(data: ReportData) -> Iterator[str]:
    """The passed check that came closest to its limit."""
    closest: tuple[float, str, str, Case] | None = None
    for (case, series), result in data.cells.items():
        accuracy = result.record.accuracy
        if result.record.status == "ok" and accuracy is not None:
            for check in accuracy.checks:
                if check.limit > 0 and (closest is None or check.value / check.limit > closest[0]):
                    closest = (check.value / check.limit, check.rule, series, case)
    if closest is not None:
        ratio, rule, series, case = closest
        where = f"{code(series)} at {ratio:.2f} of it, {code(case.key)}"
        yield f"- Of what passed, closest to its limit: {rule} of {where}."


# The tables at the top of a report: how each series did with each dtype, and who wins each family by how much.

NONE = "—"
TIMED = (
    "Fastest in: cases won clearly, and the median lead over the next; level in: cases too close to call with it in "
    "front. Speedup: geometric mean over the cases that both were timed on (lowest – highest). Highest rate: with half "
    "the width of its median's interval. "
)
ACROSS_RUNS = " Runs were not measured in turns: a difference across them may be the machine's of that hour."
ERRORS = "Error / limit: the worst over all rules and cases; over 1 fails."
FAMILIES = (
    "Families at a glance. Ahead of the next: over the cases won clearly; speedup: over all; geometric means (lowest – "
    "highest). Rate and shares: the highest of the fastest backend. Intervals: the widest of the family, over all of "
    "its backends."
)


def glance_section(data: ReportData, of_dtypes: Mapping[str, Field]) -> list[str]:
    """A table for every dtype, of each run where several stand side by side; then a row for every family."""
    parts = [
        part for dtype, cells in data.by_dtype.items() for part in _standings(dtype, cells, of_dtypes[dtype], data.unit)
    ]
    if parts:
        parts.append(f"{TIMED if data.timed else ''}{ERRORS}")
    families = [family for family in data.families if family.timed]
    if len(families) > 1:
        headers = ["family", "cases", "fastest", "ahead of the next", "speedup", f"highest {data.unit.name}",
                   "% of peak", "% of own GEMM", "intervals"]  # fmt: skip
        about = FAMILIES + (ACROSS_RUNS if data.side_by_side else "")
        parts += [about, filled_table(headers, [_family_row(family, data.unit) for family in families], left=3)]
    return parts


def _standings(dtype: str, cells: Cells, field: Field, unit: RateUnit) -> Iterator[str]:
    """Every series that took at least one case of the dtype; the others by name."""
    by_series: dict[str, dict[Case, Result]] = {}
    for (case, series), result in cells.items():
        by_series.setdefault(series, {})[case] = result
    ran = {series: of for series, of in by_series.items() if any(map(_ran, of.values()))}
    if not ran:
        return
    over = f"speedup over {code(field.baseline)}" if field.baseline else "speedup"
    headers = ["backend", "passed", "timed", "fastest in", "level in", over, f"highest {unit.name}", "% of peak",
               "% of own GEMM", "error / limit", "failed", "unsupported"]  # fmt: skip
    rows = [_series_row(series, of, field, unit) for series, of in ran.items()]
    cases = len({case for case, _ in cells})
    yield f"**{dtype}**, {count(cases, 'case')}:\n\n{filled_table(headers, rows)}"
    absent = [code(series) for series in by_series if series not in ran]
    if absent:
        yield f"{dtype} is unsupported here in every case by {listing(absent)}."


def _ran(result: Result) -> bool:
    return result.record.status != "unsupported"


def _series_row(series: str, of: Mapping[Case, Result], field: Field, unit: RateUnit) -> list[str]:
    fast = [result for result in of.values() if isinstance(result, TimedResult)]
    status = Counter(result.record.kind or result.record.status for result in of.values())
    failed = [f"{number} {kind}" for kind, number in status.items() if kind not in ("ok", "unsupported")]
    found, baseline = field.races, field.baseline
    won = leads(found, series)
    raced = bool(found and fast)
    return [
        code(series),
        f"{status['ok']} of {len(of)}",
        str(len(fast) or NONE),
        f"{len(won)}, by {speedup(statistics.median(won))}" if won else "0" if raced else NONE,
        str(close(found)[series]) if raced else NONE,
        NONE if series == baseline else mean_and_range(ratios(field.timed, series, baseline), speedup),
        *_highest(fast, unit),
        _worst_error(of.values()),
        f"**{', '.join(failed)}**" if failed else NONE,
        str(status["unsupported"] or NONE),
    ]


def _highest(timed: Sequence[TimedResult], unit: RateUnit, name: str = "") -> list[str]:
    """The highest rate with its interval, and its shares of the peak and of the run's own GEMM."""
    best = max(timed, key=lambda result: result.flops_per_s, default=None)
    if best is None:
        return [NONE] * 3
    shares = (_share(best.flops_per_s, limit) for limit in (best.peak_flops_per_s, best.gemm_flops_per_s))
    return [f"{unit.show(best.flops_per_s)}{plus_minus(best)}{name}", *shares]


def _share(rate: float, limit: float | None) -> str:
    return percent(rate / limit) if limit else NONE


def _worst_error(members: Iterable[Result]) -> str:
    """The largest error as a part of its limit, over every rule that has a limit above 0."""
    judged = [result.record.accuracy.checks for result in members if result.record.accuracy]
    worst = max((ratio(check) for checks in judged for check in checks if check.limit > 0), default=None)
    if worst is None:
        return NONE
    return f"**{significant(worst, 2)}**" if worst > 1 else f"{worst:.2f}"


def _family_row(family: Family, unit: RateUnit) -> list[str]:
    found = races(family.timed)
    leader, words = _leader(family, found)
    fast = [result for (_, series), result in family.timed.items() if series == leader]
    over = family.baseline
    gain = NONE
    if over is not None and over != leader:
        gain = mean_and_range(ratios(family.timed, leader, over), speedup)
    return [
        f"[{family.title}](#{anchor(family.title)})",
        f"{len(family.best_s):,}",
        words,
        mean_and_range(leads(found, leader), speedup),
        f"{gain} over {code(over)}" if over is not None and gain != NONE else NONE,
        *_highest(fast, unit, f" {code(leader)}"),
        _widest(family),
    ]


def _leader(family: Family, found: Sequence[Race]) -> tuple[str, str]:
    """The series with the most clear wins, or where there are none the one most often in front; and that in words."""
    if not found:
        alone = max(family.timed.items(), key=lambda item: item[1].flops_per_s)[0][1]
        return alone, f"{code(alone)} alone"
    clear = wins(found).most_common(1)
    level = sum(race.level for race in found)
    if clear:
        leader, number = clear[0]
        return leader, f"{code(leader)} {number} of {len(found)}" + (f", {level} level" if level else "")
    front = [series for series, _ in close(found).most_common(2)]
    return front[0], f"level: {', '.join(map(code, front))}"


def _widest(family: Family) -> str:
    """The widest interval of a median; `unknown` where a measurement has too few samples for one."""
    known = [result.half_width for result in family.timed.values() if result.half_width is not None]
    return "unknown" if len(known) < len(family.timed) else f"±{significant(100 * max(known), 2)} %"


def anchor(title: str) -> str:
    """The fragment that GitHub gives a heading: lower case, punctuation dropped, blanks to hyphens."""
    kept = "".join(letter for letter in title.lower() if letter.isalnum() or letter in " -_")
    return kept.replace(" ", "-")

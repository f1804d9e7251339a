"""The summary in words, computed from the records: who is fastest where and by how much, what failed or did not run."""

from __future__ import annotations

import statistics
from collections import Counter
from dataclasses import dataclass
from itertools import groupby
from typing import Iterable, Iterator

from attnbench.case import DTYPES, Case
from attnbench.report_data import Cells, Family, ReportData
from attnbench.report_markdown import anonymous, code, count, filled_table, listing, plain
from attnbench.report_speed import TIE, percent, speedup
from attnbench.sentinel import why_suspect
from attnbench.units import significant

# The backend that emulates e4m3 in fp32.
EMULATION = "fp8_emulated"


@dataclass(frozen=True, slots=True)
class Race:
    """One case that at least two series were timed on. lead: the runner-up's median time over the winner's.

    level: the two are too close to call, within TIE or within the intervals of their medians.
    """

    case: Case
    winner: str
    lead: float
    level: bool


def races(cells: Cells) -> list[Race]:
    """Every case with at least two measurements, in the order of `cells`."""
    times: dict[Case, list[tuple[float, str]]] = {}
    for (case, series), result in cells.items():
        if result.statistics:
            times.setdefault(case, []).append((result.time_s, series))
    found = []
    for case, entries in times.items():
        if len(entries) > 1:
            (best_s, winner), (next_s, follower) = sorted(entries)[:2]
            first, second = (cells[case, series].statistics.interval for series in (winner, follower))
            overlap = first is not None and second is not None and second.low_s <= first.high_s
            found.append(Race(case, winner, next_s / best_s, overlap or next_s <= best_s * (1 + TIE)))
    return found


def summary_section(data: ReportData) -> list[str]:
    lines = [_counts(data), *_fastest(data), *_over_baseline(data), *_fp8_against_16_bit(data), *_highest_rate(data)]
    lines += [*_failures(data), *_closest_to_limit(data), *_stamps(data)]
    parts = ["## Summary", "\n".join(lines)]
    if sum(1 for family in data.families if family.timed) > 1:
        parts.append(_overview(data))
    return parts


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


def _fastest(data: ReportData) -> Iterator[str]:
    for dtype, found in _by_dtype(races(data.cells), lambda race: race.case.dtype):
        clear = [race for race in found if not race.level]
        wins = Counter(race.winner for race in clear).most_common()
        parts = [_lead(series, number, clear) for series, number in wins]
        if len(found) > len(clear):
            parts.append(f"{len(found) - len(clear)} too close to call")
        yield f"- **{dtype}**, {count(len(found), 'case')} with two or more measurements. Fastest: {'; '.join(parts)}."


def _lead(series: str, number: int, clear: list[Race]) -> str:
    won = [race for race in clear if race.winner == series]
    largest = max(won, key=lambda race: race.lead)
    median = speedup(statistics.median(race.lead for race in won))
    if number == 1:
        return f"{code(series)} in 1, {median} ahead of the next"
    most = f"{speedup(largest.lead)} at {code(largest.case.key)}"
    return f"{code(series)} in {number}, {median} ahead of the next (median; at most {most})"


def _over_baseline(data: ReportData) -> Iterator[str]:
    """Geometric means of speedup, by dtype and baseline, over the cases that both were timed on."""
    ratios: dict[tuple[str, str], dict[str, list[float]]] = {}
    for family in data.families:
        for (case, series), result in family.timed.items():
            base = family.timed.get((case, family.baseline))
            if base is not None and series != family.baseline:
                ratios.setdefault((case.dtype, family.baseline), {}).setdefault(series, []).append(
                    base.time_s / result.time_s
                )
    for (dtype, baseline), by_series in sorted(ratios.items(), key=lambda item: DTYPES.index(item[0][0])):
        means = sorted(
            ((statistics.geometric_mean(values), series) for series, values in by_series.items()), reverse=True
        )
        shown = [f"{code(series)} {speedup(mean)} ({count(len(by_series[series]), 'case')})" for mean, series in means]
        yield f"- **{dtype}** against {code(baseline)} (geometric mean): {', '.join(shown)}."


def _fp8_against_16_bit(data: ReportData) -> Iterator[str]:
    """8 bits against the fastest 16-bit result of the same shape: the kernel alone, and with its prep in every call.

    Without the emulation, whose time says nothing about FP8 hardware.
    """
    fastest: dict[tuple, float] = {}
    for (case, _), result in data.timed.items():
        if not case.is_fp8:
            shape = _shape(case)
            fastest[shape] = min(fastest.get(shape, result.time_s), result.time_s)
    by_series: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for (case, series), result in data.timed.items():
        if case.is_fp8 and _shape(case) in fastest and result.backend != EMULATION:
            base_s = fastest[_shape(case)]
            speedups = base_s / result.time_s, base_s / (result.prep_s + result.time_s)
            by_series.setdefault((case.dtype, series), []).append(speedups)
    for (dtype, series), pairs in by_series.items():
        kernel, whole = (speedup(statistics.geometric_mean(values)) for values in zip(*pairs))
        yield (
            f"- **{dtype} against 16 bit**: {code(series)} is {kernel} as fast as the fastest 16-bit backend on the same "
            f"shape by its kernel alone, {whole} with prep + kernel (geometric mean, {count(len(pairs), 'case')})."
        )


def _shape(case: Case) -> tuple:
    return (case.batch, case.seqlen_q, case.seqlen_k, case.num_heads, case.num_heads_kv, case.head_dim,
            case.head_dim_v, case.causal)  # fmt: skip


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
    rate = significant(result.flops_per_s / 1e12, 3)
    yield f"- Highest rate: {code(series)}, {rate} TFLOPS{share} at {code(case.key)}."


def _failures(data: ReportData) -> Iterator[str]:
    bad = {key: result for key, result in data.cells.items() if result.record.status in ("incorrect", "error")}
    if not bad:
        yield "- Nothing was incorrect, crashed or hung."
    else:
        kinds = Counter((series, result.record.kind or "incorrect") for (_, series), result in bad.items())
        named = [f"{code(series)} {kind} in {count(number, 'case')}" for (series, kind), number in kinds.items()]
        yield f"- **Failed**: {listing(named)}; see [incomplete cases](#incomplete-cases)."
    skipped = Counter(series for (_, series), result in data.cells.items() if result.record.status == "unsupported")
    if skipped:
        named = [f"{code(series)} {count(number, 'case')}" for series, number in skipped.items()]
        yield f"- Did not run, unsupported here: {listing(named)}."


def _closest_to_limit(data: ReportData) -> Iterator[str]:
    """The passed check that came closest to its limit."""
    closest = None
    for (case, series), result in data.cells.items():
        if result.record.status == "ok":
            for check in result.record.accuracy.checks:
                if check.limit > 0 and (closest is None or check.value / check.limit > closest[0]):
                    closest = (check.value / check.limit, check.rule, series, case)
    if closest is not None:
        ratio, rule, series, case = closest
        yield f"- Of what passed, closest to a limit: {code(series)} at {ratio:.2f} of {rule}'s, {code(case.key)}."


def _stamps(data: ReportData) -> Iterator[str]:
    loose = sum(1 for result in data.timed.values() if not result.record.measurement.converged)
    if loose:
        yield f"- {count(loose, 'measurement')} of {len(data.timed):,} did not converge; see [warnings](#warnings)."
    warned = sum(1 for result in data.cells.values() if result.record.warnings)
    if warned:
        yield f"- {count(warned, 'record')} with warnings; see [warnings](#warnings)."
    for entry in data.runs:
        why = why_suspect(entry.run.environment, entry.run.sentinels)
        if why:
            yield f"- **Suspect run** {code(entry.run.name)}: {plain(anonymous('; '.join(why)))}."


def _overview(data: ReportData) -> str:
    """One row a family: who wins it, the highest rate, and how far ahead of the baseline that series is."""
    headers = ["family", "cases", "fastest", "highest TFLOPS", "% of peak", "baseline", "over baseline"]
    rows = [_overview_row(family) for family in data.families if family.timed]
    return f"Families at a glance (fastest: how many of the contested cases it wins):\n\n{filled_table(headers, rows, left=3)}"


def _overview_row(family: Family) -> list[str]:
    found = races(family.timed)
    wins = Counter(race.winner for race in found if not race.level).most_common(1)
    winner = wins[0][0] if wins else None
    (_, best), result = max(family.timed.items(), key=lambda item: item[1].flops_per_s)
    peak = result.peak_flops_per_s
    return [
        f"[{family.title}](#{anchor(family.title)})",
        f"{len(family.best_s):,}",
        f"{code(winner)} {wins[0][1]} of {len(found)}" if winner else "level" if found else f"{code(best)} alone",
        f"{significant(result.flops_per_s / 1e12, 3)} ({code(best)})",
        percent(result.flops_per_s / peak) if peak else "—",
        code(family.baseline) if family.baseline else "—",
        _mean_over_baseline(family, winner),
    ]


def _mean_over_baseline(family: Family, series: str | None) -> str:
    if series is None or family.baseline in (None, series):
        return "—"
    pairs = [(family.timed.get((case, family.baseline)), family.timed.get((case, series))) for case in family.best_s]
    ratios = [base.time_s / result.time_s for base, result in pairs if base and result]
    return speedup(statistics.geometric_mean(ratios)) if ratios else "—"


def anchor(title: str) -> str:
    """The fragment that GitHub gives a heading: lower case, punctuation dropped, blanks to hyphens."""
    kept = "".join(letter for letter in title.lower() if letter.isalnum() or letter in " -_")
    return kept.replace(" ", "-")


def _by_dtype(items: Iterable, dtype_of) -> Iterator[tuple[str, list]]:
    ordered = sorted(items, key=lambda item: DTYPES.index(dtype_of(item)))
    for dtype, group in groupby(ordered, key=dtype_of):
        yield dtype, list(group)

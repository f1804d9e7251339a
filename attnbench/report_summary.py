"""The summary: what ran and failed, in words computed from the records; then who is fastest where and by how much."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator

from attnbench.markdown import anonymous, code, listing, plain
from attnbench.records.environment import why_suspect
from attnbench.records.measurement import REFERENCE_PREP
from attnbench.records.result import Result
from attnbench.report_data import ReportData
from attnbench.report_glance import glance_section
from attnbench.report_paper import paper_headline
from attnbench.report_speed import percent, speedup
from attnbench.units import count, significant

# The backend that emulates e4m3 in fp32.
EMULATION = "fp8_emulated"


def summary_section(data: ReportData) -> list[str]:
    lines = [_counts(data), *_failures(data), *_stamps(data)]
    lines += [*_highest_rate(data), *_fp8_against_16_bit(data), *paper_headline(data), *_closest_to_limit(data)]
    return ["## Summary", "\n".join(lines), *glance_section(data)]


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
    fastest: dict[tuple, float] = {}
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


def _place(result: Result) -> tuple:
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
        where = f"{code(series)} at {ratio:.2f} of it, {code(case.key)}"
        yield f"- Of what passed, closest to its limit: {rule} of {where}."


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

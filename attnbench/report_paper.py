"""The error table of the FlashAttention-3 paper, and which of our records stand beside each of its rows."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from attnbench.case import Case
from attnbench.markdown import bullets, code, table
from attnbench.report_data import ReportData
from attnbench.units import count, lengths


class Entry(NamedTuple):
    case: Case
    series: str
    backend: str
    values: Mapping[str, float]


def judged_entries(data: ReportData) -> list[Entry]:
    return [
        Entry(case, series, result.backend, result.record.accuracy.values)
        for (case, series), result in data.cells.items()
        if result.record.accuracy is not None
    ]


class PaperRow(NamedTuple):
    """A row of table 3 (arXiv 2407.08608v1, section 4.3): the paper's RMSE, and which of our records stand by it."""

    words: str
    rmse: float
    backend: str
    fields: tuple[tuple[str, object], ...]


def _scheme(scaling: str, hadamard: bool) -> tuple[tuple[str, object], ...]:
    return ("dtype", "e4m3"), ("scaling", scaling), ("hadamard", hadamard)


PAPER_ROWS = (
    PaperRow("FP16 standard", 3.2e-4, "fp16_standard", (("dtype", "fp16"),)),
    PaperRow("FP16 flash (FlashAttention-2 and -3)", 1.9e-4, "naive", (("dtype", "fp16"),)),
    PaperRow("FP8 baseline", 2.4e-2, "fp8_baseline", _scheme("tensor", hadamard=False)),
    PaperRow("FP8 FlashAttention-3", 9.1e-3, "fp8_emulated", _scheme("block", hadamard=True)),
    PaperRow("without block quantization", 9.3e-3, "fp8_emulated", _scheme("tensor", hadamard=True)),
    PaperRow("without incoherent processing", 2.4e-2, "fp8_emulated", _scheme("block", hadamard=False)),
)
BASELINE, FULL_SCHEME = PAPER_ROWS[2], PAPER_ROWS[3]
PAPER_RATIO = 2.6
NOT_STATED = "seqlen, batch, heads, mask, softmax scale, seed, number of draws, and whether P is scaled before rounding"


def _found(entries: Sequence[Entry]) -> Mapping[PaperRow, Sequence[Entry]]:
    return {row: [entry for entry in entries if _stands_for(entry, row)] for row in PAPER_ROWS}


def paper_headline(data: ReportData) -> Iterator[str]:
    """The factor that the paper is known for, where both of its rows were run."""
    ratios = _ratios(_found(judged_entries(data)))
    if ratios:
        yield f"- On the FlashAttention-3 paper's outlier inputs (emulated), {_factor(ratios)}."


def paper_table(entries: Sequence[Entry]) -> list[str]:
    """A row for each of the paper's; [] where no record stands beside any."""
    found = _found(entries)
    if not any(found.values()):
        return []
    rows = []
    for row, members in found.items():
        rmse = [member.values["rmse_drawn"] for member in members]
        rows.append([row.words, code(row.backend), f"{row.rmse:.1e}", *_spread(rmse, "{:.2e}".format)])
    shapes = sorted({(e.case.seqlen_q, e.case.batch, e.case.num_heads) for members in found.values() for e in members})
    ours = "; ".join(f"seqlen {lengths(q)}, batch {batch}, {count(heads, 'head')}" for q, batch, heads in shapes)
    lines = [
        f"Ours: emulated, {ours}, full attention, head_dim 128, softmax scale head_dim**-0.5, P scale as in each case.",
        "The paper states the distribution, N(0, 1) + N(0, 100) * Bernoulli(0.001), and head_dim 128. It does not "
        f"state {NOT_STATED}.",
        *_ratio(found),
    ]
    headers = ["row", "our record", "paper", "mean", "lowest", "highest", "seeds"]
    about = "RMSE (absolute) against fp64 on the inputs before rounding, as in table 3 of arXiv 2407.08608v1."
    return ["### The FlashAttention-3 paper's error table", about, table(headers, rows, left=2), bullets(lines)]


def _stands_for(entry: Entry, row: PaperRow) -> bool:
    case = entry.case
    if "rmse_drawn" not in entry.values or entry.backend != row.backend:
        return False
    same = all(getattr(case, name) == value for name, value in row.fields)
    return same and case.inputs == "outliers" and case.head_dim == 128 and not case.causal


def _ratios(found: Mapping[PaperRow, Sequence[Entry]]) -> list[float]:
    """Per seed, since both rows of a seed have the same inputs."""
    baseline = {_shape(e.case): e.values["rmse_drawn"] for e in found[BASELINE]}
    full = {_shape(e.case): e.values["rmse_drawn"] for e in found[FULL_SCHEME]}
    return [baseline[key] / full[key] for key in baseline if key in full]


def _factor(ratios: Sequence[float]) -> str:
    mean, low, high, seeds = _spread(ratios, "{:.2f}".format)
    return (
        f"RMSE of the FP8 baseline over that of FlashAttention-3's scheme: {mean} (mean; {low} to {high} over {seeds} "
        f"seeds); the paper: {PAPER_RATIO}"
    )


def _ratio(found: Mapping[PaperRow, Sequence[Entry]]) -> Iterator[str]:
    ratios = _ratios(found)
    if ratios:
        yield (
            f"{_factor(ratios)}. The order of the rows with and without block quantization changes with seqlen, here "
            "and in any emulation: no conclusion rests on it."
        )


def _shape(case: Case) -> tuple:
    return case.seqlen_q, case.seqlen_k, case.batch, case.num_heads, case.seed


def _spread(values: Sequence[float], show) -> list[str]:
    """mean, lowest, highest, count; `not run` where there is none."""
    if not values:
        return ["not run", "—", "—", "0"]
    return [show(statistics.fmean(values)), show(min(values)), show(max(values)), str(len(values))]

"""What a report is made from: runs under letters, and results laid out by problem family, case and series.

A family holds the cases that share dtype, head dimensions, heads and mask; a series is a column of its tables: a
backend, or a backend of one run where several runs measured the same thing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from string import ascii_uppercase
from typing import Any

from attnbench.case import DTYPES, Case, LaterCase
from attnbench.records.environment import Machine
from attnbench.records.result import Result, TimedResult, latest, results
from attnbench.records.store import Run
from attnbench.report.trust import Widths
from attnbench.units import RateUnit, count, lengths, rate_unit

# What a table varies over, in the order of its columns and of its rows.
ROW_FIELDS = ("inputs", "seed", "scaling", "block_size", "hadamard", "p_scale", "softmax_scale", "seqlen_k", "seqlen_q",
              "batch")  # fmt: skip
FP8_ROW_FIELDS = ("scaling", "block_size", "hadamard", "p_scale")
# The baseline of a family is the first of these that was timed in most of its cases.
BASELINES = ("fa2", "naive", "fp8_emulated", "cudnn", "triton")

Cells = Mapping[tuple[Case, str], Result]
TimedCells = Mapping[tuple[Case, str], TimedResult]


@dataclass(frozen=True)
class Family:
    """Cases that share everything but lengths, batch, inputs and FP8 scheme, and their results by (case, series)."""

    cells: Cells

    @cached_property
    def cases(self) -> tuple[Case, ...]:
        return tuple(sorted({case for case, _ in self.cells}, key=_row_order))

    @cached_property
    def series(self) -> tuple[str, ...]:
        """Every series that has a record here, in the report's order."""
        return tuple(dict.fromkeys(series for _, series in self.cells))

    @cached_property
    def timed(self) -> TimedCells:
        return timed_cells(self.cells)

    @cached_property
    def best_s(self) -> Mapping[Case, float]:
        """The fastest time of every case that was timed, in the order of the cases."""
        best = dict.fromkeys(self.cases, math.inf)
        for (case, _), result in self.timed.items():
            best[case] = min(best[case], result.time_s)
        return {case: time_s for case, time_s in best.items() if time_s < math.inf}

    @cached_property
    def timed_series(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(series for _, series in self.timed))

    @cached_property
    def varying(self) -> tuple[str, ...]:
        """The columns that tell its cases apart: what differs, and the lengths always (one where q and k are equal)."""
        differ = [name for name in ROW_FIELDS if len({getattr(case, name) for case in self.cases}) > 1]
        square = all(case.seqlen_q == case.seqlen_k for case in self.cases)
        scheme = [name for name in differ if name not in ("seqlen_q", "seqlen_k", "batch")]
        return (
            *scheme,
            *(("seqlen",) if square else ("seqlen_q", "seqlen_k")),
            *(["batch"] if "batch" in differ else []),
        )

    @cached_property
    def baseline(self) -> str | None:
        """The series that speedups are over; None where fewer than two were timed."""
        return preferred(self.timed)

    @cached_property
    def title(self) -> str:
        """`bf16, head_dim 128, causal, 32 heads over 8`."""
        return family_title(self.cases[0])

    @cached_property
    def constants(self) -> str:
        """The parameters that all its cases share, for a caption."""
        case = self.cases[0]
        parts = []
        if "batch" not in self.varying:
            parts.append(f"batch {case.batch}")
        elif len({each.batch * each.seqlen_q for each in self.cases}) == 1:
            parts.append(f"batch x seqlen_q = {lengths(case.batch * case.seqlen_q)} tokens")
        if "inputs" not in self.varying:
            parts.append(f"{case.inputs} inputs")
        if case.is_fp8:
            blocks = any(each.scaling == "block" for each in self.cases)
            names = [name for name in FP8_ROW_FIELDS if name not in self.varying and (blocks or name != "block_size")]
            parts += [f"{name} {show_field(case, name)}" for name in names]
        return ", ".join(parts)


@dataclass(frozen=True)
class LabelledRun:
    letter: str
    run: Run
    machine: Machine


@dataclass(frozen=True)
class ReportData:
    """Everything that the sections read. superseded: records left out because a later one answers the same case."""

    runs: tuple[LabelledRun, ...]
    cells: Cells
    families: tuple[Family, ...]
    superseded: int
    side_by_side: bool

    @cached_property
    def series(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(series for _, series in self.cells))

    @cached_property
    def timed(self) -> TimedCells:
        return timed_cells(self.cells)

    @cached_property
    def unit(self) -> RateUnit:
        """Of every rate in the report's tables and figures, so that they can be read side by side."""
        return rate_unit(*(result.flops_per_s for result in self.timed.values()))

    @cached_property
    def widths(self) -> Widths:
        return Widths.of(tuple(self.timed.values()))

    @cached_property
    def by_dtype(self) -> Mapping[str, Cells]:
        """`bf16`, or `bf16 (A)` for each run where they stand side by side: its results, in the order of dtypes."""
        found: dict[tuple[int, str], dict[tuple[Case, str], Result]] = {}
        for (case, series), result in self.cells.items():
            part = DTYPES.index(case.dtype), series.removeprefix(result.backend)
            found.setdefault(part, {})[case, series] = result
        return {DTYPES[part[0]] + part[1]: found[part] for part in sorted(found)}


def gather(runs: Sequence[Run]) -> ReportData:
    """Lays out the runs. Where they measured different things on one machine, they read as one run."""
    labelled = tuple(
        LabelledRun(_letter(index), run, Machine.of(run.environment, run.sentinels)) for index, run in enumerate(runs)
    )
    everything = [[result for result in results(run) if not isinstance(result.case, LaterCase)] for run in runs]
    kept = [latest(tuple(each)) for each in everything]
    pairs = [(result.case, result.backend) for each in kept for result in each]
    machines = {
        (entry.machine.name, entry.machine.sm_count, entry.run.environment.get("machine")) for entry in labelled
    }
    side_by_side = len(runs) > 1 and (len(set(pairs)) < len(pairs) or len(machines) > 1)
    cells: dict[tuple[Case, str], Result] = {}
    cases: dict[Case, Case] = {}
    for entry, each in zip(labelled, kept):
        suffix = f" ({entry.letter})" if side_by_side else ""
        for result in each:
            # One object a case: dictionaries find an identical key without comparing its sixteen fields.
            cells[cases.setdefault(result.case, result.case), result.backend + suffix] = result
    order = {series: place for place, series in enumerate(dict.fromkeys(series for _, series in cells))}
    cells = dict(sorted(cells.items(), key=lambda item: order[item[0][1]]))
    superseded = sum(len(each) for each in everything) - len(pairs)
    return ReportData(labelled, cells, _families(cells), superseded, side_by_side)


def _families(cells: Cells) -> tuple[Family, ...]:
    grouped: dict[tuple[int, ...], dict[tuple[Case, str], Result]] = {}
    for (case, series), result in cells.items():
        grouped.setdefault(_family_order(case), {})[case, series] = result
    return tuple(Family(grouped[key]) for key in sorted(grouped))


def _family_order(case: Case) -> tuple[int, ...]:
    return (DTYPES.index(case.dtype), case.head_dim, case.head_dim_v, case.num_heads, case.num_heads_kv, case.causal)


def _row_order(case: Case) -> tuple[Any, ...]:
    return tuple(getattr(case, name) or 0 for name in ROW_FIELDS)


def timed_cells(cells: Cells) -> TimedCells:
    """Those that hold a measurement."""
    return {key: result for key, result in cells.items() if isinstance(result, TimedResult)}


def preferred(timed: TimedCells) -> str | None:
    """What speedups are over: the first of BASELINES that was timed in most cases; None where fewer than two were."""
    counts = Counter(series for _, series in timed)
    if len(counts) < 2:
        return None
    cases = len({case for case, _ in timed})
    enough = [series for series, number in counts.items() if 2 * number > cases]
    return min(enough or counts, key=_preference)


def _preference(series: str) -> tuple[int, str]:
    backend = series.split(" (")[0]
    return (BASELINES.index(backend) if backend in BASELINES else len(BASELINES), series)


def _letter(index: int) -> str:
    letters = ascii_uppercase
    return letters[index] if index < len(letters) else f"{_letter(index // 26 - 1)}{letters[index % 26]}"


def family_title(case: Case) -> str:
    head_dim = f"{case.head_dim}/{case.head_dim_v}" if case.head_dim_v != case.head_dim else f"{case.head_dim}"
    heads = count(case.num_heads, "head")
    if case.num_heads_kv != case.num_heads:
        heads = f"{heads} over {case.num_heads_kv} of k and v"
    return f"{case.dtype}, head_dim {head_dim}, {'causal' if case.causal else 'full'}, {heads}"


def show_field(case: Case, name: str) -> str:
    """A case field as a table shows it."""
    if name == "seqlen":
        return lengths(case.seqlen_q)
    value = getattr(case, name)
    if name in ("seqlen_q", "seqlen_k"):
        return lengths(value)
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{case.scale:.4g}" if name == "softmax_scale" else f"{value:g}" if isinstance(value, float) else str(value)


def row_label(case: Case, fields: Iterable[str]) -> list[str]:
    return [show_field(case, name) for name in fields]

"""The report's section on kernels that an interpreter ran: right or wrong, what is left undefined, what they moved."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attnbench.case import Case, compulsory_bytes
from attnbench.markdown import code, listing, plain, table
from attnbench.records.record import INTERPRETED, Record
from attnbench.report.data import ReportData
from attnbench.units import count, significant

HEADERS = ("kernel", "language", "verdict", "error / limit", "of compulsory", "FLOP issued / useful")
ABOUT = (
    "Run on the CPU by an interpreter of their language, with hardware's rounding; judged like every backend, never "
    "timed. Each case ran twice: programs in order with zeros in the masked lanes of loads, then in another order with "
    "NaN there. Bytes are those of unmasked lanes, with no cache in between, over q, k, v read once and out and lse "
    "written once (median over cases)."
)


@dataclass(frozen=True)
class Interpreted:
    """A record of a kernel that an interpreter ran."""

    case: Case
    series: str
    record: Record

    @property
    def facts(self) -> Mapping[str, Any]:
        kernel = self.record.kernel or {}
        facts: Mapping[str, Any] = kernel[INTERPRETED]
        return facts

    @property
    def counted(self) -> Mapping[str, Any] | None:
        counts: Mapping[str, Any] | None = (self.record.kernel or {}).get("counted")
        return counts


def interpreted_section(data: ReportData) -> list[str]:
    """Nothing where no interpreter ran a kernel."""
    by_series: dict[str, list[Interpreted]] = {}
    for (case, series), result in data.cells.items():
        if INTERPRETED in (result.record.kernel or {}):
            by_series.setdefault(series, []).append(Interpreted(case, series, result.record))
    if not by_series:
        return []
    rows = [_row(series, records) for series, records in by_series.items()]
    lines = [line for records in by_series.values() for line in (*_undefined(records), *_asked(records))]
    return ["## Interpreted kernels", ABOUT, table(list(HEADERS), rows, left=3), *(["\n".join(lines)] if lines else [])]


def _row(series: str, records: Sequence[Interpreted]) -> list[str]:
    facts = records[0].facts
    language = f"{facts['language']} {facts['version']}"
    verdicts = Counter(_verdict(record) for record in records)
    told = ", ".join(f"{number} {verdict}" for verdict, number in verdicts.items())
    shares = [
        check.value / check.limit
        for each in records
        if each.record.accuracy
        for check in each.record.accuracy.checks
        if check.limit > 0
    ]
    moved, issued = [], []
    for record in records:
        counts = record.counted
        if counts is not None:
            traffic = counts["global_read_bytes"] + counts["global_write_bytes"]
            moved.append(traffic / compulsory_bytes(record.case))
            issued.append(counts["tensor_flops"] / counts["useful_flops"])
    return [
        code(series),
        plain(language),
        told,
        significant(max(shares), 2) if shares else "—",
        *(f"{significant(statistics.median(of), 3)} x" if of else "—" for of in (moved, issued)),
    ]


def _verdict(record: Interpreted) -> str:
    if record.record.status == "ok":
        return "right" if record.facts.get("defined", True) else "right with zeros in masked lanes only"
    return "hazard" if record.record.kind == "hazard" else "wrong" if record.record.status == "incorrect" else "error"


def _undefined(records: Sequence[Interpreted]) -> Iterator[str]:
    """The loads on whose masked lanes a result depends, in a line a kernel."""
    places: Counter[str] = Counter(
        place for record in records if not record.facts.get("defined", True) for place in record.facts["undefined"]
    )
    if places:
        told = ", ".join(f"{code(place)} in {count(number, 'case')}" for place, number in places.items())
        yield f"- {code(records[0].series)} depends on what masked lanes of a load without `other` hold: {told}."


def _asked(records: Sequence[Interpreted]) -> Iterator[str]:
    asked = sorted({name for record in records for name in record.facts.get("stand_ins", ())})
    if asked:
        told = listing([code(name) for name in asked])
        yield f"- {code(records[0].series)} asked of a GPU that is not there: {told}."

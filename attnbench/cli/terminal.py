"""What a run shows while it goes on: a live bar on a terminal, one line a record elsewhere."""

from __future__ import annotations

import re
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from attnbench.records.measurement import Measurement
from attnbench.records.record import Record
from attnbench.records.result import Result, TimedResult, latest
from attnbench.records.stats import speeds
from attnbench.units import lengths, show_time, significant

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.table import Table

    from attnbench.case import Case
    from attnbench.suite.suite import Job


def outcome_text(record: Record) -> str:
    """A few words on how a record came out."""
    if record.status == "ok":
        if record.measurement is None:
            return "right, not timed"
        return _times(record.measurement)
    kind = f" ({record.kind})" if record.kind else ""
    return f"{record.status}{kind}: {first_line(record.reason)}"


def _times(measurement: Measurement) -> str:
    """The median, or both speeds of a call that has two."""
    return " or ".join(map(show_time, speeds(measurement)))


def first_line(text: str, most: int = 160) -> str:
    line = text.strip().splitlines()[0] if text.strip() else ""
    return line if len(line) <= most else line[: most - 3] + "..."


class PlainProgress:
    """`[ 12/60] ok  bf16-... naive 1.23 ms, about 2 min left`: for logs and CI."""

    def begin(self, records: int, taken: int) -> None:
        self._total, self._done, self._taken, self._started = records, taken, taken, time.monotonic()
        if taken:
            rest = "nothing is left" if taken == records else "going on with the rest"
            print(f"{taken} of {records} records were taken before; {rest}")

    def phase(self, job: Job, backend: str, phase: str) -> None:
        pass

    def record(self, record: Record) -> None:
        self._done += 1
        mark = "ok" if record.status == "ok" else record.status
        left = ""
        if self._done < self._total:
            left = f"  [{show_left((self._total - self._done) * self._pace())} left]"
        place = f"[{self._done:{len(str(self._total))}}/{self._total}]"
        print(f"{place} {mark:11} {record.case_key}  {record.backend}  {outcome_text(record)}{left}", flush=True)

    def end(self) -> None:
        pass

    def _pace(self) -> float:
        return (time.monotonic() - self._started) / max(1, self._done - self._taken)


class BarProgress:
    """A rich bar: records done, time left, what is going on, failures so far; failures stay above it as lines."""

    def begin(self, records: int, taken: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}", markup=False),
        )
        self._bar: RichProgress = Progress(*columns)
        self._bar.start()
        self._task = self._bar.add_task("starting", total=records, completed=taken)
        self._failures: Counter[str] = Counter()

    def phase(self, job: Job, backend: str, phase: str) -> None:
        self._tell(f"{backend}  {job.case.key}  {phase}")

    def _tell(self, text: str) -> None:
        failed = ", ".join(f"{count} {status}" for status, count in sorted(self._failures.items()))
        self._bar.update(self._task, description=text + (f"  [{failed}]" if failed else ""))

    def record(self, record: Record) -> None:
        self._bar.advance(self._task)
        if record.status in ("incorrect", "error"):
            self._failures[record.status] += 1
            self._tell(f"{record.backend}  {record.case_key}")
            self._bar.console.print(
                f"{record.backend}  {record.case_key}  {outcome_text(record)}", markup=False, highlight=False
            )

    def end(self) -> None:
        if hasattr(self, "_bar"):
            self._bar.stop()


def make_progress() -> PlainProgress | BarProgress:
    return BarProgress() if sys.stdout.isatty() else PlainProgress()


def show_left(seconds: float) -> str:
    return f"about {seconds:.0f} s" if seconds < 90 else f"about {seconds / 60:.0f} min"


# The table at the end of `run`: times, rates and check results in the terminal. Light: no pandas, no matplotlib.

# A table with more rows scrolls off any terminal: then one row stands for a family on a backend.
MAX_ROWS = 100
# With more columns the cells of a usual terminal no longer fit: then each record gets a row of its own.
MAX_BACKEND_COLUMNS = 4
UNCONVERGED = " †"
STYLES = {"incorrect": "bold red", "error": "red", "unsupported": "dim", "ok": ""}

Cells = dict[tuple["Case", str], Result]


def summary_table(records: Iterable[Record]) -> Table:
    """Every record by case and backend where that fits a terminal, else folded to families by backend.

    A time stands only where every check passed; "passed" is a case that was checked and not timed. Of two records of
    one case and backend the later one counts.
    """
    results = latest(tuple(Result.of(record) for record in records))
    cells = {(result.case, result.backend): result for result in results}
    backends = list(dict.fromkeys(result.backend for result in results))
    cases = list(dict.fromkeys(result.case for result in results))
    if len(backends) <= MAX_BACKEND_COLUMNS and len(cases) <= MAX_ROWS:
        return _by_case(cells, cases, backends)
    if len(results) <= MAX_ROWS:
        return _by_record(results)
    return _folded(results)


def _by_case(cells: Cells, cases: Sequence[Case], backends: Sequence[str]) -> Table:
    table = _table(_title(cells.values()), "problem", "seqlen", "batch", *backends, left=1)
    families = _grouped(cases)
    for family, members in families.items():
        for place, case in enumerate(members):
            row = [_cell(cells.get((case, backend))) for backend in backends]
            last = place == len(members) - 1
            table.add_row(family if place == 0 else "", _seqlen(case), str(case.batch), *row, end_section=last)
    return table


def _by_record(results: Sequence[Result]) -> Table:
    table = _table(_title(results), "problem", "seqlen", "batch", "backend", "result", left=1)
    by_case: dict[Case, list[Result]] = {}
    for result in results:
        by_case.setdefault(result.case, []).append(result)
    for family, cases in _grouped(by_case).items():
        rows = [(case, result) for case in cases for result in by_case[case]]
        for place, (case, result) in enumerate(rows):
            row = [_seqlen(case), str(case.batch), _literal(result.backend), _cell(result)]
            table.add_row(family if place == 0 else "", *row, end_section=place == len(rows) - 1)
    return table


def _folded(results: Sequence[Result]) -> Table:
    """One row a family, or a dtype where there are too many families; each cell the highest rate and what failed."""
    row_of = _family if len({_family(result.case) for result in results}) <= MAX_ROWS else _dtype
    backends = list(dict.fromkeys(result.backend for result in results))
    what = "highest TFLOPS" if _timed(results) else "how many passed"
    title = f"{len(results):,} records, folded: {what} (—: unsupported); `attnbench report` shows each"
    table = _table(title, "problem", "cases", *backends, left=1)
    rows: dict[str, list[Result]] = {}
    for result in results:
        rows.setdefault(row_of(result.case), []).append(result)
    for name, members in rows.items():
        cells = [_folded_cell([result for result in members if result.backend == backend]) for backend in backends]
        table.add_row(name, str(len({result.case for result in members})), *cells)
    return table


def _folded_cell(members: Sequence[Result]) -> str:
    status = [result.record.status for result in members]
    rates = [result.flops_per_s / 1e12 for result in members if result.flops_per_s]
    failed = status.count("incorrect") + status.count("error")
    parts = [significant(max(rates), 3)] if rates else [f"{status.count('ok'):,} passed"] if "ok" in status else []
    if failed:
        parts.append(f"[{STYLES['incorrect']}]{failed} failed[/]")
    return ", ".join(parts) or ("—" if members else "")


def _timed(results: Iterable[Result]) -> list[TimedResult]:
    return [result for result in results if isinstance(result, TimedResult)]


def _title(results: Iterable[Result]) -> str:
    timed = _timed(results)
    if not timed:
        return "checked, nothing timed"
    every = all(result.measurement.converged for result in timed)
    return "median time, TFLOPS" + ("" if every else f" ({UNCONVERGED.strip()}: did not converge)")


def _table(title: str, *headers: str, left: int) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=title, box=box.SIMPLE_HEAD, title_style="", title_justify="left", pad_edge=False)
    for place, header in enumerate(headers):
        table.add_column(
            _literal(header), justify="left" if place < left else "right", overflow="fold", no_wrap=place == 0
        )
    return table


def _cell(result: Result | None) -> str:
    if result is None:
        return ""
    record = result.record
    if isinstance(result, TimedResult):
        mark = "" if result.measurement.converged else UNCONVERGED
        rates = " or ".join(significant(rate / 1e12, 3) for rate in result.rates_flops_per_s)
        return f"{_times(result.measurement)}, {rates}{mark}"
    words = {"ok": "passed", "error": f"error: {record.kind}"}.get(record.status, record.status)
    style = STYLES[record.status]
    return f"[{style}]{words}[/]" if style else words


def _grouped(cases: Iterable[Case]) -> dict[str, list[Case]]:
    families: dict[str, list[Case]] = {}
    for case in cases:
        families.setdefault(_family(case), []).append(case)
    return families


def _family(case: Case) -> str:
    """The case key without batch and lengths, nor inputs where they are the default."""
    return re.sub(r"-b\d+-q\d+-k\d+", "", case.key).replace("-normal.0", "")


def _dtype(case: Case) -> str:
    return case.dtype


def _seqlen(case: Case) -> str:
    if case.seqlen_q == case.seqlen_k:
        return lengths(case.seqlen_q)
    return f"{lengths(case.seqlen_q)} x {lengths(case.seqlen_k)}"


def _literal(text: str) -> str:
    """`hopper[ws]` is a name, not rich's markup."""
    return text.replace("[", r"\[")

"""How a run ends: its table, then what failed, the likely cause, the smallest failing case, and the next commands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from attnbench.errors import UserError
from attnbench.records.record import LIKELY_CAUSE, Record
from attnbench.report.causes import Failure, failures, first_line
from attnbench.screen import INDENT, LOG_COLUMNS, columns, console, shell_command, wrapped
from attnbench.units import count

# More kinds of failures than this are not read at the end of a run; the report has them all.
SHOWN = 4


def printed_table(records: Sequence[Record], run: Path) -> None:
    from attnbench.cli.running.table import summary
    from attnbench.records.store import read

    try:
        environment = read(run).environment
    except UserError:  # a run that cannot be read again: its table says less of the machine
        environment = {}
    screen = console()
    for part in summary(records, environment, columns() or LOG_COLUMNS):
        screen.print(part)


def diagnosis(records: Sequence[Record], run: Path) -> Iterator[str]:
    """Lines that fit the terminal: the causes, wrong results first; nothing but the report's command where all went
    well."""
    if not records:
        return
    of = Counter(record.backend for record in records)
    found = failures((record.backend, record) for record in records)
    for failure in found[:SHOWN]:
        yield from _told(failure, of[failure.series], run)
    if len(found) > SHOWN:
        left = [f"{failure.series} {failure.where}" for failure in found[SHOWN:]]
        yield from wrapped(f"failed, too: {', '.join(left)}")
    yield from shell_command(["attnbench", "report", str(run), "-o", "report.md"], "report: ")


def _told(failure: Failure, of: int, run: Path) -> Iterator[str]:
    smallest, number = failure.smallest, len(failure.records)
    yield from wrapped(f"failed: {failure.series}, {failure.kind} in {number:,} of {count(of, 'case')}")
    known = [(cause, times) for cause, times in failure.causes if cause]
    label = "likely cause: " if failure.kind == "incorrect" else ""
    for cause, times in known[:SHOWN]:
        often = f" ({count(times, 'case')})" if number > 1 else ""
        yield from wrapped(f"{INDENT}{label}{cause}{often}", 2 * INDENT)
    if len(known) > SHOWN:
        yield f"{INDENT}and {count(len(known) - SHOWN, 'other cause')}"
    yield from wrapped(f"{INDENT}smallest failing case: {smallest.case_key}", 2 * INDENT)
    if failure.kind == "incorrect":
        yield from wrapped(2 * INDENT + first_line(smallest.reason).partition(LIKELY_CAUSE)[0], 2 * INDENT)
    command = ["attnbench", "repro", str(run), smallest.case_key, failure.series, ">", "repro.py"]
    yield from shell_command(command, f"{INDENT}again: ")

"""`attnbench compare` and `attnbench gate`: from two paths to what is printed, written, and the exit status."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from attnbench.cli.group import USAGE_ERROR
from attnbench.compare.baseline import NoBaseline, read_sides
from attnbench.compare.comparison import Comparison, compare
from attnbench.compare.gate import INCOMPLETE, PASSED, GateResult, incompleteness, judge_gate
from attnbench.compare.regressions import BROKEN, FAILS_AS_BEFORE, WRONG
from attnbench.compare.text import HEADERS, Row, extras, headlines, notes, rows
from attnbench.compare.verdict import FASTER, INCONCLUSIVE, MISSING, NOT_COMPARABLE, SLOWER, Margin
from attnbench.records.store import StoreError

if TYPE_CHECKING:
    from rich.table import Table


def gate_command(
    base: Path, new: Path, margin: Margin, junit: Path | None, github: bool, strict: bool, force: bool, every: bool
) -> int:
    """The exit status. Raises StoreError for a mistake."""
    try:
        sides = read_sides(base, new)
    except NoBaseline as error:
        gate_result = _without_baseline(error)
        return write_outputs("gate", Comparison.of_nothing(str(base), str(new), margin), gate_result, junit, github)
    comparison = compare(*sides, margin, force)
    gate_result = judge_gate(comparison, strict)
    print_comparison(comparison, every)
    return write_outputs("gate", comparison, gate_result, junit, github)


def compare_command(base: Path, new: Path, margin: Margin, force: bool, every: bool) -> int:
    """Prints the comparison: 3 where nothing was compared or lines were unreadable, else 0, whatever the verdicts."""
    try:
        comparison = compare(*read_sides(base, new), margin, force)
    except NoBaseline as error:
        return end(_without_baseline(error))
    print_comparison(comparison, every)
    reasons = incompleteness(comparison)
    return end(GateResult(INCOMPLETE, reasons=dict.fromkeys(reasons, INCOMPLETE))) if reasons else PASSED


def _without_baseline(error: NoBaseline) -> GateResult:
    return GateResult(INCOMPLETE, reasons={f"not comparable: {error}": INCOMPLETE})


def write_outputs(
    verb: str, comparison: Comparison, gate_result: GateResult, junit: Path | None, github: bool,
    more: Sequence[str] = (),
) -> int:  # fmt: skip
    """What a CI system reads, where it is asked for, and `end`. Returns the exit status: a file that cannot be written
    makes a usage error of a gate that would pass, and never hides what one found.

    What is printed comes first, so that no file can prevent it.
    """
    if github:
        from attnbench.compare.ci_output import workflow_commands

        for line in workflow_commands(verb, comparison, gate_result):
            click.echo(line)
    unwritten = list(_write_files(verb, comparison, gate_result, junit, github))
    for line in unwritten:
        click.echo(f"attnbench: {line}", err=True)
    status = end(gate_result, more)
    return USAGE_ERROR if unwritten and status == PASSED else status


def _write_files(
    verb: str, comparison: Comparison, gate_result: GateResult, junit: Path | None, github: bool
) -> Iterator[str]:
    """Writes each file that is asked for; what could not be written, in words."""
    from attnbench.compare.ci_output import append_step_summary, write_junit

    if junit is not None:
        try:
            write_junit(junit, verb, comparison, gate_result)
        except StoreError as error:
            yield str(error)
    if github:
        try:
            append_step_summary(verb, comparison, gate_result)
        except StoreError as error:
            yield str(error)


def end(gate_result: GateResult, more: Sequence[str] = ()) -> int:
    """Prints the reasons, further lines and the exit status, which it returns."""
    for line in (*gate_result.reasons, *more):
        click.echo(line)
    click.echo(f"exit status {gate_result.status}: {gate_result.words}")
    return gate_result.status


# A comparison on the terminal, or as plain text where the output is none.

# Columns where the output is no terminal: wide enough for a case key, its figures and a reason.
LOG_WIDTH = 200
_STYLES = {WRONG: "bold red", BROKEN: "red", FAILS_AS_BEFORE: "yellow", SLOWER: "bold red", MISSING: "red",
           NOT_COMPARABLE: "yellow", INCONCLUSIVE: "yellow", FASTER: "green"}  # fmt: skip


def print_comparison(comparison: Comparison, every: bool = False) -> None:
    """Verdicts counted, the table with the worst first, what grew besides times, and notes."""
    from rich.console import Console

    for line in headlines(comparison):
        click.echo(line)
    shown = rows(comparison, every)
    if shown.rows:
        Console(width=None if sys.stdout.isatty() else LOG_WIDTH).print(_table(shown.rows))
    if shown.hidden:
        click.echo(f"{shown.hidden:,} more cases; --all shows them")
    for reason in shown.reasons:
        click.echo(reason)
    for line in (*extras(comparison, every), *notes(comparison)):
        click.echo(line)


def _table(shown: Sequence[Row]) -> Table:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for header in HEADERS:
        numeric = header in ("base", "new", "difference", "90 % interval")
        table.add_column(header, justify="right" if numeric else "left", no_wrap=numeric, overflow="fold")
    for row in shown:
        table.add_row(*map(escape, row.cells), style=_STYLES.get(row.kind, ""))
    return table

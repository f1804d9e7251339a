"""A comparison on the terminal, or as plain text where the output is none."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from attnbench.compare.comparison import Comparison
from attnbench.compare.regressions import BROKEN, FAILS_AS_BEFORE, WRONG
from attnbench.compare.text import HEADERS, Row, extras, headlines, notes, rows
from attnbench.compare.verdict import FASTER, INCONCLUSIVE, MISSING, NOT_COMPARABLE, SLOWER

if TYPE_CHECKING:
    from rich.table import Table

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

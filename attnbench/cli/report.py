"""`attnbench report` and `attnbench repro`: from run directories to what is written, and the exit status."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import click

from attnbench.printable import log_text
from attnbench.records.store import Run, read, without_collection

# The exit status where something in a run directory could not be read; what could is used all the same.
UNREADABLE = 3
# So many problems are told, a line each; a file of another kind has one in every line.
SHOWN = 20


def report_command(runs: Sequence[Path], output: Path, overwrite: bool) -> int:
    """Writes the report; the exit status. Raises StoreError for a mistake."""
    from attnbench.report.page import write_report_of

    with without_collection():
        found = [read(run) for run in runs]
        write_report_of(found, output, overwrite)
    click.echo(f"report: {output}")
    return tell_problems(found)


def repro_command(run_directory: Path, case_key: str, backend: str) -> int:
    """Prints the script; the exit status. Raises StoreError for a mistake."""
    from attnbench.repro.script import script_of

    run = read(run_directory)
    click.echo(script_of(run, case_key, backend))
    return tell_problems([run])


def tell_problems(runs: Iterable[Run]) -> int:
    """What could not be read of run directories, a line each on stderr; 3 where there is any, else 0."""
    problems = [f"{run.path / problem}" for run in runs for problem in run.problems]
    for problem in problems[:SHOWN]:
        click.echo(log_text(f"attnbench: {problem}"), err=True)
    if len(problems) > SHOWN:
        click.echo(f"attnbench: {len(problems) - SHOWN:,} more problems like these", err=True)
    return UNREADABLE if problems else 0

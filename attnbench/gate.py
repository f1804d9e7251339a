"""`attnbench compare` and `attnbench gate`: from two paths to what is printed, written, and the exit status."""

from __future__ import annotations

from pathlib import Path

import click

from attnbench.compare import compare
from attnbench.compare_table import print_comparison
from attnbench.ruling import INCOMPLETE, PASSED, Ruling, incompleteness, rule
from attnbench.sides import NoBaseline, read_sides
from attnbench.verdict import Margin


def gate_command(base: Path, new: Path, margin: Margin, junit: Path | None, github: bool, strict: bool, force: bool,
                 every: bool) -> int:  # fmt: skip
    """The exit status. Raises StoreError for a mistake."""
    try:
        sides = read_sides(base, new)
    except NoBaseline as error:
        click.echo(f"not comparable: {error}")
        return _end(Ruling(INCOMPLETE))
    comparison = compare(*sides, margin, force)
    ruling = rule(comparison, strict)
    print_comparison(comparison, every)
    if junit is not None:
        from attnbench.junit import write_junit

        write_junit(junit, comparison, ruling)
    if github:
        from attnbench.github_actions import annotate

        annotate(comparison, ruling)
    return _end(ruling)


def compare_command(base: Path, new: Path, margin: Margin, force: bool, every: bool) -> int:
    """Prints the comparison: 3 where nothing was compared or lines were unreadable, else 0, whatever the verdicts."""
    comparison = compare(*read_sides(base, new), margin, force)
    print_comparison(comparison, every)
    reasons = incompleteness(comparison)
    return _end(Ruling(INCOMPLETE, reasons=reasons)) if reasons else PASSED


def _end(ruling: Ruling) -> int:
    for reason in ruling.reasons:
        click.echo(reason)
    click.echo(f"exit status {ruling.status}: {ruling.words}")
    return ruling.status

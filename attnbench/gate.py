"""`attnbench compare` and `attnbench gate`: from two paths to what is printed, written, and the exit status."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from attnbench.compare.baseline import NoBaseline, read_sides
from attnbench.compare.comparison import Comparison, compare
from attnbench.compare.gate import INCOMPLETE, PASSED, Ruling, incompleteness, rule
from attnbench.compare.verdict import Margin
from attnbench.compare_table import print_comparison


def gate_command(base: Path, new: Path, margin: Margin, junit: Path | None, github: bool, strict: bool, force: bool,
                 every: bool) -> int:  # fmt: skip
    """The exit status. Raises StoreError for a mistake."""
    try:
        sides = read_sides(base, new)
    except NoBaseline as error:
        ruling = _without_baseline(error)
        write_outputs("gate", Comparison.of_nothing(str(base), str(new), margin), ruling, junit, github)
        return end(ruling)
    comparison = compare(*sides, margin, force)
    ruling = rule(comparison, strict)
    print_comparison(comparison, every)
    write_outputs("gate", comparison, ruling, junit, github)
    return end(ruling)


def compare_command(base: Path, new: Path, margin: Margin, force: bool, every: bool) -> int:
    """Prints the comparison: 3 where nothing was compared or lines were unreadable, else 0, whatever the verdicts."""
    try:
        comparison = compare(*read_sides(base, new), margin, force)
    except NoBaseline as error:
        return end(_without_baseline(error))
    print_comparison(comparison, every)
    reasons = incompleteness(comparison)
    return end(Ruling(INCOMPLETE, reasons=dict.fromkeys(reasons, INCOMPLETE))) if reasons else PASSED


def _without_baseline(error: NoBaseline) -> Ruling:
    return Ruling(INCOMPLETE, reasons={f"not comparable: {error}": INCOMPLETE})


def write_outputs(verb: str, comparison: Comparison, ruling: Ruling, junit: Path | None, github: bool) -> None:
    """What a CI system reads, where it is asked for. Raises StoreError for a file that cannot be written."""
    if junit is not None:
        from attnbench.compare.ci import write_junit

        write_junit(junit, verb, comparison, ruling)
    if github:
        from attnbench.compare.ci import annotate

        annotate(verb, comparison, ruling)


def end(ruling: Ruling, more: Sequence[str] = ()) -> int:
    """Prints the reasons, further lines and the exit status, which it returns."""
    for line in (*ruling.reasons, *more):
        click.echo(line)
    click.echo(f"exit status {ruling.status}: {ruling.words}")
    return ruling.status

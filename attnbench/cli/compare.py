"""`attnbench compare` and `attnbench gate`: from two paths to what is printed, written, and the exit status."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from attnbench.cli.group import USAGE_ERROR
from attnbench.compare.baseline import NoBaseline, read_sides, runs_of
from attnbench.compare.comparison import Comparison, compare
from attnbench.compare.floors import HOLDS, UNDECIDED_FLOOR, Finding, find, told
from attnbench.compare.gate import (
    INCOMPLETE,
    PASSED,
    GateResult,
    incompleteness,
    judge_gate,
    of_one_run,
    with_floors,
)
from attnbench.compare.margin import Margin
from attnbench.compare.regressions import BROKEN, FAILS_AS_BEFORE, WRONG
from attnbench.compare.text import HEADERS, Row, extras, headlines, notes, rows
from attnbench.compare.verdict import FASTER, INCONCLUSIVE, MISSING, NOT_COMPARABLE, SLOWER
from attnbench.floor import EXAMPLE, Floor, FloorError, parse_floor, unknown
from attnbench.printable import log_text, printable
from attnbench.records.store import SUITE, Run, StoreError
from attnbench.screen import FIGURE, NAME, TEXT, Column, Kind, console, sheet, wrapped
from attnbench.screen import Row as Line


def gate_command(
    paths: Sequence[Path], at_least: Sequence[str], margin: Margin, junit: Path | None, overwrite: bool, github: bool,
    strict: bool, force: bool, every: bool,
) -> int:  # fmt: skip
    """The exit status. Raises StoreError and FloorError for a mistake."""
    if not 1 <= len(paths) <= 2:
        raise StoreError(f"gate takes BASE and NEW, or NEW alone with floors, not {len(paths)} paths")
    *before, new = paths
    given = [parse_floor(text) for text in at_least]
    if not before:
        return _gate_alone(new, given, margin, junit, overwrite, github, strict)
    try:
        sides = read_sides(before[0], new)
    except NoBaseline as error:
        floors = _floors(runs_of(new), given)
        gate_result = with_floors(_without_baseline(error), floors.findings, floors.unread, strict)
        nothing = Comparison.of_nothing(str(before[0]), str(new), margin)
        return write_outputs("gate", nothing, gate_result, junit, overwrite, github, floors.lines)
    floors = _floors(sides[1].runs, given)
    comparison = compare(*sides, margin, force)
    gate_result = with_floors(judge_gate(comparison, strict), floors.findings, floors.unread, strict)
    print_comparison(comparison, every)
    return write_outputs("gate", comparison, gate_result, junit, overwrite, github, floors.lines)


@dataclass(frozen=True, slots=True)
class _Floors:
    """What floors came to; those of a stored suite that could not be read, in words."""

    findings: Sequence[Finding]
    unread: Sequence[str]

    @property
    def lines(self) -> list[str]:
        """Those that cannot be told, a line each; those that hold, counted. What does not is among the reasons."""
        holding = [finding for finding in self.findings if finding.kind == HOLDS]
        lines = [str(finding) for finding in self.findings if finding.kind == UNDECIDED_FLOOR]
        return [*lines, f"floors: {len(holding)} of {len(self.findings)} hold"] if self.findings else []


def _floors(runs: Sequence[Run], given: Sequence[Floor]) -> _Floors:
    """The floors given and those of the runs' stored suites. Raises FloorError for a given one that names no backend
    of a run."""
    findings: list[Finding] = []
    unread: list[str] = []
    for run in runs:
        wrong = unknown(given, dict.fromkeys(record.backend for record in run.records))
        if wrong:
            raise FloorError(f"--at-least {wrong}")
        own: list[Floor] = []
        for text in run.at_least:
            try:
                own.append(parse_floor(text))
            except FloorError as error:
                unread.append(f"{run.path / SUITE}: at_least: {error}")
        findings += find([*own, *given], run)
    return _Floors(findings, unread)


def _gate_alone(
    new: Path, given: Sequence[Floor], margin: Margin, junit: Path | None, overwrite: bool, github: bool, strict: bool
) -> int:
    runs = runs_of(new)
    floors = _floors(runs, given)
    if not floors.findings and not floors.unread:
        raise StoreError(f"{new} alone is held against nothing; name BASE too, or a floor: --at-least '{EXAMPLE}'")
    wrong, failed = ([line for run in runs for line in told(run, status)] for status in ("incorrect", "error"))
    problems = [f"{run.path / problem}" for run in runs for problem in run.problems]
    gate_result = with_floors(of_one_run(wrong, [*failed, *problems]), floors.findings, floors.unread, strict)
    nothing = Comparison.of_nothing("floors alone", str(new), margin)
    return write_outputs("gate", nothing, gate_result, junit, overwrite, github, floors.lines)


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
    verb: str, comparison: Comparison, gate_result: GateResult, junit: Path | None, overwrite: bool, github: bool,
    more: Sequence[str] = (),
) -> int:  # fmt: skip
    """What a CI system reads, where it is asked for, and `end`, whose exit status it returns.

    What is printed comes first, so that no file can prevent it.
    """
    if github:
        from attnbench.compare.ci_output import annotation_lines

        for line in annotation_lines(verb, comparison, gate_result):
            click.echo(line)
    unwritten = list(_write_files(verb, comparison, gate_result, junit, overwrite, github))
    return end(gate_result, more, unwritten)


def _write_files(
    verb: str, comparison: Comparison, gate_result: GateResult, junit: Path | None, overwrite: bool, github: bool
) -> Iterator[str]:
    """Writes each file that is asked for; what could not be written, in words: the verdict stands all the same."""
    from attnbench.compare.ci_output import append_summary, write_junit

    if github:
        try:
            for line in append_summary(verb, comparison, gate_result):
                click.echo(line)
        except StoreError as error:
            yield str(error)
    if junit is not None:
        try:
            write_junit(junit, verb, comparison, gate_result, overwrite)
        except StoreError as error:
            yield str(error)


def end(gate_result: GateResult, more: Sequence[str] = (), written: Sequence[str] = ()) -> int:
    """Prints the reasons, further lines and the exit status, which it returns.

    written: what could not be written; a mistake in the command, with status 2, where nothing else was found.
    """
    for line in (*gate_result.reasons, *more):
        echo(line)
    for line in written:
        click.echo(log_text(f"attnbench: {printable(line)}"), err=True)
    if written and gate_result.status == PASSED:
        echo(f"exit status {USAGE_ERROR}: {gate_result.words}, and not everything could be written")
        return USAGE_ERROR
    echo(f"exit status {gate_result.status}: {gate_result.words}")
    return gate_result.status


def echo(text: str) -> None:
    """Prints what may hold names of a run, in lines that fit the terminal; none of them is a command to a CI system."""
    click.echo(log_text("\n".join(wrapped(text))))


# A comparison on the terminal, or as plain text where the output is none.

_STYLES = {WRONG: "bold red", BROKEN: "red", FAILS_AS_BEFORE: "yellow", SLOWER: "bold red", MISSING: "red",
           NOT_COMPARABLE: "yellow", INCONCLUSIVE: "yellow", FASTER: "green"}  # fmt: skip


# The other columns hold figures.
_KINDS: Mapping[str, Kind] = {"case": NAME, "backend": NAME, "verdict": NAME, "why": TEXT}


def print_comparison(comparison: Comparison, every: bool = False) -> None:
    """Verdicts counted, the table with the worst first, what grew besides times, and notes."""
    for line in headlines(comparison):
        echo(line)
    shown = rows(comparison, every)
    if shown.rows:
        _print_table(shown.rows)
    if shown.hidden:
        echo(f"{shown.hidden:,} more cases; --all shows them")
    for line in (*shown.reasons, *extras(comparison, every), *notes(comparison)):
        echo(line)


def _print_table(shown: Sequence[Row]) -> None:
    screen = console()
    heads = [Column(header, _KINDS.get(header, FIGURE), stays=header == "verdict") for header in HEADERS]
    with screen.capture() as table:  # laid out first: any part of a cell may come to a line's start
        for part in sheet(heads, [Line(row.cells, _STYLES.get(row.kind, "")) for row in shown], screen.width):
            screen.print(part)
    click.echo(log_text(table.get()), nl=False)

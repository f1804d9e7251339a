"""Is this machine fit to measure? What is missing, why it matters to a timing, and the command that mends it.

Imports no torch and makes no CUDA context: it also serves where torch is broken. What is looked at stands in
`examination.py`, one function a topic.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

import click

from attnbench.examination import TOPICS
from attnbench.machine.findings import ADVICE, NOT_APPLICABLE, OK, PROBLEM, Finding

_COLORS = {OK: "green", ADVICE: "yellow", PROBLEM: "red", NOT_APPLICABLE: "bright_black"}
_WIDTH = 110


def examine() -> list[Finding]:
    """Everything that is looked at, in the order of the report."""
    return [finding for topic in TOPICS for finding in topic()]


def run_doctor() -> int:
    """Prints the findings; the exit status is 3 where there is a problem, else 0."""
    findings = examine()
    for finding in findings:
        click.secho(f"{finding.severity:<15}", fg=_COLORS[finding.severity], nl=False)
        click.echo(finding.what)
        for line in details(finding):
            click.echo(line)
    click.echo(verdict(findings))
    return 3 if any(finding.severity == PROBLEM for finding in findings) else 0


def details(finding: Finding) -> Iterator[str]:
    """The lines below a finding: why it matters, and the way out, which is not wrapped so that it can be copied."""
    margin = " " * 15
    if finding.why:
        yield from textwrap.wrap(finding.why, _WIDTH, initial_indent=margin, subsequent_indent=margin)
    if finding.mend:
        yield f"{margin}-> {finding.mend}"


def verdict(findings: Sequence[Finding]) -> str:
    """The last line: what the findings come to."""
    problems, advice = (sum(finding.severity == kind for finding in findings) for kind in (PROBLEM, ADVICE))
    if problems:
        return f"not fit to measure: {_count(problems, 'problem')}, {_count(advice, 'piece')} of advice"
    return f"fit to measure; {_count(advice, 'piece')} of advice" if advice else "fit to measure"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"

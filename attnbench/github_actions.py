"""What `gate` or `ab` found, for GitHub Actions: annotations by workflow commands on stdout, the step's summary page.

Formats: docs.github.com, "Workflow commands for GitHub Actions", error messages and job summaries.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import click

from attnbench.compare import Comparison
from attnbench.compare_text import HEADERS, besides, counts, extras, headlines, kind, notes, rows, why
from attnbench.markdown import anonymous, bullets, plain, table
from attnbench.records.store import StoreError
from attnbench.ruling import PASSED, REGRESSED, Ruling
from attnbench.verdict import signed

SUMMARY = "GITHUB_STEP_SUMMARY"
# GitHub shows ten errors and ten warnings of a step; the rest would be dropped without a word.
SHOWN = 10


def annotate(verb: str, comparison: Comparison, ruling: Ruling) -> None:
    """Prints the annotations and appends to the file that GITHUB_STEP_SUMMARY names, where it is set.

    Raises StoreError where that file cannot be written.
    """
    for line in annotations(verb, comparison, ruling):
        click.echo(line)
    target = os.environ.get(SUMMARY)
    if not target:
        click.echo(f"{SUMMARY} is not set, so no step summary was written")
        return
    try:
        with Path(target).open("a") as file:
            file.write(step_summary(verb, comparison, ruling))
    except OSError as error:
        raise StoreError(f"cannot write the step summary {target} ({SUMMARY}): {error.strerror}") from None


def annotations(verb: str, comparison: Comparison, ruling: Ruling) -> Iterator[str]:
    """`::error title=...::...`, the gravest first; what GitHub would drop is counted in one of its own."""
    cells = sorted(zip(ruling.by_cell, comparison.cells, strict=True), key=lambda item: item[0] != REGRESSED)
    failing = [(status, cell) for status, cell in cells if status != PASSED]
    room, title = SHOWN - len(ruling.reasons) - 1, f"attnbench {verb}"
    for reason in ruling.reasons:
        yield _command("error", title, reason)
    for _, cell in failing[:room]:
        moved = "" if cell.verdict is None or cell.verdict.time is None else f" {signed(cell.verdict.difference)}"
        text = "; ".join(filter(None, (why(cell), *besides(cell))))
        yield _command("error", f"{kind(cell)}{moved}: {cell.backend}, {cell.case_key}", text or kind(cell))
    if len(failing) > room:
        yield _command("error", title, f"{len(failing) - room} more cases: {counts(comparison)}")
    if comparison.forced:
        yield _command("warning", f"{title}: forced", "; ".join(comparison.forced))
    elif ruling.status == PASSED and not any(cell.verdict and cell.verdict.time for cell in comparison.cells):
        yield _command("warning", f"{title}: no time was judged", counts(comparison))


def step_summary(verb: str, comparison: Comparison, ruling: Ruling) -> str:
    """Markdown: the outcome, the headlines, the table, and what came up besides."""
    shown = rows(comparison)
    parts = [f"## attnbench {verb}: {ruling.words}"]
    parts.append(bullets(_shown(line) for line in (*ruling.reasons, *headlines(comparison))))
    if shown.rows:
        parts.append(table(HEADERS, [[_shown(cell) for cell in row.cells] for row in shown.rows], left=2))
    if shown.hidden:
        parts.append(f"{shown.hidden:,} more cases.")
    if shown.reasons:
        parts.append(bullets(map(_shown, shown.reasons)))
    rest = [*extras(comparison), *notes(comparison)]
    if rest:
        parts.append(bullets(map(_shown, rest)))
    return "\n\n".join(parts) + "\n\n"


def _shown(text: str) -> str:
    return plain(anonymous(text))


def _command(level: str, title: str, text: str) -> str:
    return f"::{level} title={_escaped(title, property=True)}::{_escaped(text)}"


def _escaped(text: str, property: bool = False) -> str:
    """As the runner unescapes: %, line breaks; in a property also colons and commas."""
    pairs = [("%", "%25"), ("\r", "%0D"), ("\n", "%0A"), *([(":", "%3A"), (",", "%2C")] if property else [])]
    for letter, code in pairs:
        text = text.replace(letter, code)
    return text

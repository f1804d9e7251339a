"""What `gate` or `ab` found, for CI systems: a JUnit file, and GitHub's annotations and step summary."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree

from attnbench.compare.comparison import Cell, Comparison
from attnbench.compare.gate import INCOMPLETE, PASSED, REGRESSED, UNDECIDED, GateResult
from attnbench.compare.margin import signed
from attnbench.compare.text import HEADERS, besides, counts, extras, headlines, kind, notes, rows, why
from attnbench.compare.verdict import INCONCLUSIVE, NEW, SLOWER
from attnbench.markdown import anonymous, bullets, plain, table
from attnbench.printable import log_text, printable
from attnbench.records.output import mark, refuse_output, write_output
from attnbench.records.store import StoreError

# What XML 1.0 cannot hold (its section 2.2) of what is printable.
_UNWRITABLE = re.compile(r"[\ufffe\uffff]")
MARK = mark("gate")
OPTION = "--junit"
# The test cases of the comparison as a whole: name and type.
_WHOLE = {
    REGRESSED: ("the run as a whole", SLOWER),
    INCOMPLETE: ("everything was read and compared", "incomplete"),
    UNDECIDED: ("every floor can be told", INCONCLUSIVE),
}
# How a status shows: JUnit tells a failure of what was tested from an error in testing it.
_TAGS = {REGRESSED: "failure", INCOMPLETE: "error", UNDECIDED: "failure"}


def make_room(path: Path, overwrite: bool = False) -> None:
    """Makes the folder of a JUnit file, so that a measurement does not end in a file that cannot be written.

    Raises StoreError where it cannot be.
    """
    refuse_output(path, overwrite, OPTION, MARK)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from None
    if not os.access(path.parent, os.W_OK):
        raise StoreError(f"cannot write the JUnit file {path}: no permission")


def write_junit(
    path: Path, verb: str, comparison: Comparison, gate_result: GateResult, overwrite: bool = False
) -> None:
    """One test suite a backend, one test case a case; what made the whole of `verb` fail are test cases of their own.

    Raises StoreError where the file cannot be written, or is there and is none of ours.
    """
    root = ElementTree.Element("testsuites", name=f"attnbench {verb}")
    backends: dict[str, list[tuple[Cell, int]]] = {}
    for cell, status in zip(comparison.cells, gate_result.by_cell, strict=True):
        backends.setdefault(cell.backend, []).append((cell, status))
    for backend, cells in backends.items():
        suite = ElementTree.SubElement(root, "testsuite", name=_text(backend))
        _properties(suite, comparison)
        for cell, status in cells:
            _case(suite, cell, status, forced=bool(comparison.forced))
    if gate_result.reasons:
        suite = ElementTree.SubElement(root, "testsuite", name="comparison")
        for status in dict.fromkeys(gate_result.reasons.values()):
            _whole(
                suite, comparison, status, [text for text, led_to in gate_result.reasons.items() if led_to == status]
            )
    for suite in root:
        _count(suite)
    _count(root)
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding="unicode")
    try:
        write_output(path, f"<?xml version='1.0' encoding='utf-8'?>\n{MARK}\n{text}\n", overwrite, OPTION, MARK)
    except OSError as error:
        raise _unwritable(path, error) from None


def _unwritable(path: Path, error: OSError) -> StoreError:
    return StoreError(f"cannot write the JUnit file {path}: {error.strerror}")


def _whole(suite: ElementTree.Element, comparison: Comparison, status: int, reasons: Sequence[str]) -> None:
    """A test case for what is so of the comparison as a whole."""
    name, kind_of = _WHOLE[status]
    case = ElementTree.SubElement(suite, "testcase", name=name, classname="attnbench")
    text = "\n".join((*reasons, *notes(comparison)))
    ElementTree.SubElement(case, _TAGS[status], message=_text(reasons[0]), type=kind_of).text = _text(text)


def _properties(suite: ElementTree.Element, comparison: Comparison) -> None:
    properties = ElementTree.SubElement(suite, "properties")
    for line in (*headlines(comparison), *notes(comparison)):
        name, _, value = line.partition(": ")
        facts = {"name": _text(name if value else "about"), "value": _text(value or line)}
        ElementTree.SubElement(properties, "property", facts)


def _case(suite: ElementTree.Element, cell: Cell, status: int, forced: bool) -> None:
    case = ElementTree.SubElement(suite, "testcase", name=_text(cell.case_key), classname=_text(cell.backend))
    if cell.new_s is not None:
        case.set("time", f"{cell.new_s:.9g}")
    stamp = "FORCED, not comparable: " if forced else ""
    message = f"{stamp}{kind(cell)}{_figures(cell)}: {why(cell)}".removesuffix(": ")
    said = "; ".join((message, *besides(cell)))
    details = "\n".join((message, *besides(cell)))
    if status != PASSED:
        ElementTree.SubElement(case, _TAGS[status], message=_text(said), type=kind(cell)).text = _text(details)
    elif kind(cell) in (INCONCLUSIVE, NEW):
        ElementTree.SubElement(case, "skipped", message=_text(said))
    else:
        ElementTree.SubElement(case, "system-out").text = _text(details)


def _figures(cell: Cell) -> str:
    verdict = cell.verdict
    if verdict is None or verdict.difference is None or verdict.interval is None:
        return ""
    low, high = map(signed, verdict.interval)
    p = "" if verdict.p is None else f", adjusted p {verdict.p:.2g}"
    return f" {signed(verdict.difference)} ({low} to {high}{p})"


def _count(element: ElementTree.Element) -> None:
    cases = list(element.iter("testcase"))
    element.set("tests", str(len(cases)))
    for attribute, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        element.set(attribute, str(sum(case.find(tag) is not None for case in cases)))


def _text(text: str) -> str:
    return _UNWRITABLE.sub("", printable(text))


# What `gate` or `ab` found, for GitHub Actions: annotations by workflow commands on stdout, the step's summary page.
#
# Formats: docs.github.com, "Workflow commands for GitHub Actions", error messages and job summaries.

SUMMARY = "GITHUB_STEP_SUMMARY"
# GitHub shows ten errors and ten warnings of a step; the rest would be dropped without a word.
SHOWN = 10


def append_summary(verb: str, comparison: Comparison, gate_result: GateResult) -> list[str]:
    """Appends to the file that GITHUB_STEP_SUMMARY names; what to print where it is not set.

    Raises StoreError where that file cannot be written.
    """
    target = os.environ.get(SUMMARY)
    if not target:
        return [f"{SUMMARY} is not set, so no step summary was written"]
    try:
        with Path(target).open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(step_summary(verb, comparison, gate_result))
    except OSError as error:
        raise StoreError(f"cannot write the step summary {target} ({SUMMARY}): {error.strerror}") from None
    return []


def annotation_lines(verb: str, comparison: Comparison, gate_result: GateResult) -> Iterator[str]:
    """`::error title=...::...`, the gravest first; what GitHub would drop is counted in one of its own."""
    cells = sorted(zip(gate_result.by_cell, comparison.cells, strict=True), key=lambda item: item[0] != REGRESSED)
    failing = [(status, cell) for status, cell in cells if status != PASSED]
    room, title = SHOWN - len(gate_result.reasons) - 1, f"attnbench {verb}"
    for reason in gate_result.reasons:
        yield _command("error", title, reason)
    for _, cell in failing[:room]:
        difference = None if cell.verdict is None else cell.verdict.difference
        moved = "" if difference is None else f" {signed(difference)}"
        text = "; ".join(filter(None, (why(cell), *besides(cell))))
        yield _command("error", f"{kind(cell)}{moved}: {cell.backend}, {cell.case_key}", text or kind(cell))
    if len(failing) > room:
        yield _command("error", title, f"{len(failing) - room} more cases: {counts(comparison)}")
    if comparison.forced:
        yield _command("warning", f"{title}: forced", "; ".join(comparison.forced))
    elif gate_result.status == PASSED and not any(cell.verdict and cell.verdict.time for cell in comparison.cells):
        yield _command("warning", f"{title}: no time was judged", counts(comparison))


def step_summary(verb: str, comparison: Comparison, gate_result: GateResult) -> str:
    """Markdown: the outcome, the headlines, the table, and what came up besides."""
    shown = rows(comparison)
    parts = [f"## attnbench {verb}: {gate_result.words}"]
    parts.append(bullets(_shown(line) for line in (*gate_result.reasons, *headlines(comparison))))
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
    """As the runner unescapes: %, line breaks; in a property also colons and commas. `##[` anywhere is its older form
    of a command."""
    text = log_text(printable(text))
    pairs = [("%", "%25"), ("\r", "%0D"), ("\n", "%0A"), *([(":", "%3A"), (",", "%2C")] if property else [])]
    for letter, code in pairs:
        text = text.replace(letter, code)
    return text

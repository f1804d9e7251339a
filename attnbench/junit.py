"""What `gate` or `ab` found as a JUnit file, which CI systems show case by case."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from attnbench.compare import Cell, Comparison
from attnbench.compare_text import besides, headlines, kind, notes, why
from attnbench.records.store import StoreError, write_file
from attnbench.ruling import INCOMPLETE, PASSED, REGRESSED, UNDECIDED, Ruling
from attnbench.verdict import INCONCLUSIVE, NEW, SLOWER, signed

# What XML 1.0 cannot hold (its section 2.2), and terminal colours, which nobody can read there.
_UNWRITABLE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]|[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
# The test cases of the comparison as a whole: name and type.
_WHOLE = {REGRESSED: ("the geometric mean over the suite", SLOWER),
          INCOMPLETE: ("everything was read and compared", "incomplete")}  # fmt: skip
# How a status shows: JUnit tells a failure of what was tested from an error in testing it.
_TAGS = {REGRESSED: "failure", INCOMPLETE: "error", UNDECIDED: "failure"}


def make_room(path: Path) -> None:
    """Makes the folder of a JUnit file, so that a measurement does not end in a file that cannot be written.

    Raises StoreError where it cannot be.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from None
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        why = "it is a folder" if path.is_dir() else "no permission"
        raise StoreError(f"cannot write the JUnit file {path}: {why}")


def write_junit(path: Path, verb: str, comparison: Comparison, ruling: Ruling) -> None:
    """One test suite a backend, one test case a case; what made the whole of `verb` fail are test cases of their own.

    Raises StoreError where the file cannot be written.
    """
    root = ElementTree.Element("testsuites", name=f"attnbench {verb}")
    backends: dict[str, list[tuple[Cell, int]]] = {}
    for cell, status in zip(comparison.cells, ruling.by_cell, strict=True):
        backends.setdefault(cell.backend, []).append((cell, status))
    for backend, cells in backends.items():
        suite = ElementTree.SubElement(root, "testsuite", name=_text(backend))
        _properties(suite, comparison)
        for cell, status in cells:
            _case(suite, cell, status, forced=bool(comparison.forced))
    if ruling.reasons:
        suite = ElementTree.SubElement(root, "testsuite", name="comparison")
        for status in dict.fromkeys(ruling.reasons.values()):
            _whole(suite, comparison, status, [text for text, led_to in ruling.reasons.items() if led_to == status])
    for suite in root:
        _count(suite)
    _count(root)
    ElementTree.indent(root)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n")
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
    if cell.verdict is None or cell.verdict.time is None:
        return ""
    low, high = map(signed, cell.verdict.interval)
    p = "" if cell.verdict.p is None else f", adjusted p {cell.verdict.p:.2g}"
    return f" {signed(cell.verdict.difference)} ({low} to {high}{p})"


def _count(element: ElementTree.Element) -> None:
    cases = list(element.iter("testcase"))
    element.set("tests", str(len(cases)))
    for attribute, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        element.set(attribute, str(sum(case.find(tag) is not None for case in cases)))


def _text(text: str) -> str:
    return _UNWRITABLE.sub("", text)

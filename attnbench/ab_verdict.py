"""Verdicts on two revisions: of the first measurement, and of what was measured again because it came out slower."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from attnbench.ab import Measured, Task
from attnbench.compare.baseline import read_sides
from attnbench.compare.comparison import Comparison, compare
from attnbench.compare.pairs import pair_of_turns, suite_of_turns
from attnbench.compare.verdict import SLOWER, Margin, confirm
from attnbench.worktree import Revision


def comparison_of(out: Path, revisions: Sequence[Revision], margin: Margin) -> Comparison:
    """What the run directories of both sides say, before anything is confirmed."""
    found = compare(*read_sides(out / "base", out / "head"), margin)
    return replace(found, base=str(revisions[0]), new=str(revisions[1]))


def tasks_to_confirm(comparison: Comparison, tasks: Sequence[Task]) -> list[Task]:
    """The tasks that came out slower; all that are timed where the suite as a whole did."""
    slower = {
        (cell.case_key, cell.backend) for cell in comparison.cells if cell.verdict and cell.verdict.kind == SLOWER
    }
    if comparison.suite is not None and comparison.suite.kind == SLOWER:
        slower = {(cell.case_key, cell.backend) for cell in comparison.cells if cell.verdict and cell.verdict.time}
    return [task for task in tasks if task.key in slower]


def confirmed(comparison: Comparison, second: Measured) -> Comparison:
    """The comparison with what the fresh processes say of what was slower."""
    base, head = (
        {(record.case_key, record.backend): record.measurement for record in second.merged(place)} for place in (0, 1)
    )
    both = {key: (one, head[key]) for key, one in base.items() if one and head.get(key)}
    first = {(cell.case_key, cell.backend): cell.verdict for cell in comparison.cells if cell.verdict}
    verdicts = confirm(first, {key: pair_of_turns(*pair) for key, pair in both.items()}, comparison.margin)
    cells = tuple(
        replace(cell, verdict=verdicts.get((cell.case_key, cell.backend), cell.verdict)) for cell in comparison.cells
    )
    suite = comparison.suite
    if suite is not None and suite.kind == SLOWER:
        again = {"": suite_of_turns(list(both.values()))} if both else {}
        suite = confirm({"": suite}, again, comparison.margin)[""]
    return replace(comparison, cells=cells, suite=suite)

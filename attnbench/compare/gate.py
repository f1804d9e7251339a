"""What a gate makes of a comparison: which cases fail it, and the exit status for CI."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from attnbench.compare.comparison import Cell, Comparison
from attnbench.compare.floors import BELOW, HOLDS, NOTHING, UNDECIDED_FLOOR, Finding
from attnbench.compare.judged import LOOSER
from attnbench.compare.regressions import BROKEN, FAILS_AS_BEFORE, REGRESSIONS
from attnbench.compare.verdict import INCONCLUSIVE, MISSING, NOT_COMPARABLE, SLOWER

PASSED, REGRESSED, INCOMPLETE, UNDECIDED = 0, 1, 3, 4
# Where several apply: 1 over 3 over 4.
GRAVITY = (REGRESSED, INCOMPLETE, UNDECIDED, PASSED)
_MEANS = {
    PASSED: "no regression",
    REGRESSED: "a regression, or a case that is wrong",
    INCOMPLETE: "incomplete: something is missing, failed, unreadable or could not be compared",
    UNDECIDED: "inconclusive (--strict)",
}


@dataclass(frozen=True, slots=True)
class GateResult:
    """What the gate makes of a comparison. by_cell: each cell's own status, in order; reasons: of the whole, with the
    status that each leads to.

    undecided: how many of `timed` cases are inconclusive, so that passing is not mistaken for knowing.
    """

    status: int
    by_cell: tuple[int, ...] = ()
    reasons: Mapping[str, int] = field(default_factory=dict)
    undecided: int = 0
    timed: int = 0

    @property
    def words(self) -> str:
        """What the exit status means here."""
        if self.status != PASSED or not self.undecided:
            return _MEANS[self.status]
        return f"{_MEANS[PASSED]} found, and {self.undecided:,} of {self.timed:,} timed cases are inconclusive"


def judge_gate(comparison: Comparison, strict: bool) -> GateResult:
    """The exit status and where it comes from. A comparison in which nothing was compared does not pass."""
    by_cell = tuple(cell_status(cell, strict) for cell in comparison.cells)
    reasons = dict.fromkeys(incompleteness(comparison), INCOMPLETE)
    if comparison.suite is not None and comparison.suite.kind == SLOWER:
        reasons[f"the suite as a whole is slower: geometric mean {comparison.suite.reason}"] = REGRESSED
    found = {*by_cell, *reasons.values(), PASSED}
    status = next(status for status in GRAVITY if status in found)
    kinds = [cell.verdict.kind for cell in comparison.cells if cell.verdict is not None]
    return GateResult(status, by_cell, reasons, kinds.count(INCONCLUSIVE), len(kinds))


def with_floors(
    gate_result: GateResult, findings: Sequence[Finding], unread: Sequence[str], strict: bool
) -> GateResult:
    """The same with what floors came to. Each that does not hold is a reason: 1 below it, 3 where nothing could be
    compared, 4 where it cannot be told and that counts; and 3 each that could not be read."""
    means = {BELOW: REGRESSED, NOTHING: INCOMPLETE, UNDECIDED_FLOOR: UNDECIDED if strict else PASSED, HOLDS: PASSED}
    led_to = {**dict.fromkeys(unread, INCOMPLETE), **{str(finding): means[finding.kind] for finding in findings}}
    reasons = {**gate_result.reasons, **{text: status for text, status in led_to.items() if status != PASSED}}
    found = {gate_result.status, *led_to.values()}
    return replace(gate_result, status=next(status for status in GRAVITY if status in found), reasons=reasons)


def of_one_run(wrong: Sequence[str], failed: Sequence[str]) -> GateResult:
    """Of a run that is held against nothing but floors: its own wrong and failed records, in words."""
    reasons = {**dict.fromkeys(failed, INCOMPLETE), **dict.fromkeys(wrong, REGRESSED)}
    status = next(status for status in GRAVITY if status in {*reasons.values(), PASSED})
    return GateResult(status, reasons=reasons)


def incompleteness(comparison: Comparison) -> tuple[str, ...]:
    """Why the comparison as a whole is not complete: nothing was compared, lines could not be read. () where it is."""
    reasons = []
    if not any(cell.compared for cell in comparison.cells):
        reasons.append("nothing was compared: no case has a right result on both sides")
    if comparison.too_few:
        reasons.append(comparison.too_few)
    if comparison.problems:
        lines = "1 line is" if len(comparison.problems) == 1 else f"{len(comparison.problems):,} lines are"
        reasons.append(f"{lines} unreadable: {comparison.problems[0]}")
    return tuple(reasons)


def cell_status(cell: Cell, strict: bool) -> int:
    """1 a regression or wrong, 3 missing, failed (as before or not), not comparable, of too few stored runs or judged
    by less than the baseline, 4 inconclusive where that counts, else 0."""
    kinds = {change.kind for change in cell.changes} | ({cell.verdict.kind} if cell.verdict else set())
    if kinds & {SLOWER, *REGRESSIONS}:
        return REGRESSED
    lacking = cell.verdict is not None and cell.verdict.too_few
    if lacking or kinds & {MISSING, NOT_COMPARABLE, BROKEN, FAILS_AS_BEFORE, LOOSER}:
        return INCOMPLETE
    return UNDECIDED if strict and INCONCLUSIVE in kinds else PASSED

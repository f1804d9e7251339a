"""How fast a candidate is beside the incumbent, and what that difference has to exceed: both from one run's records.

Both took turns in the same rounds, so that what slows both counts for nothing. A case's rounds are put into as many
groups, in order, as the case with the fewest rounds has rounds. The mean over cases of a group's log ratio is one
observation of the log of the geometric mean, and Student's t over the groups bounds it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from attnbench.compare.differences import (
    Difference,
    NotEnough,
    noise_floor,
    process_differences,
    round_differences,
    suite_mean,
)
from attnbench.compare.margin import Margin, percent
from attnbench.compare.pairs import took_turns
from attnbench.judge.judgement import Verdict
from attnbench.judge.twins import twin_name
from attnbench.records.measurement import Measurement
from attnbench.records.record import Record
from attnbench.units import count

PROMOTED: Final = "promoted"
CORRECT: Final = "correct"
SLOWER: Final = "slower"
UNDECIDED: Final = "undecided"
# Of a case fewer rounds say nothing of how far they lie apart: with two, t is 12.7.
FEWEST_ROUNDS = 3
# Two-sided, 95 %.
QUANTILE = 0.975


@dataclass(frozen=True)
class Speed:
    """value, low, high: how many times as fast as `against`, the geometric mean over `cases`, with its 95 % interval.
    margin: what it has to exceed. left_out: cases of too few rounds.
    """

    against: str
    value: float
    low: float
    high: float
    cases: int
    margin: Margin
    left_out: int = 0

    @property
    def bound(self) -> float:
        """The factor that counts as a difference: the margin that a gate takes, or twice the noise floor."""
        return math.exp(self.margin.log)

    @property
    def verdict(self) -> Verdict:
        if self.low > self.bound:
            return PROMOTED
        if self.high < 1 / self.bound:
            return SLOWER
        if self.low < 1 / self.bound and self.high > self.bound:
            return UNDECIDED
        return CORRECT

    def __str__(self) -> str:
        return f"{self.value:.3g} times ({self.low:.3g} to {self.high:.3g})"

    @property
    def reason(self) -> str:
        """Why the verdict is what it is."""
        floor = f"noise floor {percent(self.margin.noise_floor)}" if self.margin.noise_floor else "noise floor unknown"
        words = {
            PROMOTED: "faster by more than",
            SLOWER: "slower by more than",
            UNDECIDED: "the interval holds a gain and a loss of more than",
            CORRECT: "not shown to be faster by more than",
        }[self.verdict]
        left_out = f"; {count(self.left_out, 'case')} of too few rounds left out" if self.left_out else ""
        over = f"geometric mean over {count(self.cases, 'case')}"
        return f"{self} as fast as {self.against}, {over}: {words} {percent(self.bound - 1)} ({floor}){left_out}"


def speed_of(records: Sequence[Record], candidate: str, against: str, null: str) -> Speed | None:
    """None where no case was timed with both in enough rounds. null: the backend that faced itself."""
    pairs = in_turns(records, against, candidate)
    cases = [logs for base, new in pairs if len(logs := round_differences(base.blocks, new.blocks)) >= FEWEST_ROUNDS]
    if not cases:
        return None
    found = grouped(cases)
    from scipy.special import stdtrit

    reach = float(stdtrit(found.freedom, QUANTILE)) * found.standard_error
    value, low, high = (math.exp(-log) for log in (found.mean, found.mean + reach, found.mean - reach))
    return Speed(against, value, low, high, len(cases), Margin(noise_floor=null_of(records, null)),
                 len(pairs) - len(cases))  # fmt: skip


def grouped(cases: Sequence[Sequence[float]]) -> Difference:
    """The mean over cases of their rounds' log ratios, group by group."""
    groups = min(map(len, cases))
    means = [
        {
            group: statistics.fmean(logs[group * len(logs) // groups : (group + 1) * len(logs) // groups])
            for group in range(groups)
        }
        for logs in cases
    ]
    return suite_mean(means, FEWEST_ROUNDS)


def null_of(records: Sequence[Record], null: str) -> float | None:
    """The A/A noise floor of a run: how far a backend lies from itself in the candidate's place; None where that was
    not measured."""
    nulls = in_turns(records, null, twin_name(null))
    try:
        return noise_floor(list(process_differences(base.blocks, twin.blocks).values()) for base, twin in nulls)
    except NotEnough:
        return None


def in_turns(records: Sequence[Record], base: str, new: str) -> list[tuple[Measurement, Measurement]]:
    """The measurements of both, of each case in which they took turns."""
    timed = {(one.case_key, one.backend): one.measurement.as_used for one in records if one.measurement}
    pairs = [(own, timed.get((key, new))) for (key, backend), own in timed.items() if backend == base]
    return [(own, other) for own, other in pairs if other is not None and took_turns(own, other)]

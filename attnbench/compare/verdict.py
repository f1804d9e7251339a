"""Verdicts: is one side slower, faster or the same, or can that not be told? Pure statistics; no I/O.

Slower: the one-sided 95 % bound of the difference lies beyond the margin, corrected for all the cases that are judged
together (S. Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statist. 6, 1979).
Same: the 90 % interval lies inside the margin (two one-sided tests: D. Schuirmann, J. Pharmacokin. Biopharm. 15, 1987).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from attnbench.compare.differences import RUN, TAIL, Difference
from attnbench.compare.margin import FLOORS, Margin, percent, signed

Key = TypeVar("Key", bound=Hashable)

SLOWER, FASTER, SAME, INCONCLUSIVE = "slower", "faster", "same", "inconclusive"
NOT_COMPARABLE, MISSING, NEW = "not comparable", "missing", "new"
KINDS = (SLOWER, MISSING, NOT_COMPARABLE, INCONCLUSIVE, FASTER, SAME, NEW)  # what a reader wants to see first
UNDECIDED = (NOT_COMPARABLE, MISSING, NEW, INCONCLUSIVE)
# Why a case is inconclusive where base against itself differs by too much.
NOISE_FLOOR = "noise floor"

# Fresh processes that a verdict takes where both sides take turns; gates take five.
FEWEST_PROCESSES = 3
# SM clocks of the two sides further apart than this: the chip ran in two states, and times alone decide nothing.
CLOCKS_APART = 0.015
# How often a slowdown is to be found of which it is said that it would have been.
LIKELY = 0.8
# What a difference is due to, as far as clocks tell.
CODE, CLOCK_OR_POWER = "code", "clock or power"


@dataclass(frozen=True, slots=True)
class Pair:
    """One case, both sides, before it is judged.

    time: the difference in seconds; None where there is none, and then `refused` (of UNDECIDED) and `reason` say why.
    cycles: the same in SM cycles, where clocks were recorded. clock_shift: ln(new / base) of the median SM clocks.
    too_few: that it was refused for want of stored runs. excess: how far NEW's fast calls lie above BASE's slow ones,
    where that is far outside anything plausible (`plausible.excess`); 0.0 where it is not. doubted: verdicts that what
    the records say of themselves forbids, with the reason; seen: those that a stored run refutes.
    """

    time: Difference | None = None
    cycles: Difference | None = None
    clock_shift: float | None = None
    refused: str = ""
    reason: str = ""
    too_few: bool = False
    excess: float = 0.0
    doubted: Mapping[str, str] = field(default_factory=dict)
    seen: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.time is None) != bool(self.refused) or (self.refused and not self.reason):
            raise ValueError("a pair has a difference in time, or says why it has none")
        if self.refused and self.refused not in UNDECIDED:
            raise ValueError(f"a pair without a difference cannot be {self.refused}")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one case. Fractions of the base time: 0.03 is 3 % slower.

    time: None where it was refused, and where it is slower by more than statistics takes. p: of "not slower than the
    margin allows", Holm-adjusted. cause: CODE or CLOCK_OR_POWER where clocks tell, else "".
    confirmed: None where it was judged once; True or False where it was measured again in fresh processes.
    too_few: that too few stored runs measured it for a verdict.
    """

    kind: str
    reason: str
    margin: float
    time: Difference | None = None
    p: float | None = None
    cause: str = ""
    confirmed: bool | None = None
    too_few: bool = False

    @property
    def difference(self) -> float | None:
        return None if self.time is None else math.expm1(self.time.mean)

    @property
    def resolution(self) -> float | None:
        """The smallest slowdown that would have shown, by itself: one whose interval would not have reached 0."""
        return None if self.time is None else math.expm1(self.time.reach + self.time.down)

    @property
    def interval(self) -> tuple[float, float] | None:
        """90 %: its two ends are the one-sided 95 % bounds."""
        return None if self.time is None else (math.expm1(self.time.low), math.expm1(self.time.high))


def decide(pairs: Mapping[Key, Pair], margin: Margin) -> dict[Key, Verdict]:
    """A verdict for every case, judged together. SLOWER ones are to be confirmed where they can be measured again."""
    timed = {key: pair.time for key, pair in pairs.items() if pair.time is not None}
    above = holm({key: time.p_above(margin.log) for key, time in timed.items()})
    below = holm({key: time.p_below(margin.log) for key, time in timed.items()})
    return {
        key: _refused(pair, margin) if pair.time is None else _verdict(pair, pair.time, margin, above[key], below[key])
        for key, pair in pairs.items()
    }


def called_slower_from(times: Sequence[Difference], margin: Margin) -> list[float]:
    """Of each case, judged together with the others: what is called slower in LIKELY of such comparisons."""
    return [math.expm1(margin.log + time.beyond(TAIL / len(times), LIKELY)) for time in times]


def decide_one(pair: Pair, margin: Margin) -> Verdict:
    """A verdict on a figure that stands for itself, such as the geometric mean over a suite."""
    return decide({"": pair}, margin)[""]


def to_confirm(verdicts: Mapping[Key, Verdict]) -> list[Key]:
    """The cases that are to be measured again in fresh processes before they count as regressions."""
    return [key for key, verdict in verdicts.items() if verdict.kind == SLOWER and verdict.confirmed is None]


def confirm(first: Mapping[Key, Verdict], again: Mapping[Key, Pair], margin: Margin) -> dict[Key, Verdict]:
    """The verdicts once `again`, measured in fresh processes, is in: slower stays only what is slower a second time.

    again: a pair for each of `to_confirm(first)`; one that could not be measured is refused, or absent. A confirmed
    verdict carries the second measurement's figures, which were not chosen for being large.
    """
    second = decide({key: again[key] for key in to_confirm(first) if key in again}, margin)
    return {**first, **{key: _confirmed(first[key], second.get(key)) for key in to_confirm(first)}}


def holm(p_values: Mapping[Key, float]) -> dict[Key, float]:
    """Holm's adjusted p-values: each may be held against the level as if it were the only one."""
    adjusted, largest = {}, 0.0
    for rank, (key, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        largest = max(largest, min(1.0, p * (len(p_values) - rank)))
        adjusted[key] = largest
    return adjusted


def _refused(pair: Pair, margin: Margin) -> Verdict:
    if pair.refused == INCONCLUSIVE and pair.excess:
        return Verdict(SLOWER, f"{_by_far(pair.excess)}; {pair.reason}", margin.value)
    return Verdict(pair.refused, pair.reason, margin.value, too_few=pair.too_few)


def _verdict(pair: Pair, time: Difference, margin: Margin, above: float, below: float) -> Verdict:
    kind, reason = _by_time(time, margin, above, below)
    made = Verdict(kind, reason, margin.value, time, below if kind == FASTER else above)
    made = _by_clocks(made, pair, time.unit, margin)
    if made.kind in pair.seen:
        made = replace(made, kind=INCONCLUSIVE, reason=f"{made.kind} by the other cases, but {pair.seen[made.kind]}")
    if made.kind in pair.doubted:
        made = replace(made, kind=INCONCLUSIVE, reason=f"{made.kind} by its median, but {pair.doubted[made.kind]}")
    elif made.kind == INCONCLUSIVE and pair.doubted:
        made = replace(made, reason="; ".join(dict.fromkeys((made.reason, *pair.doubted.values()))))
    if pair.excess and made.kind == INCONCLUSIVE and not made.cause:
        return replace(made, kind=SLOWER, reason=f"{_by_far(pair.excess)}; {made.reason}")
    return made


def _by_far(excess: float) -> str:
    return f"its fast calls take {1 + excess:.3g} times what the baseline's slow ones do (10th and 90th percentile)"


def _by_time(time: Difference, margin: Margin, above: float, below: float) -> tuple[str, str]:
    limit = percent(max(margin.value, margin.noise))
    if above <= TAIL:
        return SLOWER, f"at least {signed(math.expm1(time.low))}, margin {limit}"
    if below <= TAIL:
        return FASTER, f"at most {signed(math.expm1(time.high))}, margin {limit}"
    if margin.too_noisy:
        return INCONCLUSIVE, f"{NOISE_FLOOR}: {FLOORS:g} times it is {limit}, and {percent(margin.asked)} was asked"
    if -margin.asked_log < time.low and time.high < margin.asked_log:
        if margin.noise < margin.asked:
            return SAME, f"within {percent(margin.asked)}"
        return INCONCLUSIVE, f"{NOISE_FLOOR}: {limit} would have shown, and {percent(margin.asked)} was asked"
    if time.low > margin.log or time.high < -margin.log:
        strictly = (
            "all cases judged" if time.shift is None else "all cases judged and 99 % certainty for a shift of the run"
        )
        return INCONCLUSIVE, f"beyond {limit} by itself, not with {strictly} (adjusted p {min(above, below):.2g})"
    return INCONCLUSIVE, f"its interval reaches over the margin of {percent(margin.asked)}"


def _by_clocks(verdict: Verdict, pair: Pair, unit: str, margin: Margin) -> Verdict:
    """What the clocks say of a verdict that times alone gave."""
    shift = pair.clock_shift
    if verdict.kind == INCONCLUSIVE:
        return verdict
    holds = pair.cycles is not None and _holds_in_cycles(verdict.kind, pair.cycles, margin)
    if shift is not None and abs(shift) > math.log1p(CLOCKS_APART) and not holds:
        said = "and no cycles are known" if pair.cycles is None else "and in cycles it is " + _in_cycles(pair.cycles)
        reason = f"{verdict.kind} in time, but SM clocks differ by {signed(math.expm1(shift))} {said}"
        return replace(verdict, kind=INCONCLUSIVE, reason=reason, cause="" if pair.cycles is None else CLOCK_OR_POWER)
    if pair.cycles is None or verdict.kind == SAME:
        return verdict
    if holds:
        return replace(verdict, cause=CODE, reason=f"{verdict.reason}; in cycles too")
    if not _holds_in_cycles(SAME, pair.cycles, margin):
        return verdict
    if unit == RUN:
        # The clock was the session's. Sides that took turns had it in common: there, what lowers it is the code.
        reason = f"{verdict.kind} in time, the same in cycles: {_in_cycles(pair.cycles)}"
        return replace(verdict, kind=INCONCLUSIVE, reason=reason, cause=CLOCK_OR_POWER)
    return replace(verdict, cause=CLOCK_OR_POWER, reason=f"{verdict.reason}; in cycles {_in_cycles(pair.cycles)}")


def _holds_in_cycles(kind: str, cycles: Difference, margin: Margin) -> bool:
    if kind == SLOWER:
        return cycles.low > margin.log
    if kind == FASTER:
        return cycles.high < -margin.log
    return -margin.asked_log < cycles.low and cycles.high < margin.asked_log


def _in_cycles(cycles: Difference) -> str:
    return f"{signed(math.expm1(cycles.mean))} ({signed(math.expm1(cycles.low))} to {signed(math.expm1(cycles.high))})"


def _confirmed(first: Verdict, second: Verdict | None) -> Verdict:
    if second is not None and second.kind == SLOWER:
        return replace(second, confirmed=True, reason=f"{second.reason}; confirmed in fresh processes")
    seen, kept = "could not be measured again", first
    if second is not None and second.difference is not None:
        seen, kept = f"then {signed(second.difference)}", second
    at_first = first.reason if first.difference is None else signed(first.difference)
    reason = f"{at_first} at first, {seen}{_why(second)}: not confirmed in fresh processes"
    return replace(kept, kind=INCONCLUSIVE, reason=reason, confirmed=False)


def _why(second: Verdict | None) -> str:
    return f" ({second.reason})" if second is not None else ""

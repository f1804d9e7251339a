"""How far the times of a run can be trusted: how wide the medians' intervals are, and whether the CPU was shared."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from attnbench.records.environment import section
from attnbench.records.result import HOST_TIMER, TimedResult
from attnbench.units import significant

# Flags of a measurement that others were on its cores meanwhile.
SHARED_FLAGS = frozenset(("cpu_loaded", "cpu_stolen"))


@dataclass(frozen=True, slots=True)
class Widths:
    """Half the widths of the medians' intervals, relative to the medians. loose: how many measurements did not
    converge; unknown: how many have too few samples for an interval.
    """

    timed: int
    loose: int
    unknown: int
    known: tuple[float, ...]

    @staticmethod
    def of(results: Collection[TimedResult]) -> Widths:
        known = sorted(result.half_width for result in results if result.half_width is not None)
        loose = sum(not result.measurement.converged for result in results)
        return Widths(len(results), loose, len(results) - len(known), tuple(known))

    @property
    def mostly_loose(self) -> bool:
        """Wide intervals are the rule here: told once, and no mark on every row."""
        return 2 * self.loose > self.timed

    @property
    def words(self) -> str:
        """`±1.1 % to ±22 %, half of them over ±5.1 %`; "" where no measurement has an interval."""
        if not self.known:
            return ""
        low, high = (f"±{significant(100 * end, 2)} %" for end in (self.known[0], self.known[-1]))
        if low == high:
            return low
        return f"{low} to {high}, half of them over ±{significant(100 * statistics.median(self.known), 2)} %"


def timed_on_cpu(results: Collection[TimedResult]) -> bool:
    return bool(results) and all(result.measurement.timer == HOST_TIMER for result in results)


def shared_cpu(environment: Mapping[str, Any], results: Collection[TimedResult]) -> bool:
    """Whether everything was timed on a CPU that others share: a virtual machine's, or one with load or theft seen."""
    if not timed_on_cpu(results):
        return False
    seen = any(SHARED_FLAGS & set(result.measurement.flags) for result in results)
    return seen or bool(section(environment, "cpu").get("virtual_machine"))


def interval_words(widths: Widths, environment: Mapping[str, Any], results: Collection[TimedResult]) -> str:
    """One sentence on a run whose intervals are mostly wider than asked: `58 of 58 medians are less certain ...`."""
    where = "on a shared CPU" if shared_cpu(environment, results) else "on a CPU" if timed_on_cpu(results) else ""
    timed = f"timed {where}: " if where else ""
    if not widths.known:
        return f"{timed}no median has an interval, since there are too few samples"
    few = f"; {widths.unknown:,} have too few samples to say" if widths.unknown else ""
    return f"{timed}{widths.loose:,} of {widths.timed:,} intervals are wider than asked for: {widths.words}{few}"

"""Kernels in an interpreter: the smallest cases first, and none begun that the time left will not do for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from attnbench.case import Case, forward_flops
from attnbench.suite.suite import Job


def smallest_first(jobs: Sequence[Job]) -> tuple[Job, ...]:
    """By FLOP, so that a budget of time goes as far as it can, and a fault shows as early as it can."""
    return tuple(sorted(jobs, key=lambda job: forward_flops(job.case)))


@dataclass
class CaseCost:
    """What cases took so far, in the order of their FLOP: what the next one will take follows from the last ones.

    NOTE: the first is left out: it imports, compiles and makes what all others use.
    """

    taken: list[tuple[float, float]] = field(default_factory=list)

    def add(self, case: Case, seconds: float) -> None:
        self.taken.append((float(forward_flops(case)), seconds))

    def expected_s(self, case: Case) -> float:
        """0 where nothing is known yet. A case takes its share of what the last one took, or as much where it is
        smaller; what does not grow with the FLOP is left out of the growth where two sizes were seen."""
        known = self.taken[1:]
        if not known:
            return 0.0
        flops, (last, last_s) = float(forward_flops(case)), known[-1]
        smaller = next(((size, spent_s) for size, spent_s in reversed(known) if size < last), None)
        if flops <= last:
            return last_s
        if smaller is None:
            return last_s * flops / last
        rate = max(0.0, last_s - smaller[1]) / (last - smaller[0])
        # NOTE: two sizes that are close, on a busy machine, give any rate; more than in proportion it cannot be.
        return min(last_s + rate * (flops - last), last_s * flops / last)

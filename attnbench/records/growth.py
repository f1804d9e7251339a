"""How peak memory grows with the sequence length: the exponent of a power law, by least squares in logarithms.

FlashAttention (Dao et al. 2022) claims memory linear in the length, where standard attention's is quadratic.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from attnbench.case import Case, LaterCase
from attnbench.records.stats import CONFIDENCE

if TYPE_CHECKING:
    from attnbench.records.result import Result

# Fewer leave nothing to tell a power law by.
LEAST_LENGTHS = 3

Curve = tuple[tuple[int, int], ...]  # (seqlen, bytes), by seqlen


@dataclass(frozen=True, slots=True)
class Growth:
    """bytes = constant x seqlen^exponent, one exponent for all curves and a constant for each.

    low, high: the exponent's interval of CONFIDENCE from the residuals, by Student's t. Bytes are exact and repeat, so
    what lies off the line is terms of lower order and no noise: it says how well one power describes these lengths.
    last: the exponent from the longest length but one to the longest, where it comes closest to the leading term's.
    """

    exponent: float
    low: float
    high: float
    last: float
    curves: tuple[Curve, ...]

    @property
    def lengths(self) -> tuple[int, int]:
        """The shortest and the longest of any curve."""
        return min(curve[0][0] for curve in self.curves), max(curve[-1][0] for curve in self.curves)

    @property
    def points(self) -> int:
        return sum(map(len, self.curves))


def growth(curves: Iterable[Curve]) -> Growth | None:
    """Over the curves of at least LEAST_LENGTHS lengths, but those that are equal to another or a part of it: fp16's
    memory is bf16's, and no new evidence. None where there are none."""
    found = dict.fromkeys(curve for curve in curves if len(curve) >= LEAST_LENGTHS)
    kept = tuple(curve for curve in found if not any(set(curve) < set(other) for other in found))
    if not kept:
        return None
    from scipy.special import stdtrit

    deviations = []
    for curve in kept:
        x, y = [math.log(seqlen) for seqlen, _ in curve], [math.log(size) for _, size in curve]
        mean_x, mean_y = math.fsum(x) / len(x), math.fsum(y) / len(y)
        deviations += [(one - mean_x, other - mean_y) for one, other in zip(x, y)]
    across = math.fsum(x * x for x, _ in deviations)
    along = math.fsum(x * y for x, y in deviations)
    exponent = along / across
    residuals = math.fsum((y - exponent * x) ** 2 for x, y in deviations)
    freedom = len(deviations) - len(kept) - 1  # of a constant for each curve and one exponent
    half = float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) * math.sqrt(residuals / freedom / across)
    return Growth(exponent, exponent - half, exponent + half, _last(kept), kept)


def _last(curves: tuple[Curve, ...]) -> float:
    """The mean over the curves that reach furthest."""
    longest = max(curve[-1][0] for curve in curves)
    ends = [(curve[-2], curve[-1]) for curve in curves if curve[-1][0] == longest]
    slopes = [math.log(b[1] / a[1]) / math.log(b[0] / a[0]) for a, b in ends]
    return math.fsum(slopes) / len(slopes)


def memory_curves(cells: Mapping[tuple[Case, str], Result]) -> dict[tuple[str, int, int], list[Curve]]:
    """Peak memory against seqlen, queries as long as keys: curves of problems that differ in their length only, by
    (series, head_dim, head_dim_v)."""
    sizes: dict[tuple[str, Case], dict[int, int]] = {}
    for (case, series), result in cells.items():
        measurement = result.record.measurement
        if measurement is None or not measurement.peak_bytes or isinstance(case, LaterCase):
            continue
        if case.seqlen_q == case.seqlen_k:
            of = sizes.setdefault((series, replace(case, seqlen_q=1, seqlen_k=1)), {})
            of[case.seqlen_q] = measurement.peak_bytes
    found: dict[tuple[str, int, int], list[Curve]] = {}
    for (series, case), of in sizes.items():
        found.setdefault((series, case.head_dim, case.head_dim_v), []).append(tuple(sorted(of.items())))
    return found

"""Is a call slower just after its inputs changed than on the same numbers again? Then it keeps work per input.

Every timed call has changed inputs, so nothing kept makes a figure false. But who reads it should know that calls on
unchanged inputs take another time. One call on unchanged inputs is held against the median; only where that looks
faster, pairs of calls decide, one of each kind, ahead of both of which the inputs are written alike, so that caches
hold as much. Both kinds equal, with a tail however heavy, at least MANY of PAIRS favour one by chance in 1.1 % of such
looks at most (binomial, a half each), and only where one call beforehand came out as fast by chance too.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

# How many times as long the first call must take.
SLOWER = 1.5
PAIRS, MANY = 10, 9
# Below this, what a timer reads of a single call is the timer's own.
SHORTEST_S = 20e-6


def slower_when_changed(take: Callable[[bool], float], median_s: float) -> float | None:
    """How many times as long a call takes just after its inputs changed; None where that is not plainly more than
    SLOWER. take: seconds of one call, ahead of which its inputs changed (True) or were written as they were; median_s:
    of timed calls, all of whose inputs had changed."""
    if median_s < SHORTEST_S or take(False) * SLOWER > median_s:
        return None
    pairs = [(take(True), take(False)) for _ in range(PAIRS)]
    if sum(first > SLOWER * again for first, again in pairs) < MANY:
        return None
    changed_s, same_s = (statistics.median(times) for times in zip(*pairs))
    return float(changed_s / max(same_s, 1e-9))

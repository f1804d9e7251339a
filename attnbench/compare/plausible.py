"""A slowdown far outside anything that the machine explains: it is one whatever the number of stored runs."""

from __future__ import annotations

import math
from collections.abc import Sequence

from attnbench.records.measurement import Measurement
from attnbench.records.result import HOST_TIMER, Observed
from attnbench.records.sentinels import COPY, GEMM, figures
from attnbench.records.store import Run

# NEW's fast calls (10th percentile) against BASE's slow ones (90th): sessions of one machine on the same code lie a few
# percent apart, and a call that gets half of what it had loses 100 %.
LEAST_EXCESS = 0.5
# And so many times what the machine's own fixed work moved.
DRIFTS = 3.0


def drift_of(runs: Sequence[Run]) -> float:
    """How far the machine's own GEMM and copy rates moved over all sentinels of these runs: highest / lowest - 1."""
    found = [0.0]
    for figure in (GEMM, COPY):
        rates = [rate for run in runs for rate in figures(run.sentinels, figure)]
        if rates:
            found.append(max(rates) / min(rates) - 1)
    return max(found)


def excess(
    base: Sequence[Measurement], new: Sequence[Measurement], drift: float, clock_shift: float | None, cpus: int = 1
) -> float:
    """How far the 10th percentile of every run of NEW lies above the 90th of every run of BASE, a fraction; 0.0 where
    that is within what is plausible.

    drift: as `drift_of`. clock_shift: ln(new / base) of SM clocks, None where they are not known; where NEW's is the
    lower one, as much of the time is the clock's. cpus: of the machine; where a host's clock timed NEW, and more work
    than those was there, by so much the limit grows.
    """
    limit = (1 + max(LEAST_EXCESS, DRIFTS * drift)) * max(1.0, *(_load(one) / cpus for one in new))
    ratio = min(_percentile(one, 10) for one in new) / max(_percentile(one, 90) for one in base)
    ratio *= math.exp(min(0.0, clock_shift or 0.0))
    return ratio - 1 if ratio > limit else 0.0


def _load(measurement: Measurement) -> float:
    return (Observed.of(measurement).load or 0.0) if measurement.timer == HOST_TIMER else 0.0


def _percentile(measurement: Measurement, percent: int) -> float:
    import numpy

    return float(numpy.percentile(measurement.samples_s, percent))

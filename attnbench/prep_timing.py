"""The time of what use repeats ahead of every call, quantization, beside the time of the call itself.

FlashAttention-3 and its peers report FP8 kernels without it; a kernel is only as fast as what has to run before it.
"""

from __future__ import annotations

import itertools
import statistics
from typing import TYPE_CHECKING

from attnbench.backend import Backend, Inputs, PrepCall, prep_call, trait
from attnbench.records.measurement import REFERENCE_PREP, PrepTiming
from attnbench.timing.sampling import KEPT_DIGITS, Timer
from attnbench.timing.timers import make_flush, make_timer

if TYPE_CHECKING:
    from collections.abc import Callable

    from attnbench.bench import Bench

# A figure beside the headline: this long, and within these numbers of samples, is enough for its median.
PREP_TIME_S = 0.3
LEAST_SAMPLES, MOST_SAMPLES = 3, 30
WARMUP_CALLS = 2


def time_prep_call(bench: Bench, backend: Backend, inputs: Inputs) -> PrepTiming | None:
    """Of the backend's own preparation; for a backend that starts from the reference quantizer's tensors, of that.

    None where nothing of the preparation is repeated, or where a backend with a quantizer of its own does not give it.
    """
    case = bench.case
    own = prep_call(backend, case, inputs)
    if own is not None:
        return _timed(bench, own)
    if not case.is_fp8 or trait(backend, "own_quantizer"):
        return None
    if bench.reference_prep is None:
        from attnbench.reference.quantize import quantize

        reference = PrepCall(REFERENCE_PREP, lambda: quantize(inputs.q, inputs.k, inputs.v, case))
        bench.reference_prep = _timed(bench, reference)
    return bench.reference_prep


def _timed(bench: Bench, prep: PrepCall) -> PrepTiming:
    timing = bench.timing
    timer = make_timer(timing.timer, bench.device, 1)
    # One input set, so the cache is emptied ahead of each sample; but for captured graphs, which cannot, and for the
    # CPU, where that takes a hundred times as long as what is timed.
    cold = timing.cache == "cold" and timer.name == "events"
    return sample(prep, timer, make_flush(bench.device, bench.cache_bytes) if cold else None)


def sample(prep: PrepCall, timer: Timer, before: Callable[[], None] | None) -> PrepTiming:
    """Samples of a preparation: about PREP_TIME_S of them after a warm-up; `before` runs, untimed, ahead of each."""
    calls = itertools.repeat(prep.call)
    estimate_s = statistics.median(timer.take(calls, WARMUP_CALLS, 1, before))
    per_sample = timer.region(estimate_s)
    count = max(LEAST_SAMPLES, min(MOST_SAMPLES, int(PREP_TIME_S / (estimate_s * per_sample))))
    taken = timer.take(calls, count, per_sample, before)
    kept = tuple(float(f"{one:.{KEPT_DIGITS}g}") for one in taken)
    return PrepTiming(prep.about, kept, per_sample, "cold" if before is not None and per_sample == 1 else "warm")

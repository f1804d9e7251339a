"""Times held against the clock of the process that a plugin cannot reach: the parent knows when a backend's timing
began and ended, and the samples that a worker reports must fit into that, and explain it.

A call that is timed at a thousandth of what it takes, by whatever means, leaves a second of waiting for a millisecond
of samples; a clock that runs ahead reports more samples than there was time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from attnbench.records.measurement import PREPARED_ANEW, Measurement
from attnbench.records.record import LIKELY_CAUSE, Check, Record

RULE_MORE, RULE_LESS = "samples beyond the time that passed, s", "time that samples do not explain, s"
# Clocks of two processes, and a message between them.
CLOCKS_AGREE, MESSAGES_S = 1.02, 0.1
# Beside a sample: changed signs, a judged buffer, lead-in calls, another process on the same core. Honest calls of
# 30 us took up to 2.4 times their samples on a busy machine, and small ones take a fixed time more.
UNSAMPLED, FIXED_S = 25.0, 15.0
# On a GPU, ahead of each call: flips of signs, each a launch, and a spin that hides them.
LAUNCHES_S = 2e-4
# Of a block that was discarded: it, its pause and another warm-up.
DISCARDED_S = 30.0
CAUSE = "the clock that timed it is not the machine's, or the work is not done within the timed call"


def held_against_the_clock(record: Record, timed_s: float) -> Record:
    """The record, or an incorrect one without its times. timed_s: seconds of its timing by this process's clock."""
    measurement = record.measurement
    if measurement is None or record.accuracy is None:
        return record
    broken = [check for check in _checks(measurement, timed_s) if not check.passed]
    if not broken:
        return record
    samples = measurement.samples_s
    values = {**record.accuracy.values, "median_s": sorted(samples)[len(samples) // 2], "samples": float(len(samples))}
    accuracy = replace(record.accuracy, checks=(*record.accuracy.checks, *broken), values=values)
    reason = f"its times are not those that passed: {'; '.join(map(str, broken))}{LIKELY_CAUSE}{CAUSE}"
    return replace(record, status="incorrect", reason=reason, accuracy=accuracy, measurement=None)


def sampled_s(measurement: Measurement) -> float:
    """Seconds of all its samples, those that were not kept at the mean of those that were."""
    calls = measurement.calls_per_sample
    means = ((sum(block.samples_s) / len(block.samples_s), block.sample_count) for block in measurement.blocks)
    return sum(mean * count * calls for mean, count in means)


def _checks(measurement: Measurement, timed_s: float) -> Iterator[Check]:
    total_s = sampled_s(measurement)
    limit_s = CLOCKS_AGREE * timed_s + MESSAGES_S
    yield Check(RULE_MORE, total_s, limit_s, total_s <= limit_s)
    if measurement.regime == "burst":  # which idles by intention
        return
    allowed_s = UNSAMPLED * total_s + FIXED_S + (measurement.warmup_s or 0.0)
    calls = sum(block.sample_count for block in measurement.blocks) * measurement.calls_per_sample
    if measurement.timer != "cpu":
        allowed_s += LAUNCHES_S * calls
    if PREPARED_ANEW in measurement.flags:
        allowed_s += UNSAMPLED * calls * measurement.prep_s
    allowed_s += DISCARDED_S * sum(measurement.discarded.values())
    yield Check(RULE_LESS, timed_s, allowed_s, timed_s <= allowed_s)

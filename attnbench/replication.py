"""One record from the records of several fresh processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from attnbench.measurement import Measurement
from attnbench.record import Accuracy, Record


def merge_processes(records: Sequence[Record]) -> Record:
    """One record from one per process: the first that is not ok, or the first with the blocks of all, numbered."""
    failed = next((record for record in records if record.status != "ok"), None)
    if failed is not None:
        return failed
    first = records[0]
    if first.measurement is None:
        return replace(first, accuracy=_worst([record.accuracy for record in records]))
    measurements = [record.measurement for record in records]
    blocks, outliers = [], []
    for process, measurement in enumerate(measurements):
        outliers += [(len(blocks) + block, sample) for block, sample in measurement.outliers]
        blocks += [replace(block, process=process) for block in measurement.blocks]
    took_turns = all(measurement.together for measurement in measurements)  # or its rounds pair with nobody's
    merged: Measurement = replace(
        measurements[0],
        together=measurements[0].together if took_turns else (),
        order_seed=measurements[0].order_seed if took_turns else None,
        blocks=tuple(blocks),
        outliers=tuple(outliers),
        converged=all(measurement.converged for measurement in measurements),
        unmet=tuple(dict.fromkeys(text for measurement in measurements for text in measurement.unmet)),
        discarded=dict(sum((Counter(measurement.discarded) for measurement in measurements), Counter())),
        flags=tuple(dict.fromkeys(flag for measurement in measurements for flag in measurement.flags)),
    )
    warnings = tuple(dict.fromkeys(text for record in records for text in record.warnings))
    return replace(
        first, measurement=merged, warnings=warnings, accuracy=_worst([record.accuracy for record in records])
    )


def _worst(accuracies: Sequence[Accuracy]) -> Accuracy:
    """The accuracy of the process whose largest share of a limit was the largest."""

    def strain(accuracy: Accuracy) -> float:
        return max((check.value / check.limit for check in accuracy.checks if check.limit), default=0.0)

    return max(accuracies, key=strain)

"""Runs that are one run: copied, linked, or grown out of each other. How far copies lie apart says nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from attnbench.records.store import Run

Taken = frozenset[int]


def taken(run: Run) -> Taken:
    """What a run measured, a hash a measurement: machine, case, backend, when it began, and every sample.

    No two measurements share all of that. Empty for a run that timed nothing.
    """
    machine = run.environment.get("machine")
    return frozenset(
        hash((machine if isinstance(machine, str) else None, record.case_key, record.backend,
              tuple((block.start_s, block.arm, block.samples_s) for block in measurement.blocks)))
        for record in run.records if (measurement := record.measurement) is not None
    )  # fmt: skip


def are_copies(one: Taken, other: Taken) -> bool:
    """Whether more than half of what the smaller one measured is in the other: whatever the runs are called, wherever
    they lie, and whatever was added to one of them, or changed in it, afterwards."""
    return 2 * len(one & other) > min(len(one), len(other))


def without_copies(runs: Sequence[Run]) -> tuple[tuple[Run, ...], tuple[tuple[Run, Run], ...]]:
    """(each run once: of copies the one with the most measurements, the first of equals; (left out, kept) pairs)."""
    sizes = {id(run): taken(run) for run in runs}
    kept: list[Run] = []
    left_out: list[tuple[Run, Run]] = []
    for run in sorted(runs, key=lambda run: -len(sizes[id(run)])):
        twin = next((one for one in kept if are_copies(sizes[id(one)], sizes[id(run)])), None)
        if twin is None:
            kept.append(run)
        else:
            left_out.append((run, twin))
    return tuple(run for run in runs if any(run is one for one in kept)), tuple(left_out)


def shared(base: Iterable[Run], new: Iterable[Run]) -> tuple[Run, Run] | None:
    """A run of BASE and one of NEW that are copies; None where there are none."""
    fresh = [(run, taken(run)) for run in new]
    for run in base:
        measured = taken(run)
        for other, others in fresh:
            if are_copies(measured, others):
                return run, other
    return None

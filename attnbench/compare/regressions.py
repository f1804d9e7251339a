"""What a comparison looks at besides time: right or wrong, error growth, peak memory, static figures of kernels.

None of these is noisy as times are, so plain limits do; each has its reason here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attnbench.records.measurement import ALLOCATOR
from attnbench.records.record import RELATIVE_RMSE, Record
from attnbench.units import error, show_bytes

# Another order of rounding (tile width, split keys) moves an error by a few percent; what exceeds the largest of the
# baseline's runs by this factor is another way of computing.
ERROR_GROWTH = 1.10
# Allocators round, and a run's first case pays for workspaces: growth up to both of these is none.
MEMORY_GROWTH = 1.02
MEMORY_SLACK_BYTES = 2**20
# Registers are allocated to a thread in units of 8, shared memory to a block in units of 1 KiB (NVIDIA's occupancy
# tables for compute capability 9.0): growth within a unit costs nothing. Every spilled byte costs.
_KERNEL_UNITS = {"registers": 8, "shared_bytes": 1024, "spill_store_bytes": 1, "spill_load_bytes": 1}
_KERNEL_WORDS = {"registers": "registers", "shared_bytes": "bytes of shared memory",
                 "spill_store_bytes": "bytes of spill stores", "spill_load_bytes": "bytes of spill loads"}  # fmt: skip

WRONG, BROKEN, ERROR, MEMORY, KERNEL, NOTE = "incorrect", "error", "error growth", "memory", "kernel", "note"
# What failed in every run of the baseline and fails in the same way now (a case that is too large for the card, say):
# no regression, and nothing that was compared, so that the gate is incomplete until the suite leaves it out.
FAILS_AS_BEFORE = "fails as before"
REGRESSIONS = (WRONG, ERROR, MEMORY, KERNEL)


@dataclass(frozen=True, slots=True)
class Change:
    """Something about one case: worse than it was, as bad (FAILS_AS_BEFORE), or worth knowing (NOTE)."""

    kind: str
    text: str


def changes(base: Sequence[Record], new: Sequence[Record]) -> Iterator[Change]:
    """What is worse in any record of `new` (one a run) than in all of `base`, which is empty for a case that is new."""
    yield from _correctness(base, new)
    right = [record for record in base if record.status == "ok"]
    if right:
        for record in new:
            if record.status == "ok":
                yield from _error_growth(right, record)
                yield from _memory_growth(right, record)
                yield from _kernel_growth(right, record)


def _correctness(base: Sequence[Record], new: Sequence[Record]) -> Iterator[Change]:
    before = {record.status for record in base}
    failures = {(record.status, record.kind) for record in base}
    for record in new:
        if record.status == "incorrect" and before == {"incorrect"}:
            yield Change(BROKEN, f"incorrect as before, so nothing was compared: {_first_line(record)}")
        elif record.status == "incorrect":
            was = "was right" if "ok" in before else "not in the baseline" if not before else "was not judged"
            yield Change(WRONG, f"{was}, is incorrect: {_first_line(record)}")
        elif record.kind == "hazard" and failures != {("error", "hazard")}:
            yield Change(WRONG, f"has a hazard: {_first_line(record)}")
        elif record.status == "error" and failures == {("error", record.kind)}:
            was = f"{record.kind} in every run of the baseline and now: {_first_line(record)}"
            yield Change(FAILS_AS_BEFORE, f"{was}; `exclude` in the suite leaves such a case out")
        elif record.status == "error":
            as_before = " as before" if "error" in before else ""
            yield Change(BROKEN, f"{record.kind}{as_before}: {_first_line(record)}")
    if "incorrect" in before and all(record.status == "ok" for record in new):
        times = sum(record.status == "incorrect" for record in base)
        yield Change(NOTE, f"incorrect in {times} of {len(base)} runs of the baseline, right now")


def _error_growth(base: Sequence[Record], new: Record) -> Iterator[Change]:
    for name, now in _errors(new).items():
        before = [errors[name] for errors in map(_errors, base) if name in errors]
        if before and now > ERROR_GROWTH * max(before):
            least, most = error(min(before)), error(max(before))
            over = f" ({now / max(before):.2f}x, limit {ERROR_GROWTH:g}x)" if max(before) > 0 else ""
            interval = most if least == most else f"{least} to {most}"
            yield Change(ERROR, f"{name} {interval} before, {error(now)} now{over}")


def _errors(record: Record) -> dict[str, float]:
    """The end-to-end errors of a record: relative RMSE as last judged, and E3 of an e4m3 case."""
    accuracy = record.accuracy
    if accuracy is None:
        return {}
    found = {check.rule: check.value for check in accuracy.checks if check.rule == RELATIVE_RMSE}
    return found | ({"E3": accuracy.values["e3"]} if "e3" in accuracy.values else {})


def _memory_growth(base: Sequence[Record], new: Record) -> Iterator[Change]:
    before = [peak for peak in map(_peak_bytes, base) if peak is not None]
    now = _peak_bytes(new)
    if before and now is not None:
        most = max(before)
        if now > most * MEMORY_GROWTH and now - most > MEMORY_SLACK_BYTES:
            yield Change(MEMORY, f"peak memory {show_bytes(most)} before, {show_bytes(now)} now")


def _peak_bytes(record: Record) -> int | None:
    """As an allocator counted it: what the process held differs from run to run by more than a regression does."""
    measurement = record.measurement
    return None if measurement is None or measurement.peak_by != ALLOCATOR else measurement.peak_bytes


def _kernel_growth(base: Sequence[Record], new: Record) -> Iterator[Change]:
    if new.kernel is None:
        return
    compiler = new.kernel.get("compiler")
    alike = [record.kernel for record in base if record.kernel and record.kernel.get("compiler") == compiler]
    if not alike:
        if any(record.kernel for record in base):
            yield Change(NOTE, "static figures are of another compiler than the baseline's: not compared")
        return
    for name, unit in _KERNEL_UNITS.items():
        before = [figure for figure in (_figure(kernel, name) for kernel in alike) if figure is not None]
        now = _figure(new.kernel, name)
        if before and now is not None and -(-now // unit) > -(-max(before) // unit):
            yield Change(KERNEL, f"{_KERNEL_WORDS[name]}: {max(before):,} before, {now:,} now")


def _figure(kernel: Mapping[str, Any], name: str) -> int | None:
    value = kernel.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _first_line(record: Record) -> str:
    return next(iter(record.reason.strip().splitlines()), "")

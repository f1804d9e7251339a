"""A backend that passed its checks, ready to be timed on input sets of its own, and judged again afterwards."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from attnbench.backend import Backend, Call, ContractError, Inputs, Outputs
from attnbench.correctness.contract import check_contract, guarded_call
from attnbench.correctness.judge import judge
from attnbench.prep_timing import time_prep_call
from attnbench.records.measurement import Measurement
from attnbench.records.record import Accuracy, Record
from attnbench.reference.inputs import checksums, in_place_of, input_bytes
from attnbench.rotation import rotation, rotation_warning
from attnbench.timing.timers import make_flush, make_timer

if TYPE_CHECKING:
    from attnbench.bench import Bench
    from attnbench.case import Case


@dataclass(frozen=True, slots=True)
class Checked:
    """A backend that passed its checks on a bench's case, with the record that says so, nothing timed yet.

    first_call_s: what its very first prepare and call took, compilation and autotuning included.
    """

    backend: Backend
    record: Record
    first_call_s: float


class Prepared:
    """A checked backend's calls, one per input set, and its timer.

    inputs: the set that the last timed buffers are judged against; held: all backends prepared at the same time.
    """

    def __init__(self, bench: Bench, checked: Checked, inputs: Inputs, held: Sequence[Backend]):
        self.bench, self.checked, self._inputs = bench, checked, inputs
        with bench.phases("prepare"):
            first, self._prep_s, self._peak_bytes = _prepare_watched(bench.case, checked.backend, inputs)
            self.calls = rotation(bench, checked.backend, inputs, first, held)
        self.timer = make_timer(bench.timing.timer, bench.device, len(self.calls))

    @property
    def name(self) -> str:
        return self.checked.backend.name

    def flush(self) -> Callable[[], None] | None:
        """What empties the cache ahead of a sample; None in the regime where the rotation keeps it cold."""
        bench = self.bench
        return make_flush(bench.device, bench.cache_bytes) if bench.timing.regime == "burst" else None

    def record(self, measurement: Measurement) -> Record:
        """The record with its measurement, or an incorrect one where timed outputs are wrong. Raises ContractError."""
        bench, base = self.bench, self.checked.record
        compile_s = max(0.0, self.checked.first_call_s - statistics.median(measurement.samples_s))
        with bench.phases("time"):
            prep_call = time_prep_call(bench, self.checked.backend, self._inputs)
        measurement = replace(
            measurement, prep_s=self._prep_s, prep_call=prep_call, compile_s=compile_s, peak_bytes=self._peak_bytes
        )
        if checksums(self._inputs) != bench.checksums:
            raise ContractError("it wrote its inputs: their checksum changed")
        with bench.phases("recheck"):
            failure = self._recheck(self.timer.last())
        if failure is not None:
            accuracy = replace(base.accuracy, checks=(*base.accuracy.checks, *failure.failures), recheck="failed")
            reason = f"right when checked, wrong after timing: {'; '.join(str(check) for check in failure.failures)}"
            return replace(base, status="incorrect", reason=reason, accuracy=accuracy)
        accuracy = replace(base.accuracy, recheck="last timed buffers; fresh inputs")
        warnings = base.warnings + rotation_warning(bench, len(self.calls))
        return replace(base, accuracy=accuracy, measurement=measurement, warnings=warnings)

    def _recheck(self, last: Outputs) -> Accuracy | None:
        """Judges the last timed buffers and a call on fresh inputs; the failed accuracy, or None when both pass.

        The fresh inputs lie where the timed ones were: an answer kept by address is as stale as one kept for ever.
        """
        bench, backend = self.bench, self.checked.backend
        check_contract(bench.case, self._inputs, last)
        factors = bench.checks.factors
        accuracy = judge(bench.reference, backend, last, factors)
        if not accuracy.passed:
            return accuracy
        fresh = bench.fresh
        with in_place_of(self._inputs, fresh.inputs) as inputs:
            before = checksums(inputs)
            outputs, _ = guarded_call(bench.case, backend, inputs)
            if checksums(inputs) != before:
                raise ContractError("it wrote its inputs: their checksum changed during a call after timing")
        accuracy = judge(fresh, backend, outputs, factors)
        return None if accuracy.passed else accuracy


def _prepare_watched(case: Case, backend: Backend, inputs: Inputs) -> tuple[Call, float, int | None]:
    """The call, the seconds that preparing it took, and the peak memory of one call with its inputs (None on the CPU,
    where nobody counts)."""
    import torch

    if not inputs.q.is_cuda:
        started = time.perf_counter()
        return backend.prepare(case, inputs), time.perf_counter() - started, None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    started = time.perf_counter()
    call = backend.prepare(case, inputs)
    torch.cuda.synchronize()
    prep_s = time.perf_counter() - started
    call()
    torch.cuda.synchronize()
    return call, prep_s, torch.cuda.max_memory_allocated() - held + input_bytes(case)

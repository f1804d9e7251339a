"""A backend that passed its checks, ready to be timed on input sets of its own, and judged again afterwards."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

from attnbench.backend import Base, Call, ContractError, Inputs, Outputs, PrepCall
from attnbench.case import Case
from attnbench.correctness.contract import check_contract, guarded_call
from attnbench.correctness.determinism import first_difference
from attnbench.correctness.judge import judge
from attnbench.machine.facts import available_memory_bytes
from attnbench.records.measurement import ALLOCATOR, REFERENCE_PREP, Measurement, PrepTiming
from attnbench.records.record import LIKELY_CAUSE, Accuracy, Record
from attnbench.reference.inputs import checksums, copy_inputs, in_place_of, input_bytes, written
from attnbench.timing.measure import in_turn
from attnbench.timing.sampling import KEPT_DIGITS, Timer
from attnbench.timing.stopping import IN_WORDS
from attnbench.timing.timers import make_flush, make_timer
from attnbench.worker.memory import Peak, cpu_peak

if TYPE_CHECKING:
    from attnbench.worker.problem import Problem
# What most likely is wrong where other inputs get the same bits.
KEPT_ANSWER = "it gave the answer of earlier inputs again: kept by their shape or address, not made of their numbers"


@dataclass(frozen=True, slots=True)
class Checked:
    """A backend that passed its checks on a problem's case, with the record that says so, nothing timed yet.

    first_call_s: what its very first prepare and call took, compilation and autotuning included.
    """

    backend: Base
    record: Record
    first_call_s: float


class Prepared:
    """A checked backend's calls, one per input set, and its timer.

    inputs: the set that the last timed buffers are judged against; held: all backends prepared at the same time.
    """

    def __init__(self, problem: Problem, checked: Checked, inputs: Inputs, held: Sequence[Base]):
        self.problem, self.checked, self._inputs = problem, checked, inputs
        with problem.phases("prepare"):
            first, self._prep_s, self._peak = _prepare_watched(
                problem.case, checked.backend, inputs, problem.phases.again
            )
            self.calls = rotation(problem, checked.backend, inputs, first, held)
        self.timer = make_timer(problem.timing.timer, problem.device, len(self.calls))

    @property
    def name(self) -> str:
        return self.checked.backend.name

    def flush(self) -> Callable[[], None] | None:
        """What empties the cache ahead of a sample; None in the regime where the rotation keeps it cold."""
        problem = self.problem
        return make_flush(problem.device, problem.cache_bytes) if problem.timing.regime == "burst" else None

    def record(self, measurement: Measurement) -> Record:
        """The record with its measurement, or an incorrect one where timed outputs are wrong. Raises ContractError."""
        problem, base = self.problem, self.checked.record
        compile_s = max(0.0, self.checked.first_call_s - statistics.median(measurement.samples_s))
        with problem.phases("time"):
            prep_call = time_prep_call(problem, self.checked.backend, self._inputs)
        measurement = replace(measurement, prep_s=self._prep_s, prep_call=prep_call, compile_s=compile_s)
        if self._peak is not None:
            measurement = replace(measurement, peak_bytes=self._peak.bytes, peak_by=self._peak.by)
        if names := written(self._inputs, problem.checksums):
            raise ContractError(f"it wrote its inputs: {names} changed")
        with problem.phases("recheck"):
            failure, cause = self._recheck(self.timer.last())
        assert base.accuracy is not None, "what is timed was checked"
        if failure is not None:
            accuracy = replace(base.accuracy, checks=(*base.accuracy.checks, *failure.failures), recheck="failed")
            failed = "; ".join(str(check) for check in failure.failures)
            reason = f"right when checked, wrong after timing: {failed}" + (LIKELY_CAUSE + cause if cause else "")
            return replace(base, status="incorrect", reason=reason, accuracy=accuracy)
        accuracy = replace(base.accuracy, recheck="last timed buffers; fresh inputs")
        doubts = tuple(words for flag, words in IN_WORDS.items() if flag in measurement.flags)
        warnings = base.warnings + rotation_warning(problem, len(self.calls)) + doubts
        return replace(base, accuracy=accuracy, measurement=measurement, warnings=warnings)

    def _recheck(self, last: Outputs) -> tuple[Accuracy | None, str]:
        """Judges the last timed buffers and a call on fresh inputs; the failed accuracy, or None when both pass, and
        what most likely is wrong.

        The fresh inputs lie where the timed ones were: an answer kept by address is as stale as one kept for ever.
        """
        problem, backend = self.problem, self.checked.backend
        check_contract(problem.case, self._inputs, last)
        factors = problem.checks.factors
        accuracy = judge(problem.reference, backend, last, factors)
        if not accuracy.passed:
            return accuracy, ""
        fresh = problem.fresh
        kept = replace(last, out=last.out.clone(), lse=None if last.lse is None else last.lse.clone())
        with in_place_of(self._inputs, fresh.inputs) as inputs:
            before = checksums(inputs)
            problem.phases.again()
            outputs, _ = guarded_call(problem.case, backend, inputs)
            if names := written(inputs, before):
                raise ContractError(f"it wrote its inputs: {names} changed during a call after timing")
        accuracy = judge(fresh, backend, outputs, factors)
        if accuracy.passed:
            return None, ""
        return accuracy, "" if first_difference(kept, outputs) else KEPT_ANSWER


def _prepare_watched(
    case: Case, backend: Base, inputs: Inputs, alive: Callable[[], None]
) -> tuple[Call, float, Peak | None]:
    """The call, the seconds that preparing it took, and the peak memory of a preparation and a call, inputs included
    (None where it could not be told). alive: called ahead of each call.
    """
    import torch

    if not inputs.q.is_cuda:

        def anew() -> Outputs:  # of its own, ahead of what is timed: the meters take time
            alive()
            return backend.prepare(case, inputs)()

        found = None if backend.keeps_memory else cpu_peak(anew)
        alive()
        started = time.perf_counter()
        call = backend.prepare(case, inputs)
        return call, time.perf_counter() - started, found and replace(found, bytes=found.bytes + input_bytes(case))
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    started = time.perf_counter()
    call = backend.prepare(case, inputs)
    torch.cuda.synchronize()
    prep_s = time.perf_counter() - started
    call()
    torch.cuda.synchronize()
    return call, prep_s, Peak(torch.cuda.max_memory_allocated() - held + input_bytes(case), ALLOCATOR)


# Input sets that are called in turn, so that each call finds the cache cold.

# Input sets for a cold cache: enough to hold this many caches, within this share of memory and so long a preparation.
CACHES_ROTATED = 5
ROTATION_MEMORY_SHARE = 0.25
ROTATION_PREPARE_S = 2.0


def rotation(problem: Problem, backend: Base, inputs: Inputs, first: Call, held: Sequence[Base]) -> list[Call]:
    """The first call, on `inputs`, and one on each further set: as many as a cold cache takes, memory holds for all of
    `held` (the backends that are prepared at the same time), or ROTATION_PREPARE_S allows."""
    calls, started = [first], time.perf_counter()
    sets = _input_sets(problem, held)
    while len(calls) < sets and time.perf_counter() - started < ROTATION_PREPARE_S:
        problem.phases.alive()
        calls.append(backend.prepare(problem.case, copy_inputs(inputs)))
    return calls


def set_bytes(case: Case, held: Sequence[Base]) -> int:
    """What one input set of each takes, with what each backend says that it needs beside its inputs."""
    return sum(input_bytes(case) + int(backend.extra_bytes(case)) for backend in held)


def _input_sets(problem: Problem, held: Sequence[Base]) -> int:
    if problem.timing.cache == "warm" or problem.timing.regime == "burst":
        return 1
    memory = available_memory_bytes(problem.device) * ROTATION_MEMORY_SHARE
    return max(1, min(_sets_for_cold(problem), int(memory // set_bytes(problem.case, held))))


def _sets_for_cold(problem: Problem) -> int:
    size = input_bytes(problem.case)
    rotated = CACHES_ROTATED * problem.cache_bytes
    return 1 if size > rotated else -(-rotated // size) + 1


def rotation_warning(problem: Problem, sets: int) -> tuple[str, ...]:
    wanted = _sets_for_cold(problem)
    if problem.timing.cache == "warm" or problem.timing.regime == "burst" or sets >= wanted:
        return ()
    return (f"cache partly warm: {sets} input sets in turn, {wanted} would hold {CACHES_ROTATED} times the cache",)


# The time of what use repeats ahead of every call, quantization, beside the time of the call itself.
#
# FlashAttention-3 and its peers report FP8 kernels without it; a kernel is only as fast as what has to run before it.

# A figure beside the headline: this long, and within these numbers of samples, is enough for its median.
PREP_TIME_S = 0.3
LEAST_SAMPLES, MOST_SAMPLES = 3, 30
WARMUP_CALLS = 2


def time_prep_call(problem: Problem, backend: Base, inputs: Inputs) -> PrepTiming | None:
    """Of the backend's own preparation; for a backend that starts from the reference quantizer's tensors, of that.

    None where nothing of the preparation is repeated, or where a backend with a quantizer of its own does not give it.
    """
    case = problem.case
    own = backend.prep_call(case, inputs)
    if own is not None:
        return _timed(problem, own)
    if not case.is_fp8 or backend.own_quantizer:
        return None
    if problem.reference_prep is None:
        from attnbench.reference.quantize import quantize

        reference = PrepCall(REFERENCE_PREP, lambda: quantize(inputs.q, inputs.k, inputs.v, case))
        problem.reference_prep = _timed(problem, reference)
    return problem.reference_prep


def _timed(problem: Problem, prep: PrepCall) -> PrepTiming:
    timing = problem.timing
    timer = make_timer(timing.timer, problem.device, 1)
    # One input set, so the cache is emptied ahead of each sample; but for captured graphs, which cannot, and for the
    # CPU, where that takes a hundred times as long as what is timed.
    cold = timing.cache == "cold" and timer.name == "events"
    flush = make_flush(problem.device, problem.cache_bytes) if cold else None
    return sample(prep, timer, flush, problem.phases.alive)


def sample(
    prep: PrepCall, timer: Timer, before: Callable[[], None] | None, alive: Callable[[], None] = lambda: None
) -> PrepTiming:
    """Samples of a preparation: about PREP_TIME_S of them after a warm-up; `before` runs, untimed, ahead of each.

    alive: called ahead of each call.
    """
    calls = in_turn([cast("Call", prep.call)], alive)  # only a timer's `last` asks what a call returned
    estimate_s = statistics.median(timer.take(calls, WARMUP_CALLS, 1, before))
    per_sample = timer.region(estimate_s)
    count = max(LEAST_SAMPLES, min(MOST_SAMPLES, int(PREP_TIME_S / (estimate_s * per_sample))))
    taken = timer.take(calls, count, per_sample, before)
    kept = tuple(float(f"{one:.{KEPT_DIGITS}g}") for one in taken)
    return PrepTiming(prep.about, kept, per_sample, "cold" if before is not None and per_sample == 1 else "warm")

"""A backend that passed its checks, ready to be timed on input sets of its own, and judged again afterwards."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

from attnbench.backend import Base, Call, ContractError, Inputs, Outputs, PrepCall, as_returned, copies
from attnbench.case import Case
from attnbench.contract import check_contract
from attnbench.correctness.contract import guarded_call
from attnbench.correctness.determinism import first_difference
from attnbench.correctness.judge import judge
from attnbench.machine.facts import available_memory_bytes
from attnbench.records.measurement import ALLOCATOR, PREPARED_ANEW, REFERENCE_PREP, Measurement, PrepTiming
from attnbench.records.record import LIKELY_CAUSE, Accuracy, Check, Record
from attnbench.reference.inputs import checksums, copy_inputs, input_bytes, written
from attnbench.reference.signs import SignedInputs, Signs
from attnbench.timing.again import slower_when_changed
from attnbench.timing.measure import Turns
from attnbench.timing.sampling import KEPT_DIGITS, Timer
from attnbench.timing.stopping import IN_WORDS
from attnbench.timing.timers import make_flush, make_timer
from attnbench.worker.memory import Peak, cpu_peak

if TYPE_CHECKING:
    from attnbench.worker.problem import Problem
# What most likely is wrong where other inputs get the same bits.
KEPT_ANSWER = "it gave the answer of earlier inputs again: kept by their shape or address, not made of their numbers"
# Of a call that is over before the work can be.
NOT_IN_THE_CALL = "the work is not done within the timed call, or the clock is not the machine's"


@dataclass(frozen=True, slots=True)
class Checked:
    """A backend that passed its checks on a problem's case, with the record that says so, nothing timed yet.

    first_call_s: what its very first prepare and call took, compilation and autotuning included. outputs: a copy of
    those that passed.
    """

    backend: Base
    record: Record
    first_call_s: float
    outputs: Outputs


class WrongWhenTimed(Exception):
    """What was right when it was checked is wrong while it is timed; `record` says how."""

    def __init__(self, record: Record):
        super().__init__(record.reason)
        self.record = record


class Prepared:
    """A checked backend's calls, one per input set, whose signs change from call to call, and its timer.

    inputs: the set that the last timed buffers are judged against, a copy of the checked one; held: all backends
    prepared at the same time.
    """

    def __init__(self, problem: Problem, checked: Checked, held: Sequence[Base]):
        self.problem, self.checked = problem, checked
        self._inputs = own_copy(checked.backend, problem.reference.inputs)
        with problem.phases("prepare"):
            first, self._prep_s, self._peak = _prepare_watched(
                problem.case, checked.backend, self._inputs, problem.phases.again
            )
            self.calls, sets = rotation(problem, checked.backend, self._inputs, first, held)
        signs = Signs(self._inputs, problem.sign_seed(checked.backend.name))
        self._signed = [SignedInputs(inputs, signs) for inputs in sets]
        self._again_s: list[float] = []
        self._drawn: list[tuple[Outputs, bool, int]] = []  # what the timer handed on of the last batch
        self.turns = Turns(self.calls, problem.phases.alive, self._renew, self._keep)
        seed = problem.sign_seed(checked.backend.name)
        own = checked.backend.own_timer(problem.case, len(self.calls), seed)
        if own is not None:
            own.judge = self.judge_one
        made = own or make_timer(problem.timing.timer, problem.device, len(self.calls))
        self.timer: Timer = made
        for place in range(len(self.calls)):  # or the first calls would all see the numbers that were checked
            self._renew(place)

    def _renew(self, place: int) -> None:
        """Other signs for an input set; where the backend keeps a copy of its inputs, it is prepared anew."""
        started = time.perf_counter()
        self._signed[place].renew()
        backend = self.checked.backend
        if copies(backend, self.problem.case):
            began = time.perf_counter()
            self.calls[place] = backend.prepare(self.problem.case, self._signed[place].inputs)
            self._again_s.append(time.perf_counter() - began)
        self.problem.phases.spent("signs", time.perf_counter() - started)

    def _keep(self, outputs: Outputs) -> None:
        """What a call returned that the timer drew, as it is when the call returns, before its inputs change again."""
        check_contract(self.problem.case, self._inputs, outputs)
        self._drawn.append(self._without_signs(as_returned(outputs), self.turns.last))

    def _without_signs(self, outputs: Outputs, place: int) -> tuple[Outputs, bool, int]:
        """The outputs as they would be without the signs of an input set; whether they are those of the checked inputs,
        signs or not; and the set's place."""
        started = time.perf_counter()
        found = self._signed[place].plain(outputs), same_numbers(self.checked.outputs, outputs), place
        self.problem.phases.spent("signs", time.perf_counter() - started)
        return found

    def judge_last(self) -> None:
        """Holds what drawn calls of the last batch returned against the answer that passed: the same bits but for the
        flipped columns, else within the limits on a few rows. Raises WrongWhenTimed and ContractError."""
        if not self._drawn:  # of a timer that hands nothing on
            self.judge_one(0, self.timer.last())
        drawn, self._drawn = self._drawn, []
        for plain, stale, place in drawn:
            self._judge_plain(plain, stale, place)

    def judge_one(self, ago: int, outputs: Outputs) -> None:
        """The same of what a call returned that was so many turns ago, and whose inputs have not changed since."""
        check_contract(self.problem.case, self._inputs, outputs)
        self._judge_plain(*self._without_signs(outputs, (self.turns.last - ago) % len(self._signed)))

    def _judge_plain(self, plain: Outputs, stale: bool, place: int) -> None:
        started = time.perf_counter()
        if not same_numbers(self.checked.outputs, plain):
            accuracy = self.problem.judged_at_few_rows(self.problem.spot, self.checked.backend, plain)
            if not accuracy.passed:
                signed = self._signed[place]
                signed.restore()
                self._refuse_written(signed.inputs)
                raise WrongWhenTimed(self._wrong(accuracy, "while it was timed", KEPT_ANSWER if stale else ""))
        self.problem.phases.spent("signs", time.perf_counter() - started)

    def _refuse_written(self, inputs: Inputs) -> None:
        """Raises ContractError unless a set, whose signs are those of the checked inputs again, holds their numbers."""
        if names := written(inputs, self.problem.checksums):
            raise ContractError(f"it wrote its inputs: {names} changed")

    def _wrong(self, accuracy: Accuracy, when: str, cause: str) -> Record:
        base = self.checked.record
        assert base.accuracy is not None, "what is timed was checked"
        failed = "; ".join(str(check) for check in accuracy.failures)
        reason = f"right when checked, wrong {when}: {failed}" + (LIKELY_CAUSE + cause if cause else "")
        accuracy = replace(base.accuracy, checks=(*base.accuracy.checks, *accuracy.failures), recheck="failed")
        return replace(base, status="incorrect", reason=reason, accuracy=accuracy)

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
        last = self._signed[self.turns.last].plain(self.timer.last())
        handover_s = getattr(self.timer, "handover_s", None)  # of the samples, not of what is timed after them
        kept = self._kept_per_input(statistics.median(measurement.samples_s))
        for signed in self._signed:
            signed.restore()
        compile_s = max(0.0, self.checked.first_call_s - statistics.median(measurement.samples_s))
        with problem.phases("time"):
            prep_call = time_prep_call(problem, self.checked.backend, self._inputs)
        prep_s = statistics.median(self._again_s) if self._again_s else self._prep_s
        measurement = replace(measurement, prep_s=prep_s, prep_call=prep_call, compile_s=compile_s)
        measurement = replace(measurement, handover_s=handover_s)
        if copies(self.checked.backend, problem.case):
            measurement = replace(measurement, flags=(*measurement.flags, PREPARED_ANEW))
        if self._peak is not None:
            measurement = replace(measurement, peak_bytes=self._peak.bytes, peak_by=self._peak.by)
        self._refuse_written(self._inputs)
        with problem.phases("recheck"):
            failure, cause = self._recheck(last)
        assert base.accuracy is not None, "what is timed was checked"
        if failure is not None:
            return self._wrong(failure, "after timing", cause)
        call_s = statistics.median(measurement.samples_s)
        if PREPARED_ANEW in measurement.flags:  # the work may be there
            call_s += prep_s
        broken = problem.ceilings.beyond(problem.case, call_s, len(self.calls) * input_bytes(problem.case))
        if broken:
            return self._impossible(broken, measurement)
        accuracy = replace(base.accuracy, recheck="a buffer of every batch; fresh inputs")
        doubts = tuple(words for flag, words in IN_WORDS.items() if flag in measurement.flags)
        warnings = base.warnings + rotation_warning(problem, len(self.calls)) + doubts
        warnings += (*problem.ceilings.warning(problem.case, call_s), *kept)
        return replace(base, accuracy=accuracy, measurement=measurement, warnings=warnings)

    def _kept_per_input(self, median_s: float) -> tuple[str, ...]:
        """The warning that calls on unchanged inputs are faster, where they are."""
        backend, timing = self.checked.backend, self.problem.timing
        if self.timer.name == "graph" or timing.regime == "burst" or copies(backend, self.problem.case):
            return ()
        signed, call = self._signed[self.turns.last], self.calls[self.turns.last]

        def take(changed: bool) -> float:
            self.problem.phases.alive()
            time_s: float
            (time_s,) = self.timer.take(itertools.repeat(call), 1, 1, signed.renew if changed else signed.rewrite)
            return time_s

        with self.problem.phases("time"):
            slower = slower_when_changed(take, median_s)
        if slower is None:
            return ()
        words = f"the first call after its inputs changed takes {slower:.2g} times the next on the same: it keeps work"
        return (f"{words} per input; the time told is that of changed inputs",)

    def _impossible(self, broken: Sequence[Check], measurement: Measurement) -> Record:
        """Right, and faster than the machine can be: what was timed was not the work."""
        base = self.checked.record
        assert base.accuracy is not None, "what is timed was checked"
        samples = measurement.samples_s
        values = {**base.accuracy.values, "median_s": statistics.median(samples), "samples": float(len(samples))}
        accuracy = replace(base.accuracy, checks=(*base.accuracy.checks, *broken), values=values)
        reason = f"faster than this machine can be: {'; '.join(map(str, broken))}{LIKELY_CAUSE}{NOT_IN_THE_CALL}"
        return replace(base, status="incorrect", reason=reason, accuracy=accuracy)

    def _recheck(self, last: Outputs) -> tuple[Accuracy | None, str]:
        """Judges the last timed buffers, with the signs of the checked inputs, and a call on fresh inputs; the failed
        accuracy, or None when both pass, and what most likely is wrong.

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
        with problem.fresh_in_place(self._inputs) as inputs:
            before = checksums(inputs)
            problem.phases.again()
            outputs, _ = guarded_call(problem.case, backend, inputs)
            if names := written(inputs, before):
                raise ContractError(f"it wrote its inputs: {names} changed during a call after timing")
        accuracy = problem.judged_at_few_rows(fresh, backend, outputs)
        if accuracy.passed:
            return None, ""
        return accuracy, "" if first_difference(kept, outputs) else KEPT_ANSWER


def same_numbers(one: Outputs, other: Outputs) -> bool:
    """Whether both are equal throughout, 0 and -0 as well."""
    import torch

    if (one.lse is None) != (other.lse is None) or not torch.equal(one.out, other.out):
        return False
    return one.lse is None or other.lse is None or torch.equal(one.lse, other.lse)


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


def rotation(
    problem: Problem, backend: Base, inputs: Inputs, first: Call, held: Sequence[Base]
) -> tuple[list[Call], list[Inputs]]:
    """The first call, on `inputs`, and one on each further set: as many as a cold cache takes, memory holds for all of
    `held` (the backends that are prepared at the same time), or ROTATION_PREPARE_S allows. Beside them, the sets."""
    calls, sets, started = [first], [inputs], time.perf_counter()
    wanted = _input_sets(problem, held)
    while len(calls) < wanted and time.perf_counter() - started < ROTATION_PREPARE_S:
        problem.phases.alive()
        sets.append(own_copy(backend, inputs))
        calls.append(backend.prepare(problem.case, sets[-1]))
    return calls, sets


def own_copy(backend: Base, inputs: Inputs) -> Inputs:
    """The same numbers in memory that the backend's calls see."""
    return backend.input_set(inputs) or copy_inputs(inputs)


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
    calls = Turns([cast("Call", prep.call)], alive)  # only a timer's `last` asks what a call returned
    estimate_s = statistics.median(timer.take(calls, WARMUP_CALLS, 1, before))
    per_sample = timer.region(estimate_s)
    count = max(LEAST_SAMPLES, min(MOST_SAMPLES, int(PREP_TIME_S / (estimate_s * per_sample))))
    taken = timer.take(calls, count, per_sample, before)
    kept = tuple(float(f"{one:.{KEPT_DIGITS}g}") for one in taken)
    return PrepTiming(prep.about, kept, per_sample, "cold" if before is not None and per_sample == 1 else "warm")

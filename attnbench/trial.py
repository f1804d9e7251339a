"""One backend on one case: prepare, check, time, check again, and the record of it.

Everything wide is caught here, at the worker's edge, and becomes a status; what kills the process becomes one in `run`.
"""

from __future__ import annotations

import json
import statistics
import time
import traceback
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Callable, Iterator

from attnbench.backend import Backend, Call, Outputs, extra_bytes, kernel_facts, trait
from attnbench.case import Case
from attnbench.contract import check_contract, checksums, guarded_call
from attnbench.environment import available_memory_bytes
from attnbench.error_sources import drawn_oracle, rmse_drawn, source_errors
from attnbench.examine import examine
from attnbench.inputs import copy_inputs, in_place_of, input_bytes, make_inputs
from attnbench.judge import Factors, Reference, judge, make_reference
from attnbench.plugins import ContractError
from attnbench.record import Accuracy, Record
from attnbench.suite_model import Checks, Timing
from attnbench.timers import make_flush, make_timer
from attnbench.timing import measure

# What of the device's memory a case may plan to use; the rest is the allocator's and other programs'.
MEMORY_SHARE = 0.8
# Input sets for a cold cache: enough to hold this many caches, within this share of memory and so long a preparation.
CACHES_ROTATED = 5
ROTATION_MEMORY_SHARE = 0.25
ROTATION_PREPARE_S = 2.0
REASON_CHARACTERS = 2000
OWN_FOLDER = Path(__file__).parent
FRESH = 1  # the input set of the recheck: other numbers than the checked ones


@dataclass
class Phases:
    """Seconds spent per phase, and a word to whoever watches when a phase begins."""

    announce: Callable[[str], None] = lambda phase: None
    spent_s: dict[str, float] = field(default_factory=dict)
    _open: list[str] = field(default_factory=list)

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """A phase may lie inside another: its time is then its own, and the other is announced again at its end."""
        self._open.append(phase)
        self.announce(phase)
        started = time.perf_counter()
        try:
            yield
        finally:
            spent_s = time.perf_counter() - started
            self._open.pop()
            self.spent_s[phase] = self.spent_s.get(phase, 0.0) + spent_s
            if self._open:
                self.spent_s[self._open[-1]] = self.spent_s.get(self._open[-1], 0.0) - spent_s
                self.announce(self._open[-1])


class Bench:
    """The inputs and references of one case, made when first needed and shared by all its backends."""

    def __init__(
        self, case: Case, device: str, checks: Checks, timing: Timing, cache_bytes: int, phases: Phases,
        bits: str | None = None,
    ):  # fmt: skip
        """bits: a folder where the outputs of another process lie, or are to be left for one."""
        self.case, self.device, self.checks, self.timing, self.bits = case, device, checks, timing, bits
        self.cache_bytes, self.phases = cache_bytes, phases
        self._reference: Reference | None = None
        self._fresh: Reference | None = None
        self._checksums: list[int] = []
        self._sources: tuple[Any, dict[str, float]] | None = None
        self.posed: dict[tuple[Case, int], Reference] = {}  # what probes pose at this case's shape; see `lab`

    @property
    def reference(self) -> Reference:
        if self._reference is None:
            with self.phases("inputs"):
                inputs = make_inputs(self.case, self.device)
                self._checksums = checksums(inputs)
            with self.phases("oracle"):
                self._reference = make_reference(self.case, inputs, self.checks.oracle)
        return self._reference

    def inputs_written(self) -> bool:
        """Whether a backend changed the checked inputs. They are then drawn again, so that the next one gets them whole."""
        if self._reference is None or checksums(self._reference.inputs) == self._checksums:
            return False
        with self.phases("inputs"):
            self._reference = replace(self._reference, inputs=make_inputs(self.case, self.device))
        return True

    def sources(self, outputs: Outputs) -> dict[str, float]:
        """Figures of `error_sources`; what does not depend on the outputs is made once."""
        reference = self.reference
        if self._sources is None:
            with self.phases("oracle"):
                drawn = drawn_oracle(self.case, reference.inputs, reference.rows)
                self._sources = drawn, source_errors(reference)
        drawn, errors = self._sources
        index = reference.rows.index[..., None].expand_as(drawn)
        out = outputs.out.transpose(1, 2).gather(2, index).double()
        return {**errors, "rmse_drawn": rmse_drawn(out, drawn)}

    def forget(self) -> None:
        """Inputs and references are made anew when next needed."""
        self._reference = self._fresh = None

    def make_budgets(self, backend: Backend) -> None:
        """The eager references that the judge will ask for, made ahead so that their time is not the backend's."""
        reference = self.reference
        with self.phases("oracle"):
            reference.eager(trait(backend, "accumulator"))
            if self.case.is_fp8:
                reference.eager("fp32")

    @property
    def fresh(self) -> Reference:
        """Other inputs of the same case, with the oracle at a few rows only."""
        if self._fresh is None:
            with self.phases("inputs"):
                inputs = make_inputs(self.case, self.device, FRESH)
            with self.phases("oracle"):
                self._fresh = make_reference(self.case, inputs, "spot")
        return self._fresh

    def too_large(self, backend: Backend) -> str | None:
        """Why the case cannot fit into the device's memory, known before anything is allocated."""
        need = 2 * input_bytes(self.case) + extra_bytes(backend, self.case)
        have = int(available_memory_bytes(self.device) * MEMORY_SHARE)
        if need <= have:
            return None
        return f"needs about {need / 2**30:.1f} GiB, and {have / 2**30:.1f} GiB of the {self.device} memory may be used"


def run_trial(bench: Bench, backend: Backend, timed: bool) -> Record:
    """The record of one backend on one case. Never raises for what the backend did."""
    case = bench.case
    base = Record(case, backend.name, _version(backend), "error", kind="exception", reason="not finished")
    try:
        reason = _cannot(bench, backend)
        if reason is not None:
            return replace(base, status="unsupported", kind=None, reason=reason)
        return _checked(bench, backend, timed, base)
    except (KeyboardInterrupt, BrokenPipeError):
        raise
    except BaseException as error:  # a plugin may raise anything, SystemExit included
        base = replace(base, kind=failure_kind(error), reason=describe(error))
        try:
            bench.inputs_written()
        except Exception:  # inputs that cannot even be read again, after a CUDA error or a resize
            bench.forget()
        return base


def _cannot(bench: Bench, backend: Backend) -> str | None:
    kind = bench.device.split(":")[0]
    elsewhere = None
    if kind not in trait(backend, "devices"):
        elsewhere = f"it runs on {', '.join(trait(backend, 'devices'))} only, not on {kind}"
    reason = backend.unavailable() or elsewhere or backend.unsupported(bench.case) or bench.too_large(backend)
    if reason and not isinstance(reason, str):
        raise ContractError(f"unsupported() returned {reason!r}; return a reason as text, or None")
    return reason or None


def _kernel_facts(backend: Backend, case: Case) -> Any:
    facts = kernel_facts(backend, case)
    try:
        return None if facts is None else json.loads(json.dumps(dict(facts)))
    except (TypeError, ValueError) as error:
        raise ContractError(f"kernel_facts() returned what JSON cannot hold: {error}") from None


def _checked(bench: Bench, backend: Backend, timed: bool, base: Record) -> Record:
    reference = bench.reference
    bench.make_budgets(backend)
    with poisoned_memory(), bench.phases("check"):
        outputs, first_call_s = guarded_call(bench.case, backend, reference.inputs)
        if bench.inputs_written():
            raise ContractError("it wrote its inputs: their checksum changed during the call")
        base = replace(base, kernel=_kernel_facts(backend, bench.case))  # after a call: autotuning has chosen by then
        accuracy, cause = examine(bench, backend, outputs, _factors(bench.checks))
    base = replace(base, warnings=_accumulator_warnings(backend, accuracy))
    if not accuracy.passed:
        reason = "; ".join(str(check) for check in accuracy.failures) + (f"; likely cause: {cause}" if cause else "")
        reason = "\n".join((reason, *accuracy.error_map))
        return replace(base, status="incorrect", kind=None, reason=reason, accuracy=accuracy)
    if not timed:
        return replace(base, status="ok", kind=None, reason="", accuracy=accuracy)
    base = replace(base, accuracy=accuracy)
    try:
        return _timed(bench, backend, base, first_call_s)
    except Exception as error:
        return replace(base, kind=failure_kind(error), reason=f"while being timed: {describe(error)}")


def _timed(bench: Bench, backend: Backend, base: Record, first_call_s: float) -> Record:
    with bench.phases("prepare"):
        first, prep_s, peak_bytes = _prepare_watched(bench, backend)
        calls = _rotation(bench, backend, first)
    timer = make_timer(bench.timing.timer, bench.device, len(calls))
    flush = make_flush(bench.device, bench.cache_bytes) if bench.timing.regime == "burst" else None
    with bench.phases("time"):
        measurement = measure(calls, bench.timing, timer, flush=flush)
    compile_s = max(0.0, first_call_s - statistics.median(measurement.samples_s))
    measurement = replace(measurement, prep_s=prep_s, compile_s=compile_s, peak_bytes=peak_bytes)
    if bench.inputs_written():
        raise ContractError("it wrote its inputs: their checksum changed")
    with bench.phases("recheck"):
        failure = _recheck(bench, backend, timer.last())
    if failure is not None:
        accuracy = replace(base.accuracy, checks=(*base.accuracy.checks, *failure.failures), recheck="failed")
        reason = f"right when checked, wrong after timing: {'; '.join(str(check) for check in failure.failures)}"
        return replace(base, status="incorrect", kind=None, reason=reason, accuracy=accuracy)
    accuracy = replace(base.accuracy, recheck="last timed buffers; fresh inputs")
    warnings = _rotation_warning(bench, len(calls))
    return replace(
        base,
        status="ok",
        kind=None,
        reason="",
        accuracy=accuracy,
        measurement=measurement,
        warnings=base.warnings + warnings,
    )


def _prepare_watched(bench: Bench, backend: Backend) -> tuple[Call, float, int | None]:
    """The call on the checked inputs, the seconds that preparing it took, and the peak memory of one call with its
    inputs (None on the CPU, where nobody counts)."""
    import torch

    inputs = bench.reference.inputs
    if not inputs.q.is_cuda:
        started = time.perf_counter()
        return backend.prepare(bench.case, inputs), time.perf_counter() - started, None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    started = time.perf_counter()
    call = backend.prepare(bench.case, inputs)
    torch.cuda.synchronize()
    prep_s = time.perf_counter() - started
    call()
    torch.cuda.synchronize()
    return call, prep_s, torch.cuda.max_memory_allocated() - held + input_bytes(bench.case)


def _recheck(bench: Bench, backend: Backend, last: Outputs) -> Accuracy | None:
    """Judges the last timed buffers and a call on fresh inputs; the failed accuracy, or None when both pass.

    The fresh inputs lie where the timed ones were: an answer kept by address is as stale as one kept for ever.
    """
    check_contract(bench.case, bench.reference.inputs, last)
    accuracy = judge(bench.reference, backend, last, _factors(bench.checks))
    if not accuracy.passed:
        return accuracy
    fresh = bench.fresh
    with in_place_of(bench.reference.inputs, fresh.inputs) as inputs:
        before = checksums(inputs)
        outputs, _ = guarded_call(bench.case, backend, inputs)
        if checksums(inputs) != before:
            raise ContractError("it wrote its inputs: their checksum changed during a call after timing")
    accuracy = judge(fresh, backend, outputs, _factors(bench.checks))
    return None if accuracy.passed else accuracy


def _accumulator_warnings(backend: Backend, accuracy: Accuracy) -> tuple[str, ...]:
    """A kernel that is right by the accumulator it declares, and would not be by fp32's, is stamped."""
    declared, values = trait(backend, "accumulator"), accuracy.values
    if declared == "fp32" or "e1" not in values:
        return ()
    limit = Factors().fp8 * values["e1_emulated"]
    if values["e1"] <= limit:
        return ()
    return (f"E1 {values['e1']:.3g} is over {limit:.3g}, the limit with fp32 accumulation; it declares {declared}",)


def _rotation(bench: Bench, backend: Backend, first: Call) -> list[Call]:
    """The first call and one on each further input set, as many as a cold cache takes or ROTATION_PREPARE_S allows."""
    calls, started = [first], time.perf_counter()
    sets = _input_sets(bench, backend)
    while len(calls) < sets and time.perf_counter() - started < ROTATION_PREPARE_S:
        calls.append(backend.prepare(bench.case, copy_inputs(bench.reference.inputs)))
    return calls


def _input_sets(bench: Bench, backend: Backend) -> int:
    if bench.timing.cache == "warm" or bench.timing.regime == "burst":
        return 1
    wanted = _sets_for_cold(bench)
    memory = available_memory_bytes(bench.device) * ROTATION_MEMORY_SHARE
    affordable = int(memory // (input_bytes(bench.case) + extra_bytes(backend, bench.case)))
    return max(1, min(wanted, affordable))


def _sets_for_cold(bench: Bench) -> int:
    size = input_bytes(bench.case)
    rotated = CACHES_ROTATED * bench.cache_bytes
    return 1 if size > rotated else -(-rotated // size) + 1


def _rotation_warning(bench: Bench, sets: int) -> tuple[str, ...]:
    wanted = _sets_for_cold(bench)
    if bench.timing.cache == "warm" or bench.timing.regime == "burst" or sets >= wanted:
        return ()
    return (f"cache partly warm: {sets} input sets in turn, {wanted} would hold {CACHES_ROTATED} times the cache",)


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """torch's deterministic mode with uninitialized memory filled with NaN: an output never written shows."""
    import torch

    # NOTE: not use_deterministic_algorithms, which imports all of torch's compiler for this: seconds in every process.
    torch.set_deterministic_debug_mode("warn")
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode("default")


def failure_kind(error: BaseException) -> str:
    if isinstance(error, ContractError):
        return "contract"
    return "oom" if is_out_of_memory(error) else "exception"


def is_out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text


def describe(error: BaseException) -> str:
    """The error and where it came from, innermost first, without this machine's paths."""
    if isinstance(error, ContractError):
        return str(error)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).parent != OWN_FOLDER]
    frames = frames[-3:]
    places = " < ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in reversed(frames))
    text = traceback.format_exception_only(error)[-1].strip()[-REASON_CHARACTERS:]
    return f"{text} ({places})" if places else text


def _version(backend: Backend) -> str:
    try:
        return str(backend.version())
    except Exception as error:  # a library that is not installed has no version; `unavailable` says why
        return f"unknown ({type(error).__name__})"


def _factors(checks: Checks) -> Factors:
    return Factors(**checks.factors.model_dump())

"""One backend on one case: prepare, check, time, check again, and the record of it.

Everything wide is caught here, at the worker's edge, and becomes a status; what kills the process becomes one in `run`.
"""

from __future__ import annotations

import json
import statistics
import time
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Iterator

from attnbench.backend import Backend, Call, Outputs, kernel_facts, trait
from attnbench.bench import Bench
from attnbench.case import Case
from attnbench.contract import check_contract, checksums, guarded_call
from attnbench.examine import examine
from attnbench.failures import describe, failure_kind
from attnbench.inputs import in_place_of, input_bytes
from attnbench.judge import Factors, judge
from attnbench.plugins import ContractError
from attnbench.record import Accuracy, Record
from attnbench.rotation import rotation, rotation_warning
from attnbench.suite_model import Checks
from attnbench.timers import make_flush, make_timer
from attnbench.timing import measure


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
        calls = rotation(bench, backend, first)
    timer = make_timer(bench.timing.timer, bench.device, len(calls))
    flush = make_flush(bench.device, bench.cache_bytes) if bench.timing.regime == "burst" else None
    with bench.phases("time"):
        measurement = measure(calls, bench.timing, timer, flush=flush, watch=bench.watch)
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
    warnings = rotation_warning(bench, len(calls))
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


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """torch's deterministic mode with uninitialized memory filled with NaN: an output never written shows."""
    import torch

    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def _version(backend: Backend) -> str:
    try:
        return str(backend.version())
    except Exception as error:  # a library that is not installed has no version; `unavailable` says why
        return f"unknown ({type(error).__name__})"


def _factors(checks: Checks) -> Factors:
    return Factors(**checks.factors.model_dump())

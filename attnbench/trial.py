"""One backend on one case: check, time, check again, and the record of it.

Everything wide is caught here, at the worker's edge, and becomes a status; what kills the process becomes one in `run`.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

from attnbench.backend import Backend, ContractError, kernel_facts, trait
from attnbench.bench import Bench
from attnbench.case import Case
from attnbench.correctness.contract import guarded_call
from attnbench.examine import examine
from attnbench.failures import describe, failure_kind
from attnbench.prepared import Checked, Prepared
from attnbench.records.record import LIKELY_CAUSE, Accuracy, Record
from attnbench.settings import Factors
from attnbench.timing.measure import measure

T = TypeVar("T")
# Ahead of the reason of an error that came after the check.
DURING = "while being timed: "


def run_trial(bench: Bench, backend: Backend, timed: bool) -> Record:
    """The record of one backend on one case. Never raises for what the backend did."""
    checked = check_trial(bench, backend)
    if isinstance(checked, Record):
        return checked
    return time_alone(bench, checked) if timed else checked.record


def check_trial(bench: Bench, backend: Backend) -> Checked | Record:
    """The backend once it has passed, to be timed or not; else the record that says why not. Never raises for it."""
    base = Record(bench.case, backend.name, _version(backend), "error", kind="exception", reason="not finished")

    def check() -> Checked | Record:
        reason = _cannot(bench, backend)
        if reason is not None:
            return replace(base, status="unsupported", kind=None, reason=reason)
        return _checked(bench, backend, base)

    return guarded(bench, base, check)


def time_alone(bench: Bench, checked: Checked) -> Record:
    """The record of a checked backend, timed by itself. Never raises for what the backend did."""

    def measured() -> Record:
        prepared = Prepared(bench, checked, bench.reference.inputs, [checked.backend])
        with bench.phases("time"):
            measurement = measure(
                prepared.calls, bench.timing, prepared.timer, flush=prepared.flush(), watch=bench.watch
            )
        return prepared.record(measurement)

    return guarded(bench, checked.record, measured, DURING)


def guarded(bench: Bench, base: Record, step: Callable[[], T], when: str = "") -> T | Record:
    """What the step returns, or the record of what a backend raised in it; then the checked inputs are whole again."""
    try:
        return step()
    except BaseException as error:  # a plugin may raise anything, SystemExit included
        if isinstance(error, KeyboardInterrupt) and _hears_ctrl_c():
            raise
        try:
            bench.inputs_written()
        except Exception:  # inputs that cannot even be read again, after a CUDA error or a resize
            bench.forget()
        return replace(base, status="error", kind=failure_kind(error), reason=when + describe(error))


def _hears_ctrl_c() -> bool:
    """Whether a KeyboardInterrupt may be the user's: a worker ignores SIGINT, so that there it is the backend's own."""
    return signal.getsignal(signal.SIGINT) is not signal.SIG_IGN


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


def _checked(bench: Bench, backend: Backend, base: Record) -> Checked | Record:
    reference = bench.reference
    bench.make_budgets(backend)
    with poisoned_memory(), bench.phases("check"):
        outputs, first_call_s = guarded_call(bench.case, backend, reference.inputs)
        if bench.inputs_written():
            raise ContractError("it wrote its inputs: their checksum changed during the call")
        base = replace(base, kernel=_kernel_facts(backend, bench.case))  # after a call: autotuning has chosen by then
        accuracy, cause = examine(bench, backend, outputs, bench.checks.factors)
    known = {"kind": None, "accuracy": accuracy, "warnings": _accumulator_warnings(backend, accuracy)}
    if accuracy.passed:
        return Checked(backend, replace(base, status="ok", reason="", **known), first_call_s)
    reason = "; ".join(str(check) for check in accuracy.failures) + (LIKELY_CAUSE + cause if cause else "")
    return replace(base, status="incorrect", reason="\n".join((reason, *accuracy.error_map)), **known)


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

    # NOTE: not use_deterministic_algorithms, which imports all of torch's compiler for this: seconds in every process.
    torch.set_deterministic_debug_mode("warn")
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode("default")


def _version(backend: Backend) -> str:
    try:
        return str(backend.version())
    except (Exception, SystemExit) as error:  # a library that is not installed has no version; `unavailable` says why
        return f"unknown ({type(error).__name__})"

"""One backend on one case: check, time, check again, and the record of it. What it raises: `guard`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from attnbench.backend import Base, ContractError, Inputs, Outputs, never_timed
from attnbench.case import Case
from attnbench.contract import poisoned_memory
from attnbench.correctness.contract import guarded_call
from attnbench.correctness.determinism import first_difference, process_check, repeat_check, repeatable
from attnbench.correctness.diagnose import Diagnosis
from attnbench.correctness.judge import diagnosed, judge
from attnbench.correctness.probes import BLAMES, IN_PLACE, kept, probe_names, run_probes
from attnbench.correctness.rounding import make_budgets
from attnbench.records.record import EMULATED, INTERPRETED, Accuracy, Check, Record
from attnbench.reference.inputs import checksums, make_inputs, written
from attnbench.reference.oracle import Reference, make_reference
from attnbench.settings import Checks, Factors
from attnbench.timing.measure import measure
from attnbench.worker.guard import DURING, describe, guarded
from attnbench.worker.prepared import KEPT_ANSWER, Checked, Prepared
from attnbench.worker.problem import Problem
from attnbench.worker.stamps import reason_of, stamps
from attnbench.worker.steps import check_steps

T = TypeVar("T")
# For probes beside a failure on the case's own inputs.
PROBES_AFTER_FAILURE_S = 3.0
NOT_REPEATED = "another output each time: a race, or memory that nobody initialized"


def run_trial(problem: Problem, backend: Base, timed: bool) -> Record:
    """The record of one backend on one case. Never raises for what the backend did."""
    checked = check_trial(problem, backend, timed)
    return checked if isinstance(checked, Record) else time_alone(problem, checked)


def check_trial(problem: Problem, backend: Base, timed: bool = True) -> Checked | Record:
    """The backend once it has passed and is to be timed; else its record, as of one that is never timed.

    Fresh inputs are for the end: after timing, or here where nothing is timed.
    """
    last = never_timed(backend) or not timed
    base = Record(problem.case, backend.name, _version(backend), "error", kind="exception", reason="not finished")
    if never_timed(backend):  # of an error too: a hazard is found again only under the same delivery and seed
        base = guarded(problem, base, lambda: replace(base, kernel=_conditions(backend, problem.case)))

    def check() -> Checked | Record:
        reason = _cannot(problem, backend)
        if reason is not None:
            return replace(base, status="unsupported", kind=None, reason=reason, kernel=None)
        if problem.case.calls > 1:
            return _stepped(problem, backend, base)
        checked = _checked(problem, backend, base, last)
        return checked.record if last and isinstance(checked, Checked) else checked

    return guarded(problem, base, check)


def with_printed(checked: Checked | Record, line: str) -> Checked | Record:
    """The same with a warning on its record where the backend printed; line: the first that it did, "" for none."""
    if not line:
        return checked
    record = checked if isinstance(checked, Record) else checked.record
    record = replace(record, warnings=(*record.warnings, f'it printed while it was checked: "{line}"'))
    return record if isinstance(checked, Record) else replace(checked, record=record)


def time_alone(problem: Problem, checked: Checked) -> Record:
    """The record of a checked backend, timed by itself. Never raises for what the backend did."""

    def measured() -> Record:
        prepared = Prepared(problem, checked, [checked.backend])
        with problem.phases("time"):
            what = prepared.turns, problem.timing, prepared.timer
            measurement = measure(*what, flush=prepared.flush(), watch=problem.watch, after=prepared.judge_last)
        return prepared.record(measurement)

    return guarded(problem, checked.record, measured, DURING)


def _cannot(problem: Problem, backend: Base) -> str | None:
    kind = problem.device.split(":")[0]
    elsewhere = None
    if kind not in backend.devices:
        elsewhere = f"it runs on {', '.join(backend.devices)} only, not on {kind}"
    reason = backend.unavailable() or elsewhere
    if not reason:
        with problem.phases("build"):
            backend.build()
        reason = _no_state(backend, problem.case) or backend.unsupported(problem.case) or problem.too_large(backend)
    if reason and not isinstance(reason, str):
        raise ContractError(f"unsupported() returned {reason!r}; return a reason as text, or None")
    return reason or None


def _no_state(backend: Base, case: Case) -> str | None:
    return None if case.calls == 1 or backend.stateful else "it keeps no state between calls (it is not `stateful`)"


def _conditions(backend: Base, case: Case) -> Any:
    """How an emulation or an interpreter runs the case's kernels."""
    facts = {EMULATED: backend.emulation_facts(case), INTERPRETED: backend.interpretation_facts(case)}
    return {name: dict(found) for name, found in facts.items() if found is not None} or None


def _kernel_facts(backend: Base, case: Case) -> Any:
    facts = backend.kernel_facts(case)
    try:
        return None if facts is None else json.loads(json.dumps(dict(facts)))
    except (TypeError, ValueError) as error:
        raise ContractError(f"kernel_facts() returned what JSON cannot hold: {error}") from None


def _checked(problem: Problem, backend: Base, base: Record, last: bool) -> Checked | Record:
    """last: nothing is judged after this."""
    reference = problem.reference
    problem.make_budgets(backend)
    with poisoned_memory(), problem.phases("check"):
        outputs, first_call_s = guarded_call(problem.case, backend, reference.inputs)
        if names := problem.inputs_written():
            raise ContractError(f"it wrote its inputs: {names} changed during the call")
        base = replace(base, kernel=_kernel_facts(backend, problem.case))  # after a call: autotuning has chosen by then
        accuracy, cause = check_outputs(problem, backend, outputs, problem.checks.factors, last)

    def judged(status: str, reason: str) -> Record:
        warnings = (*stamps(backend, problem.case, accuracy), *problem.overflow_warning())
        warnings = (*warnings, *backend.warnings(problem.case))
        return replace(base, status=status, kind=None, reason=reason, accuracy=accuracy, warnings=warnings)

    if accuracy.passed:
        return Checked(backend, judged("ok", ""), first_call_s, outputs)
    return judged("incorrect", reason_of(accuracy, cause))


def _stepped(problem: Problem, backend: Base, base: Record) -> Record:
    """The record of a sequence of calls: judged, never timed."""
    with poisoned_memory(), problem.phases("check"):
        accuracy, cause = check_steps(problem, backend)
    status, reason = ("ok", "") if accuracy.passed else ("incorrect", reason_of(accuracy, cause))
    warnings = (*stamps(backend, problem.case, accuracy), *backend.warnings(problem.case))
    kernel = _kernel_facts(backend, problem.case)
    return replace(base, status=status, kind=None, reason=reason, accuracy=accuracy, warnings=warnings, kernel=kernel)


def _version(backend: Base) -> str:
    try:
        return str(backend.version())
    except (Exception, SystemExit) as error:  # a library that is not installed has no version; `unavailable` says why
        return f"unknown ({type(error).__name__})"


# All checks of one result: the judge, bitwise repeats, the probes that the suite asks for; what a failure means.


def check_outputs(
    problem: Problem, backend: Base, outputs: Outputs, factors: Factors, last: bool
) -> tuple[Accuracy, str]:
    """The accuracy, and the likely cause where a check failed ("" otherwise). Later checks need earlier ones passed.

    last: also on fresh inputs in the same memory, since nothing is judged after this.
    """
    context = LiveProbeContext(problem, factors, backend)
    accuracy = context.judged(problem.reference, backend, outputs)
    if not accuracy.passed:
        return _beside_failure(problem, context, backend, outputs, accuracy)
    if problem.checks.sources:
        accuracy = replace(accuracy, values={**accuracy.values, **problem.sources(outputs)})
    if problem.checks.repeats and repeatable(backend):
        accuracy = _repeated(problem, backend, outputs, accuracy)
        if not accuracy.passed:
            return accuracy, NOT_REPEATED
    if accuracy.passed and problem.bits and repeatable(backend):
        check = process_check(Path(problem.bits), backend, outputs)
        accuracy = replace(accuracy, checks=(*accuracy.checks, check))
    if accuracy.passed and problem.checks.probes:
        further = tuple(run_probes(problem.checks.probes, context, backend))
        accuracy = replace(accuracy, checks=(*accuracy.checks, *further))
    if accuracy.passed and last:
        found = on_fresh_inputs(problem, context, backend)
        checks = (*accuracy.checks, *kept(IN_PLACE, found.accuracy.checks))
        accuracy = replace(accuracy, checks=checks)
        if not accuracy.passed and not first_difference(outputs, found.outputs):
            return accuracy, KEPT_ANSWER
    if accuracy.passed:
        return accuracy, ""
    diagnosis = context.diagnosis()
    cause, blame = diagnosis.cause, BLAMES.get(accuracy.failures[0].rule.partition(":")[0])
    if blame and not diagnosis.named:
        cause = blame  # what places have in common says nothing beside it
    return replace(accuracy, error_map=diagnosis.error_map), cause


def _repeated(problem: Problem, backend: Base, outputs: Outputs, accuracy: Accuracy) -> Accuracy:
    """With the check of further calls. Where more than usual are asked for, how many there was time for is a value."""
    asked = problem.checks.repeats
    inputs = problem.reference.inputs
    check, made = repeat_check(problem.case, backend, inputs, outputs, asked, problem.phases.again)
    values = {**accuracy.values, "repeats": float(made)} if asked > Checks().repeats else accuracy.values
    return replace(accuracy, checks=(*accuracy.checks, check), values=values)


def _beside_failure(
    problem: Problem, context: LiveProbeContext, backend: Base, outputs: Outputs, accuracy: Accuracy
) -> tuple[Accuracy, str]:
    """Of outputs that are wrong on the case's own inputs: why most likely, and for a while, how bad probes show it."""
    diagnosis = context.diagnosis()
    cause = diagnosis.cause
    try:
        if repeatable(backend) and repeat_check(problem.case, backend, problem.reference.inputs, outputs, 1)[0].value:
            cause = NOT_REPEATED
        further = _while_time_lasts(problem, context, backend)
    except Exception as error:
        further = (_raised("repeats", error),)
    checks = (*accuracy.checks, *(check for check in further if not check.passed))
    return replace(accuracy, checks=checks, error_map=diagnosis.error_map), cause


def _while_time_lasts(problem: Problem, context: LiveProbeContext, backend: Base) -> tuple[Check, ...]:
    found, end = list[Check](), time.monotonic() + PROBES_AFTER_FAILURE_S
    for name in probe_names(problem.checks.probes):
        if time.monotonic() > end:
            break
        try:
            found += run_probes((name,), context, backend)
        except Exception as error:
            found.append(_raised(name, error))
    return tuple(found)


def _raised(name: str, error: Exception) -> Check:
    """Of a record that is incorrect already: it stays that, and what also broke is told."""
    return Check(f"{name}: raised", 1, 0, False, describe(error).splitlines()[0])


@dataclass(frozen=True, slots=True)
class Rejudged:
    """A call on other inputs than the checked ones, and how it compares with their oracle."""

    outputs: Outputs
    accuracy: Accuracy


def on_fresh_inputs(problem: Problem, context: LiveProbeContext, backend: Base) -> Rejudged:
    """The fresh inputs lie where the checked ones were: an answer kept by address or by shape is as stale as one kept
    for ever."""
    fresh = problem.fresh
    with problem.fresh_in_place(problem.reference.inputs) as inputs:
        outputs = context.called(problem.case, inputs, backend)
    accuracy = problem.judged_at_few_rows(fresh, backend, outputs)
    return Rejudged(outputs, accuracy if accuracy.passed else context.judged(fresh, backend, outputs))


# What probes work with: further problems at the shape of a trial's case, posed once and shared by its backends.

Phase = Callable[[str], AbstractContextManager[None]]


class LiveProbeContext:
    """The `probes.ProbeContext` of a problem. References of other inputs are kept; those of given inputs are not."""

    def __init__(self, problem: Problem, factors: Factors, backend: Base):
        self._problem, self._factors, self._backend = problem, factors, backend
        self._failed: tuple[Reference, Base, Outputs] | None = None  # the first result that did

    @property
    def case(self) -> Case:
        return self._problem.case

    @property
    def reference(self) -> Reference:
        return self._problem.reference

    def posed(self, case: Case, input_set: int = 0, inputs: Inputs | None = None) -> Reference:
        problem = self._problem
        kept = problem.posed.get((case, input_set)) if inputs is None else None
        if kept is None:
            with problem.phases("inputs"):
                drawn = make_inputs(case, problem.device, input_set) if inputs is None else inputs
            with problem.phases("oracle"):
                kept = make_reference(case, drawn, problem.checks.oracle)
            if inputs is None:
                problem.posed[case, input_set] = kept
        with problem.phases("oracle"):
            make_budgets(kept, self._backend)
        return kept

    def called(self, case: Case, inputs: Inputs, backend: Base) -> Outputs:
        before = checksums(inputs)
        self._problem.phases.again()
        outputs = guarded_call(case, backend, inputs)[0]
        self._problem.phases.again()
        if names := written(inputs, before):
            self._problem.posed.clear()
            self._problem.inputs_written()
            raise ContractError(f"it wrote its inputs: {names} changed during the call")
        return outputs

    def judged(self, reference: Reference, backend: Base, outputs: Outputs) -> Accuracy:
        accuracy = judge(reference, backend, outputs, self._factors)
        if not accuracy.passed and self._failed is None:
            self._failed = reference, backend, outputs
        return accuracy

    def diagnosis(self) -> Diagnosis:
        """Of the first result that failed; empty where none did."""
        return Diagnosis() if self._failed is None else diagnosed(*self._failed, self._factors)

"""A backend that keeps state between calls: a prefill, then decode steps, every one of them judged, none timed.

A case with `calls: n` is one sequence: step 0 has its seqlen_q queries and seqlen_k keys, each of the n - 1 further
steps one query and one key more, and a step's query sees all keys up to its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from attnbench.backend import Base, ContractError, Inputs, Outputs
from attnbench.case import Case
from attnbench.contract import check_contract
from attnbench.correctness.determinism import first_difference, repeatable
from attnbench.correctness.judge import diagnosed, judge
from attnbench.correctness.probes import kept
from attnbench.correctness.rounding import make_budgets
from attnbench.records.record import STEPS_DIFFER, Accuracy, Check
from attnbench.reference.inputs import checksums, make_inputs, written
from attnbench.reference.oracle import Reference, make_reference
from attnbench.settings import Factors
from attnbench.worker.problem import Problem

# Where step 0 is right and a later one is not.
STATE = "the first call is right: what is kept between calls is not"


@dataclass(frozen=True, slots=True)
class Step:
    """What a call is given, and what its outputs are held against: one query over all keys so far, or the prefill."""

    given: Inputs
    reference: Reference


def check_steps(problem: Problem, backend: Base) -> tuple[Accuracy, str]:
    """The accuracy over all steps, and the likely cause where one failed. Raises ContractError."""
    with problem.phases("inputs"):
        whole = make_inputs(whole_case(problem.case), problem.device)
    steps = []
    with problem.phases("oracle"):
        for number in range(problem.case.calls):
            problem.phases.again()
            steps.append(_step(problem, whole, number))
            make_budgets(steps[-1].reference, backend)
    answers = _answers(problem, backend, steps)
    accuracy, cause = _judged(backend, steps, answers, problem.checks.factors)
    if accuracy.passed and problem.checks.repeats and repeatable(backend):
        again = _answers(problem, backend, steps)
        differences = [first_difference(*pair) for pair in zip(answers, again)]
        places = [f"step {n}, {words}" for n, words in enumerate(differences) if words]
        check = Check(STEPS_DIFFER, len(places), 0, not places, places[0] if places else "")
        accuracy = replace(accuracy, checks=(*accuracy.checks, check))
    return accuracy, cause


def whole_case(case: Case) -> Case:
    """All queries and keys of all steps, as one problem."""
    further = case.calls - 1
    return replace(case, calls=1, seqlen_q=case.seqlen_q + further, seqlen_k=case.seqlen_k + further)


def step_case(case: Case, number: int) -> Case:
    """The problem that a step solves."""
    return replace(case, calls=1) if number == 0 else replace(
        case, calls=1, seqlen_q=1, seqlen_k=case.seqlen_k + number, causal=False
    )  # fmt: skip


def inputs_of_step(case: Case, whole: Inputs, number: int) -> tuple[Inputs, Inputs]:
    """What a step's call is given, and the problem that it poses: its queries over all keys so far.

    whole: the inputs of `whole_case`.
    """
    rows = slice(0, case.seqlen_q) if number == 0 else slice(case.seqlen_q + number - 1, case.seqlen_q + number)
    keys = slice(0, case.seqlen_k) if number == 0 else slice(case.seqlen_k + number - 1, case.seqlen_k + number)
    q, k, v = (x[:, part].contiguous() for x, part in ((whole.q, rows), (whole.k, keys), (whole.v, keys)))
    seen = slice(0, case.seqlen_k + number)
    return Inputs(q, k, v), Inputs(q, whole.k[:, seen], whole.v[:, seen])


def _step(problem: Problem, whole: Inputs, number: int) -> Step:
    given, posed = inputs_of_step(problem.case, whole, number)
    return Step(given, make_reference(step_case(problem.case, number), posed, problem.checks.oracle))


def _answers(problem: Problem, backend: Base, steps: list[Step]) -> list[Outputs]:
    """One sequence from a `prepare` of its own. Raises ContractError."""
    call: Callable[..., Outputs] = backend.prepare(problem.case, steps[0].given)
    answers = []
    for number, step in enumerate(steps):
        problem.phases.again()
        given, before = step.given, checksums(step.given)
        outputs = call(number, given.q, given.k, given.v)
        try:
            check_contract(step.reference.case, given, outputs)
        except ContractError as error:
            raise ContractError(f"step {number}: {error}") from None
        if names := written(given, before):
            raise ContractError(f"step {number}: it wrote its inputs: {names} changed during the call")
        lse = None if outputs.lse is None else outputs.lse.clone()
        answers.append(Outputs(outputs.out.clone(), lse))
    return answers


def _judged(
    backend: Base, steps: list[Step], answers: list[Outputs], factors: Factors
) -> tuple[Accuracy, str]:  # fmt: skip
    checks: list[Check] = []
    shown, cause = None, ""
    for number, (step, outputs) in enumerate(zip(steps, answers)):
        found = judge(step.reference, backend, outputs, factors)
        checks += kept(f"step {number}", found.checks)
        if shown is None or (shown.passed and not found.passed):
            shown = found
            if not found.passed:
                diagnosis = diagnosed(step.reference, backend, outputs, factors)
                words = [STATE] if number else []
                cause = "; ".join(filter(None, (*words, diagnosis.cause)))
                shown = replace(found, error_map=diagnosis.error_map)
    assert shown is not None, "a case has a step at least"
    return replace(shown, checks=tuple(checks)), cause

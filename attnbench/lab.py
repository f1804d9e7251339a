"""What probes work with: further problems at the shape of a trial's case, posed once and shared by its backends."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from attnbench.backend import Backend, ContractError, Inputs, Outputs, trait
from attnbench.case import Case
from attnbench.correctness.contract import guarded_call
from attnbench.correctness.diagnose import Diagnosis
from attnbench.correctness.judge import diagnosed, judge
from attnbench.records.record import Accuracy
from attnbench.reference.inputs import checksums, make_inputs
from attnbench.reference.oracle import Reference, make_reference
from attnbench.settings import Factors

if TYPE_CHECKING:
    from attnbench.bench import Bench

Phase = Callable[[str], AbstractContextManager[None]]


class BenchLab:
    """The `probes.Lab` of a bench. References of other inputs are kept; those of given inputs are not."""

    def __init__(self, bench: Bench, factors: Factors, backend: Backend):
        self._bench, self._factors, self._backend = bench, factors, backend
        self._failed: tuple[Reference, Backend, Outputs] | None = None  # the first result that did

    @property
    def case(self) -> Case:
        return self._bench.case

    @property
    def reference(self) -> Reference:
        return self._bench.reference

    def posed(self, case: Case, input_set: int = 0, inputs: Inputs | None = None) -> Reference:
        bench = self._bench
        kept = bench.posed.get((case, input_set)) if inputs is None else None
        if kept is None:
            with bench.phases("inputs"):
                drawn = make_inputs(case, bench.device, input_set) if inputs is None else inputs
            with bench.phases("oracle"):
                kept = make_reference(case, drawn, bench.checks.oracle)
            if inputs is None:
                bench.posed[case, input_set] = kept
        with bench.phases("oracle"):
            kept.eager(trait(self._backend, "accumulator"))
            if case.is_fp8:
                kept.eager("fp32")
        return kept

    def called(self, case: Case, inputs: Inputs, backend: Backend) -> Outputs:
        before = checksums(inputs)
        outputs = guarded_call(case, backend, inputs)[0]
        if checksums(inputs) != before:
            self._bench.posed.clear()
            self._bench.inputs_written()
            raise ContractError("it wrote its inputs: their checksum changed during the call")
        return outputs

    def judged(self, reference: Reference, backend: Backend, outputs: Outputs) -> Accuracy:
        accuracy = judge(reference, backend, outputs, self._factors)
        if not accuracy.passed and self._failed is None:
            self._failed = reference, backend, outputs
        return accuracy

    def diagnosis(self) -> Diagnosis:
        """Of the first result that failed; empty where none did."""
        return Diagnosis() if self._failed is None else diagnosed(*self._failed, self._factors)

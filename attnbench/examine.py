"""All checks of one result: the judge, bitwise repeats, the probes that the suite asks for; what a failure means."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from attnbench.backend import Backend, Outputs
from attnbench.correctness.determinism import process_check, repeat_check, repeatable
from attnbench.correctness.probes import run_probes
from attnbench.lab import BenchLab
from attnbench.records.record import Accuracy
from attnbench.settings import Factors

if TYPE_CHECKING:
    from attnbench.bench import Bench


def examine(bench: Bench, backend: Backend, outputs: Outputs, factors: Factors) -> tuple[Accuracy, str]:
    """The accuracy, and the likely cause where a check failed ("" otherwise). Later checks need earlier ones passed."""
    lab = BenchLab(bench, factors, backend)
    accuracy = lab.judged(bench.reference, backend, outputs)
    if bench.checks.sources:
        accuracy = replace(accuracy, values={**accuracy.values, **bench.sources(outputs)})
    if accuracy.passed and bench.checks.repeats and repeatable(backend):
        check = repeat_check(bench.case, backend, bench.reference.inputs, outputs, bench.checks.repeats)
        accuracy = replace(accuracy, checks=(*accuracy.checks, check))
    if accuracy.passed and bench.bits and repeatable(backend):
        check = process_check(Path(bench.bits), backend, outputs)
        accuracy = replace(accuracy, checks=(*accuracy.checks, check))
    if accuracy.passed and bench.checks.probes:
        further = tuple(run_probes(bench.checks.probes, lab, backend))
        accuracy = replace(accuracy, checks=(*accuracy.checks, *further))
    if accuracy.passed:
        return accuracy, ""
    diagnosis = lab.diagnosis()
    return replace(accuracy, error_map=diagnosis.error_map), diagnosis.cause

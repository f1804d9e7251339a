"""A sequence alone, in a batch, and elsewhere in it: the same bits, or a failure, or a warning, as declared."""

import dataclasses

import pytest
import torch

from attnbench.backend import Outputs
from attnbench.case import DTYPES, Case
from attnbench.correctness.batches import elsewhere, picked
from attnbench.records.record import BATCH_DIFFERS, BATCH_TOLD
from attnbench.reference.inputs import make_inputs
from attnbench.reference.oracle import oracle
from attnbench.reference.rows import choose_rows
from attnbench.selftest.bugs.outputs import SplitsByBatch
from attnbench.selftest.forward import Choices, TiledForward
from attnbench.settings import Checks, Timing
from attnbench.worker.phases import Phases
from attnbench.worker.problem import Problem
from attnbench.worker.trial import run_trial

SHAPE = {"batch": 3, "seqlen_q": 9, "seqlen_k": 161, "num_heads": 4, "num_heads_kv": 2, "head_dim": 64}


def trial(backend, declared, **fields):
    backend.batch_invariant = declared
    case = Case.make(**{**SHAPE, **fields})
    problem = Problem(case, "cpu", Checks(repeats=0, probes=("batch_invariant",)), Timing(), 0, Phases())
    return run_trial(problem, backend, timed=False)


def of_batch(record):
    return [check for check in record.accuracy.checks if check.rule.startswith("batch_invariant: ")]


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("dtype", DTYPES)
def test_splits_that_depend_on_the_batch_are_caught_and_told(dtype, batch):
    record = trial(SplitsByBatch(), True, dtype=dtype, batch=batch)
    assert record.status == "incorrect"
    assert record.reason.startswith(f"batch_invariant: {BATCH_DIFFERS} "), record.reason
    assert "likely cause: batch: what else is in a batch" in record.reason
    told = trial(SplitsByBatch(), None, dtype=dtype, batch=batch)
    assert told.status == "ok"
    (check,) = of_batch(told)
    assert check.rule.endswith(BATCH_TOLD) and 0 < check.value <= check.limit
    (warning,) = told.warnings
    assert warning.startswith("its bits depend on the batch, and it declares nothing of it") and "and" in check.where
    unsaid = trial(SplitsByBatch(), False, dtype=dtype, batch=batch)
    assert unsaid.status == "ok" and of_batch(unsaid) == [] and unsaid.warnings == ()


class OneByOne(TiledForward):
    """Each sequence by itself, whatever the batch."""

    def forward(self, case, inputs):
        alone = dataclasses.replace(case, batch=1)
        parts = [TiledForward.forward(self, alone, picked(case, inputs, [place])) for place in range(case.batch)]
        return Outputs(torch.cat([part.out for part in parts]), torch.cat([part.lse for part in parts]))


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("dtype", ["bf16", "fp32", "e4m3"])
def test_one_that_keeps_its_word_passes_and_gets_no_warning(dtype, batch):
    for declared in (True, None):
        record = trial(OneByOne(Choices(splits=2)), declared, dtype=dtype, batch=batch)
        assert record.status == "ok" and record.warnings == (), record.reason
        (check,) = of_batch(record)
        assert check.value == 0


def test_one_that_takes_no_other_batch_is_not_asked():
    class OnlyThree(TiledForward):
        def unsupported(self, case):
            return None if case.batch == 3 else "it takes batches of 3"

    record = trial(OnlyThree(), True)
    assert record.status == "ok"
    (check,) = of_batch(record)  # another place of the same batch, and no other size
    assert check.value == 0


def test_a_broken_contract_elsewhere_is_one():
    class Flat(TiledForward):
        def forward(self, case, inputs):
            outputs = super().forward(case, inputs)
            return outputs if case.batch == 3 else type(outputs)(outputs.out.flatten(0, 1))

    record = trial(Flat(), True)
    assert record.status == "error" and record.kind == "contract" and "in probe batch_invariant" in record.reason


@pytest.mark.parametrize("scaling", ["none", "tensor", "head", "token", "block"])
@pytest.mark.parametrize("batch", [1, 3])
def test_elsewhere_the_oracle_is_the_same(batch, scaling):
    case = Case.make(**{**SHAPE, "batch": batch}, dtype="e4m3", scaling=scaling, block_size=32)
    inputs = make_inputs(case)
    whole = oracle(case, inputs, choose_rows(case, "full", "cpu")).out
    arrangements = list(elsewhere(case, inputs))
    assert [other.case.batch for other in arrangements] == ([3] if batch == 1 else [1, 3])
    for other in arrangements:
        there = oracle(other.case, other.inputs, choose_rows(other.case, "full", "cpu")).out
        for element, place in other.places:
            assert (whole[element] - there[place]).abs().max() < 1e-12

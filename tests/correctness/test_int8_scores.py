"""8-bit integer scores: declared they have a budget of their own, undeclared they are an error with its cause."""

import pytest
import torch

from attnbench.case import Case
from attnbench.reference.inputs import make_inputs
from attnbench.reference.int8 import int8_scores, rounded, score_noise
from attnbench.selftest.bugs.softmax import ScoresOfIntegers
from attnbench.selftest.forward import Choices, TiledForward
from attnbench.settings import Checks, Timing
from attnbench.worker.phases import Phases
from attnbench.worker.problem import Problem
from attnbench.worker.trial import run_trial

SHAPE = {"batch": 2, "seqlen_q": 70, "seqlen_k": 200, "num_heads": 4, "num_heads_kv": 2, "head_dim": 64}


def trial(backend, probes=(), **fields):
    problem = Problem(Case.make(**{**SHAPE, **fields}), "cpu", Checks(probes=probes), Timing(), 0, Phases())
    return run_trial(problem, backend, timed=False)


def test_rows_of_a_block_share_the_scale_of_their_largest():
    x = torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(1))
    x[0, 2:4, 1] = 0.0
    found = rounded(x, 2)
    for batch, head, start in ((b, h, s) for b in range(2) for h in range(3) for s in (0, 2, 4)):
        block = x[batch, start : start + 2, head]
        unit = float(block.abs().max()) / 127 or 1.0
        wanted = torch.tensor([[round(float(value) / unit) * unit for value in row] for row in block])
        torch.testing.assert_close(found[batch, start : start + 2, head], wanted)


@pytest.mark.parametrize("inputs", ["normal", "channel_outliers", "large_logits"])
def test_the_noise_is_what_it_does_to_scores(inputs):
    case = Case.make(**{**SHAPE, "inputs": inputs})
    given = make_inputs(case)
    integers, mean = int8_scores(given)
    heads = torch.arange(4) // 2
    exact, found = (
        torch.einsum("bqhd,bkhd->bhqk", q.double(), k.double()[:, :, heads]) * case.scale
        for q, k in ((given.q, given.k), (integers.q, integers.k + mean))
    )
    measured = float((found - exact).square().mean().sqrt())
    assert measured == pytest.approx(score_noise(case, given), rel=0.15)


@pytest.mark.parametrize(("dtype", "causal"), [("fp16", False), ("bf16", True)])
def test_declared_they_are_judged_by_an_emulation_of_them_and_stamped(dtype, causal):
    record = trial(TiledForward(Choices(int8_scores=True)), probes="all", dtype=dtype, causal=causal)
    assert record.status == "ok", record.reason
    (warning,) = record.warnings
    values = record.accuracy.values
    assert warning.startswith("it declares scores_int8: relative RMSE ")
    assert f"and {values['exact_scores_rmse']:.3g} with exact scores" in warning
    assert values["eager_rmse"] > 3 * values["exact_scores_rmse"]


def test_few_rows_leave_much_to_luck():
    """Eight rows on fresh inputs, where the emulation's largest error was small by chance; found by `selftest`."""
    record = trial(TiledForward(Choices(int8_scores=True)), batch=1, seqlen_q=127, seqlen_k=129, num_heads=2,
                   num_heads_kv=1, head_dim=32, dtype="fp16", causal=True, inputs="outliers", seed=2)  # fmt: skip
    assert record.status == "ok", record.reason


def test_undeclared_they_are_an_error_and_named():
    record = trial(ScoresOfIntegers())
    assert record.status == "incorrect" and record.warnings == ()
    assert (
        "precision of the scores: q and k are rounded to 8-bit integers, scaled in blocks of 64 rows" in record.reason
    )


class _SixBits(TiledForward):
    def in_blocks(self, x, rows):
        return rounded(x, rows, largest=31)


def test_the_budget_is_that_of_8_bits_and_no_more():
    record = trial(_SixBits(Choices(int8_scores=True)))
    assert record.status == "incorrect"


def test_8_bit_floats_keep_their_own_budget():
    record = trial(TiledForward(Choices(int8_scores=True)), dtype="e4m3")
    assert record.status == "ok" and record.warnings == ()
    assert "exact_scores_rmse" not in record.accuracy.values

"""Scores stored in 16 bits, and an lse for information: judged by what is declared, told on the record."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from attnbench.backend import Base, Outputs
from attnbench.case import Case
from attnbench.reference.inputs import make_inputs
from attnbench.reference.oracle import eager
from attnbench.reference.rows import choose_rows
from attnbench.selftest.forward import Choices, TiledForward
from attnbench.settings import Checks, Timing
from attnbench.worker.phases import Phases
from attnbench.worker.problem import Problem
from attnbench.worker.trial import run_trial

SHAPE = {"batch": 1, "seqlen_q": 70, "seqlen_k": 300, "num_heads": 4, "num_heads_kv": 2, "head_dim": 64}


def trial(backend, probes=(), **fields):
    problem = Problem(Case.make(**{**SHAPE, **fields}), "cpu", Checks(probes=probes), Timing(), 0, Phases())
    return run_trial(problem, backend, timed=False)


class StoredScores(TiledForward):
    """Scores go through memory in the inputs' type, as an unfused product and softmax exchange them."""

    def __init__(self, declared):
        super().__init__(Choices(tile_n=128))
        self.scores_16bit = declared

    def scores(self, case, q, k, start, stop):
        stored = torch.float16 if case.dtype == "fp16" else torch.bfloat16
        return super().scores(case, q, k, start, stop).to(stored).float()


@pytest.mark.parametrize("inputs", ["normal", "outliers", "large_logits", "sink", "same_sign_v"])
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_declared_scores_in_16_bits_are_held_against_such_scores(dtype, inputs):
    record = trial(StoredScores(True), dtype=dtype, inputs=inputs)
    assert record.status == "ok", record.reason
    (warning,) = record.warnings
    assert warning.startswith("it declares scores_16bit: relative RMSE ") and "limits are those of rounded" in warning


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_undeclared_they_are_wrong(dtype):
    record = trial(StoredScores(False), dtype=dtype)
    assert record.status == "incorrect" and record.warnings == ()


def test_declaring_it_excuses_nothing_else():
    class Coarser(StoredScores):
        def scores(self, case, q, k, start, stop):
            return super().scores(case, q, k, start, stop).to(torch.float8_e4m3fn).float()

    assert trial(Coarser(True), dtype="fp16").status == "incorrect"


class InformationalLse(Base):
    name = "informational"
    lse_informational = True

    def __init__(self, change):
        self.change = change

    def prepare(self, case, inputs):
        found = eager(case, inputs, choose_rows(case, "full", "cpu"))
        out, lse = found.out.transpose(1, 2).to(inputs.q.dtype).contiguous(), found.lse.float()
        return lambda: Outputs(out, self.change(lse.clone()))


def test_an_lse_for_information_is_told_and_not_judged():
    right = trial(InformationalLse(lambda lse: lse))
    assert right.status == "ok" and right.warnings == ()
    assert right.accuracy.values["lse_error"] <= right.accuracy.values["lse_limit"]
    rounded = trial(InformationalLse(lambda lse: lse.bfloat16().float()))
    assert rounded.status == "ok" and rounded.accuracy.values["lse_error"] > rounded.accuracy.values["lse_limit"]
    (warning,) = rounded.warnings
    assert warning.startswith("its lse is for information only, as it declares: off by 0.0")
    nan = trial(InformationalLse(lambda lse: lse.fill_(math.nan)))
    assert nan.status == "ok" and "lse_error" not in nan.accuracy.values and "not finite" in nan.warnings[0]
    judged = InformationalLse(lambda lse: lse.bfloat16().float())
    judged.lse_informational = False
    assert trial(judged).status == "incorrect"


def never_up(x):
    """fp32 to bf16 with the rounding of a conversion that never rounds an even number up (found in a CPU library)."""
    bits = x.contiguous().view(torch.int32)
    cut = (bits & -65536).view(torch.float32)
    return torch.where((bits >> 16) % 2 == 0, cut, x.bfloat16().float())


def test_a_conversion_that_never_rounds_up_is_found_on_ordinary_inputs():
    class NeverUp(TiledForward):
        def finish(self, case, inputs, out, lse):
            return Outputs(never_up(out.transpose(1, 2)).to(inputs.q.dtype).contiguous(), lse.contiguous())

    for inputs in ("normal", "outliers"):
        record = trial(NeverUp(), inputs=inputs)
        assert record.status == "incorrect" and "mean signed error, towards 0 or away from it" in record.reason
        assert trial(TiledForward(), inputs=inputs).status == "ok"


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_a_scale_held_in_16_bits_is_less_than_one_rounding_and_no_fault(dtype):
    class HeldIn16Bits(TiledForward):
        def scale(self, case):
            kind = torch.float16 if case.dtype == "fp16" else torch.bfloat16
            return float(torch.tensor(case.scale).to(kind))

    class NeverUpToo(HeldIn16Bits):
        def finish(self, case, inputs, out, lse):
            return Outputs(never_up(out.transpose(1, 2)).to(inputs.q.dtype).contiguous(), lse.contiguous())

    for head_dim in (64, 80, 96, 128, 160):
        assert trial(HeldIn16Bits(), dtype=dtype, head_dim=head_dim).status == "ok", head_dim
    if dtype == "bf16":
        assert trial(NeverUpToo(), dtype=dtype, head_dim=128).status == "incorrect"


def test_the_right_ones_stay_far_from_the_limit_of_the_signed_error():
    """2,736 combinations of right variants reached 0.35 of it at most; here a few of the smallest and the largest."""
    for dtype in ("fp16", "bf16"):
        for lengths in ({"seqlen_q": 1, "seqlen_k": 65}, {"seqlen_q": 203, "seqlen_k": 100}):
            case = Case.make(**{**SHAPE, **lengths, "dtype": dtype, "num_heads": 2, "num_heads_kv": 1})
            assert make_inputs(case).q.dtype != torch.float32
            for choices in (Choices(tile_n=64, splits=2), Choices(tile_n=96), Choices(tile_n=64, cubic_exp2=True)):
                record = trial(TiledForward(choices), **{name: getattr(case, name) for name in (*lengths, "dtype")},
                               num_heads=2, num_heads_kv=1)  # fmt: skip
                (check,) = (c for c in record.accuracy.checks if c.rule.startswith("mean signed error"))
                assert record.status == "ok" and check.value < 0.6 * check.limit, replace(choices)

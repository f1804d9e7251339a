"""Where an FP8 error comes from: a source that is switched off is 0, those at work add up, sums grow with seqlen."""

import dataclasses
import itertools
import math

import pytest
import torch

from attnbench.case import Case
from attnbench.correctness.fp8_sources import SOURCES, SUMMED_ROWS, _spread, source_errors
from attnbench.correctness.judge import relative_errors
from attnbench.reference.inputs import make_inputs
from attnbench.reference.oracle import make_reference
from attnbench.reference.quantize import quantize


def make(**fields):
    shape = {"batch": 1, "seqlen": 192, "num_heads": 2, "head_dim": 64, "dtype": "e4m3"}
    return Case.make(**{**shape, **fields})


def reference(case):
    return make_reference(case, make_inputs(case))


def test_sixteen_bit_cases_have_no_such_sources():
    assert source_errors(reference(make(dtype="bf16"))) == {}


def test_a_source_that_loses_nothing_is_zero():
    """v of numbers that e4m3 holds, unscaled: v costs nothing, and nothing else changes."""
    case = make(scaling="none")
    inputs = make_inputs(case)
    v = inputs.v.to(torch.float8_e4m3fn).to(torch.bfloat16)
    exact = dataclasses.replace(inputs, v=v, quantized=quantize(inputs.q, inputs.k, v, case))
    errors = source_errors(make_reference(case, exact))
    assert errors["source_v"] == 0.0
    assert errors["source_qk"] > 0.01 and errors["source_p"] > 0.005


@pytest.mark.parametrize("inputs", ["normal", "outliers"])
def test_the_sources_together_are_the_error_end_to_end(inputs):
    """They are independent, so that their squares add up."""
    ref = reference(make(inputs=inputs, seqlen=384))
    errors = source_errors(ref)
    assert set(errors) == {*SOURCES, "e1_hopper", "e1_two_level"}
    together = math.sqrt(sum(errors[name] ** 2 for name in ("source_qk", "source_v", "source_p")))
    assert together == pytest.approx(relative_errors(ref.eager("fp32").out, ref.originals.out).rmse, rel=0.1)


def test_hoppers_sums_err_more_the_longer_they_are_and_two_levels_do_not():
    errors = {}
    for seqlen in (256, 4096):
        errors[seqlen] = source_errors(reference(make(inputs="same_sign_v", seqlen_q=32, seqlen_k=seqlen, num_heads=1)))
    assert errors[4096]["source_hopper"] > 4 * errors[256]["source_hopper"]
    assert errors[4096]["source_two_level"] < 1.5 * errors[256]["source_two_level"]
    assert errors[4096]["source_hopper"] > 10 * errors[4096]["source_two_level"]
    assert errors[4096]["e1_hopper"] > 1.3 * errors[4096]["e1_two_level"]


@pytest.mark.parametrize("count", [1, 2, SUMMED_ROWS - 1, SUMMED_ROWS, SUMMED_ROWS + 1, 1000, 4160])
def test_rows_that_are_summed_are_few_and_spread_and_end_at_the_last(count):
    places = _spread(count)
    assert 0 < len(places) <= SUMMED_ROWS and places[-1] == count - 1 and places[0] * SUMMED_ROWS < count + SUMMED_ROWS
    assert len({b - a for a, b in itertools.pairwise(places)}) <= 1
    assert len(places) > SUMMED_ROWS / 2 or len(places) == count


def test_one_key_has_no_error_of_sums():
    errors = source_errors(reference(make(seqlen=1)))
    assert all(math.isfinite(error) for error in errors.values())

"""Long sums of values of one sign: two levels keep their error, Hopper's 14 bits alone do not.

By benchmarks/fp8_accuracy.py, which goes on to 128k keys.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from parallel import load

from attnbench.case import Case
from attnbench.hopper.toolchain import KERNELS
from attnbench.reference import oracle
from attnbench.reference.inputs import make_inputs
from attnbench.reference.rows import choose_rows
from benchmarks.fp8_accuracy import KERNEL_LONGEST, SHORTEST, against_seqlen, some_queries

LONGEST = 16384
FLAT = 0.2  # how far the error may change with the length


@pytest.fixture(scope="module")
def curves() -> dict[str, list[float]]:
    """Relative RMSE by length, of the emulated pipeline with each accumulator and of the emulated kernels."""
    rows = against_seqlen(load(KERNELS / "fwd_fp8.cu"), LONGEST)
    assert [row[0] for row in rows] == [SHORTEST << i for i in range(len(rows))] and rows[-1][0] == LONGEST
    names = ("fp32", "hopper", "two_level", "kernel fp8", "kernel fp8_two_level")
    return {name: [error for error in column if error is not None] for name, column in zip(names, list(zip(*rows))[1:])}


@pytest.mark.parametrize("name", ["two_level", "kernel fp8_two_level"])
def test_two_levels_keep_their_error(curves, name):
    first, *longer = curves[name]
    assert len(longer) >= (KERNEL_LONGEST // SHORTEST).bit_length() - 1
    assert all(abs(error / first - 1) <= FLAT for error in longer), curves[name]


@pytest.mark.parametrize("name", ["hopper", "kernel fp8"])
def test_one_level_does_not(curves, name):
    """Each doubling costs about a factor of two, until the sums stand still."""
    errors = curves[name]
    assert all(longer > (1 + FLAT) * shorter for shorter, longer in itertools.pairwise(errors)), errors
    assert errors[-1] > 5 * errors[0]


@pytest.mark.parametrize("scaling", ["tensor", "head", "block"])
def test_some_queries_are_those_of_the_whole_case(scaling):
    case = Case.make(batch=1, seqlen_q=512, seqlen_k=300, num_heads=2, head_dim=64, dtype="e4m3", scaling=scaling,
                     inputs="outliers")  # fmt: skip
    inputs = make_inputs(case)
    part, some = some_queries(case, inputs, torch.tensor([2, 0]))
    rows = [*range(256, 384), *range(128)]
    every, few = (choose_rows(one, "full", "cpu") for one in (case, part))
    whole = oracle.eager(case, inputs, every).out[:, :, rows]
    assert part == replace(case, seqlen_q=256)
    # The shape of a product may change the order of its sums.
    torch.testing.assert_close(oracle.eager(part, some, few).out, whole, rtol=0, atol=2e-2)
    exact = oracle.oracle(case, inputs, every, originals=True).out[:, :, rows]
    torch.testing.assert_close(oracle.oracle(part, some, few, originals=True).out, exact)

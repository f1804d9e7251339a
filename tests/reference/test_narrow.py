"""Sums in the inputs' type: what hypotheses compare with is what such kernels give."""

import pytest
import torch

from attnbench.case import Case
from attnbench.reference.inputs import make_inputs
from attnbench.reference.narrow import narrow_sums
from attnbench.reference.oracle import oracle
from attnbench.reference.rows import choose_rows
from attnbench.selftest.bugs.softmax import OutputIsAccumulator, SumsIn16Bit
from attnbench.selftest.forward import Choices


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@pytest.mark.parametrize(("bug", "normalized"), [(SumsIn16Bit, False), (OutputIsAccumulator, True)])
def test_a_kernel_that_rounds_its_sums_gives_these_numbers(bug, normalized, dtype):
    """Another implementation: nearly every element is the same, the others differ by a rounding or two."""
    case = Case.make(
        batch=2, seqlen_q=70, seqlen_k=500, num_heads=4, num_heads_kv=2, head_dim=32, dtype=dtype, causal=True
    )
    inputs, rows = make_inputs(case), choose_rows(case, "full", "cpu")
    kernel = bug(Choices(tile_n=32)).prepare(case, inputs)().out.transpose(1, 2).double()
    found = narrow_sums(case, inputs, rows, 32, normalized).out
    exact = oracle(case, inputs, rows).out
    assert float((found == kernel).double().mean()) > 0.9
    assert float((found - kernel).square().mean()) < 0.05 * float((exact - kernel).square().mean())


def test_rows_that_see_no_key_are_0():
    case = Case.make(batch=1, seqlen_q=9, seqlen_k=4, num_heads=1, head_dim=8, dtype="bf16", causal=True)
    rows = choose_rows(case, "full", "cpu")
    found = narrow_sums(case, make_inputs(case), rows, 2, True)
    assert bool((found.out[:, :, :5] == 0).all()) and bool(found.out.isfinite().all())
    assert bool((found.lse[:, :, :5] == -torch.inf).all())

"""A kernel that rescales lazily rounds its largest weight too; with one key far ahead that is most of its error."""

import pytest

from attnbench.case import Case
from attnbench.correctness.judge import judge
from attnbench.reference.inputs import make_inputs
from attnbench.reference.oracle import make_reference, rounding_scatter
from attnbench.reference.rows import choose_rows
from attnbench.selftest.forward import Choices, TiledForward


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_no_draw_of_a_decode_is_accused(dtype):
    """The second draw of fp16 was, by 7 %, of our overlap schedule in the emulation."""
    case = Case.make(batch=1, num_heads=4, num_heads_kv=2, head_dim=64, seqlen_q=1, seqlen_k=300, dtype=dtype)
    for draw in range(12):
        inputs = make_inputs(case, "cpu", draw)
        ref = make_reference(case, inputs)
        for choices in (Choices(tile_n=64, lazy_rescale=5.5), Choices(tile_n=128, lazy_rescale=5.5)):
            backend = TiledForward(choices)
            found = judge(ref, backend, backend.prepare(case, inputs)())
            assert found.passed, (draw, [str(check) for check in found.failures])


def test_the_largest_weight_counts_in_16_bits_only():
    """Two keys, one with all but a thousandth of the weight: what its rounding does is all there is."""
    case = Case.make(batch=1, num_heads=1, head_dim=8, seqlen_q=1, seqlen_k=2, dtype="fp16", softmax_scale=1.0)
    inputs = make_inputs(case)
    inputs.q.zero_()[..., 0] = 1.0
    inputs.k.zero_()[0, 0, 0, 0] = 7.0
    rows = choose_rows(case, "full", "cpu")
    largest = float(rounding_scatter(case, inputs, rows, 2.0**-11, 0.0).max())
    assert largest == pytest.approx(2.0**-11 * float(inputs.v[0, 0].abs().max()), rel=0.01)
    narrow = Case.make(**{**case.to_dict(), "dtype": "e4m3"})
    assert float(rounding_scatter(narrow, inputs, rows, 2.0**-11, 0.0).max()) < largest / 100

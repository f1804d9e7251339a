"""Right kernels that were accused once: few rows where the eager reference was lucky, and other ways to be right.

Each problem here was found by random search among right forwards; each is held against the oracle as well, so that the
judge alone does not vouch for them.
"""

import pytest
import torch

from attnbench.case import DTYPES, Case
from attnbench.correctness.judge import judge
from attnbench.reference.inputs import make_inputs
from attnbench.reference.oracle import make_reference
from attnbench.selftest.forward import Choices, TiledForward


class OwnQuantizer(TiledForward):
    """Quantizes the originals itself, a tensor at a time, and is judged on them."""

    own_quantizer = True

    def operands(self, case, inputs):
        found = []
        for tensor in (inputs.q, inputs.k, inputs.v):
            descale = tensor.float().abs().amax() / 448
            found.append((tensor.float() / descale).to(torch.float8_e4m3fn).float() * descale)
        return tuple(found)


def failures(case, forward):
    reference = make_reference(case, make_inputs(case))
    outputs = forward.prepare(case, reference.inputs)()
    return [str(check) for check in judge(reference, forward, outputs).failures]


LUCKY = (
    ("fp16", {"head_dim": 16, "num_heads": 2, "seqlen_q": 1, "seqlen_k": 8, "inputs": "normal", "seed": 285}, {}),
    ("bf16", {"head_dim": 256, "head_dim_v": 64, "num_heads": 2, "num_heads_kv": 1, "seqlen_q": 1, "seqlen_k": 3,
              "causal": True, "inputs": "sink_tail", "seed": 255}, {}),
    ("fp16", {"head_dim": 64, "num_heads": 6, "num_heads_kv": 3, "seqlen_q": 8, "seqlen_k": 2, "inputs": "sink_tail",
              "seed": 766}, {}),
    ("e4m3", {"head_dim": 64, "num_heads": 8, "batch": 3, "seqlen_q": 2, "seqlen_k": 161, "inputs": "outliers",
              "seed": 879, "scaling": "token", "hadamard": True}, {"backwards": True}),
    ("e4m3", {"head_dim": 64, "num_heads": 4, "num_heads_kv": 2, "batch": 2, "seqlen_q": 31, "seqlen_k": 600,
              "inputs": "large_logits", "seed": 873, "scaling": "block", "block_size": 64}, {"backwards": True}),
    ("e5m2", {"head_dim": 32, "num_heads": 1, "seqlen_q": 8, "seqlen_k": 129, "causal": True, "inputs": "outliers",
              "seed": 144, "scaling": "tensor"}, {"tile_n": 32, "splits": 7}),
)  # fmt: skip


@pytest.mark.parametrize(("dtype", "fields", "choices"), LUCKY, ids=lambda value: str(value)[:40])
def test_a_lucky_reference_accuses_nobody(dtype, fields, choices):
    """Few weights were rounded, the reference's own nearly exactly; what their rounding can do is no kernel's fault."""
    case = Case.make(**{"batch": 1, "dtype": dtype, **fields})
    assert failures(case, TiledForward(Choices(**choices))) == []


@pytest.mark.parametrize(("dtype", "fields", "choices"), LUCKY, ids=lambda value: str(value)[:40])
def test_there_as_elsewhere_what_rounding_cannot_do_is_an_error(dtype, fields, choices):
    """The largest element of the output off by a tenth (16 bits) or by half of itself."""
    case = Case.make(**{"batch": 1, "dtype": dtype, **fields})
    reference = make_reference(case, make_inputs(case))
    forward = TiledForward(Choices(**choices))
    outputs = forward.prepare(case, reference.inputs)()
    flat = outputs.out.view(-1)
    flat[flat.float().abs().argmax()] *= 1.5 if case.is_fp8 else 1.1
    found = [check.rule for check in judge(reference, forward, outputs).failures]
    assert "max error" in found


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("inputs", ["normal", "outliers", "sink", "rising"])
def test_row_sums_of_rounded_weights_are_right(dtype, inputs):
    """SageAttention2 (arXiv 2411.10958) sums P on the tensor core: the lse errs by what rounding did to the weights."""
    for seqlen_k in (2, 5, 33, 161):
        case = Case.make(batch=2, seqlen_q=40, seqlen_k=seqlen_k, num_heads=2, head_dim=64, dtype=dtype, inputs=inputs)
        assert failures(case, TiledForward(Choices(sum_rounded=True))) == []


def test_an_lse_in_8_bits_is_no_freer_than_that():
    """A row of one key has no weight to round; one of many is off by no more than a rounding of all of them."""
    case = Case.make(batch=1, seqlen_q=40, seqlen_k=1, num_heads=2, head_dim=64, dtype="e4m3")
    reference = make_reference(case, make_inputs(case))
    outputs = TiledForward().prepare(case, reference.inputs)()
    outputs.lse.add_(2e-3)
    assert [check.rule for check in judge(reference, TiledForward(), outputs).failures] == ["LSE error"]
    case = Case.make(batch=1, seqlen=161, num_heads=2, head_dim=64, dtype="e4m3")
    reference = make_reference(case, make_inputs(case))
    outputs = TiledForward().prepare(case, reference.inputs)()
    outputs.lse.add_(0.03)
    assert [check.rule for check in judge(reference, TiledForward(), outputs).failures] == ["LSE error"]


def test_a_zero_among_the_values_is_retrieved_as_next_to_nothing():
    """Other keys leave 1e-27 of themselves where v is 0: e4m3 without a descale rounds small values to 0."""
    case = Case.make(dtype="e4m3", head_dim=8, head_dim_v=128, num_heads=8, num_heads_kv=1, batch=2, seqlen_q=31,
                     seqlen_k=257, causal=True, inputs="needle_edges", seed=952, scaling="none")  # fmt: skip
    assert failures(case, TiledForward()) == []


@pytest.mark.parametrize("inputs", ["needle", "needle_hidden", "needle_edges", "v_ones", "equal_logits", "same_sign_v"])
def test_a_quantizer_of_ones_own_retrieves_what_it_stored(inputs):
    case = Case.make(dtype="e4m3", head_dim=64, num_heads=4, num_heads_kv=2, batch=2, seqlen_q=70, seqlen_k=97,
                     causal=True, inputs=inputs, scaling="tensor")  # fmt: skip
    assert failures(case, OwnQuantizer()) == []


def test_a_mean_over_few_rows_is_no_bias():
    """Eight rows, whose elements share what rounding did to the weights; summed from the last keys to the first."""
    case = Case.make(dtype="e4m3", head_dim=64, num_heads=2, batch=1, seqlen_q=4, seqlen_k=100, inputs="same_sign_v",
                     seed=964, scaling="token")  # fmt: skip
    for choices in (Choices(tile_n=16), Choices(tile_n=16, backwards=True), Choices(tile_n=32, splits=3)):
        assert failures(case, TiledForward(choices)) == []


@pytest.mark.parametrize("seed", range(6))
def test_means_of_16_bit_partial_results_are_right_where_they_cancel(seed):
    case = Case.make(dtype="bf16", head_dim=8, num_heads=4, num_heads_kv=2, batch=1, seqlen=100, causal=True,
                     inputs="equal_logits", seed=450 + seed)  # fmt: skip
    assert failures(case, TiledForward(Choices(tile_n=16, splits=8, partials_16bit=True))) == []

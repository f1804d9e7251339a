"""Input distributions: the same numbers everywhere, other numbers where asked, and each with the property it is for."""

import pytest
import torch

from attnbench.case import DTYPES, Case
from attnbench.reference.distributions import DISTRIBUTIONS, LARGE_LOGIT
from attnbench.reference.inputs import copy_inputs, input_bytes, make_inputs
from attnbench.reference.oracle import oracle
from attnbench.reference.rows import choose_rows

# What is random in every tensor; tests/correctness looks at the others.
RANDOM = [name for name in DISTRIBUTIONS if name not in ("v_ones", "equal_logits", "nan_v", "nan_q", "nan_k")]


def make(**fields):
    return Case.make(**{"batch": 2, "seqlen": 192, "num_heads": 4, "head_dim": 64, "dtype": "fp16", **fields})


def probabilities(case, inputs):
    """softmax(scale q k^T) without a mask, fp64, (batch, num_heads, seqlen_q, seqlen_k)"""
    k = inputs.k.repeat_interleave(case.num_heads // case.num_heads_kv, dim=2)
    return (torch.einsum("bqhd,bkhd->bhqk", inputs.q.double(), k.double()) * case.scale).softmax(dim=-1)


def tensors(inputs):
    return inputs.q, inputs.k, inputs.v


@pytest.mark.parametrize("name", RANDOM)
@pytest.mark.parametrize("dtype", DTYPES)
def test_shapes_dtypes_and_finite(name, dtype):
    case = make(inputs=name, dtype=dtype, seqlen_k=96, num_heads_kv=2, head_dim_v=32)
    inputs = make_inputs(case)
    assert [tuple(t.shape) for t in tensors(inputs)] == [(2, 192, 4, 64), (2, 96, 2, 64), (2, 96, 2, 32)]
    torch_type = {"fp16": torch.float16, "fp32": torch.float32}.get(dtype, torch.bfloat16)
    assert {t.dtype for t in tensors(inputs)} == {torch_type}
    assert all(t.isfinite().all() and t.is_contiguous() for t in tensors(inputs))
    assert all(t.float().std() > 0 for t in tensors(inputs))
    held = [*tensors(inputs)]
    if case.is_fp8:
        held += [inputs.quantized.q, inputs.quantized.k, inputs.quantized.v]
    assert input_bytes(case) == sum(t.numel() * t.element_size() for t in held)


@pytest.mark.parametrize("name", RANDOM)
def test_the_same_case_gives_the_same_numbers_and_anything_else_gives_others(name):
    case = make(inputs=name)
    once, again = make_inputs(case), make_inputs(case)
    assert all(torch.equal(a, b) for a, b in zip(tensors(once), tensors(again)))
    for other in (make_inputs(case, input_set=1), make_inputs(make(inputs=name, seed=1))):
        assert not any(torch.equal(a, b) for a, b in zip(tensors(once), tensors(other)))
    assert not torch.equal(once.k, once.v)


def test_numbers_are_pinned_across_machines_and_versions():
    """Old records stay comparable only while the same case means the same numbers."""
    inputs = make_inputs(make(dtype="bf16"))
    found = [float(t[1, 17, 3, 5]) for t in tensors(inputs)]
    assert found == pytest.approx([0.00110626220703125, 0.58984375, -0.609375], rel=2**-7)


def test_copies_hold_the_same_numbers_in_other_memory():
    inputs = make_inputs(make(dtype="e4m3"))
    copy = copy_inputs(inputs)
    pairs = [*zip(tensors(inputs), tensors(copy)), (inputs.quantized.q, copy.quantized.q)]
    pairs += [(inputs.quantized.v_descale, copy.quantized.v_descale)]
    for a, b in pairs:
        assert a.data_ptr() != b.data_ptr()
        assert torch.equal(a.float(), b.float())


def test_outliers_have_the_papers_share_and_size():
    case = make(inputs="outliers", seqlen=2048)
    q = make_inputs(case).q.float()
    far = (q.abs() > 6).float().mean()  # N(0, 101): 55 % of the outliers are beyond 6, of N(0, 1) nobody
    assert float(far) == pytest.approx(0.001 * 0.55, rel=0.15)
    assert float(q.square().mean()) == pytest.approx(1 + 0.001 * 100, rel=0.03)


def test_channel_outliers_stand_out_in_the_same_four_channels_of_q_and_k():
    inputs = make_inputs(make(inputs="channel_outliers"))
    loud = [set(t.float().square().mean(dim=(0, 1, 2)).topk(4).indices.tolist()) for t in (inputs.q, inputs.k)]
    assert loud[0] == loud[1]
    power = inputs.k.float().square().mean(dim=(0, 1, 2)).sort(descending=True).values
    assert power[3] > 30 * power[4]


@pytest.mark.parametrize("seqlen_k", [128, 4096])
def test_a_sink_collects_most_of_the_weight_at_any_length(seqlen_k):
    case = make(inputs="sink", seqlen_k=seqlen_k)
    weight = probabilities(case, make_inputs(case))[..., 0]
    assert 0.75 < weight.mean() < 0.95


def test_large_logits_are_large():
    case = make(inputs="large_logits")
    inputs = make_inputs(case)
    logits = torch.einsum("bqhd,bkhd->bhqk", inputs.q.double(), inputs.k.double()) * case.scale
    assert LARGE_LOGIT / 2 < logits.abs().max() < 3 * LARGE_LOGIT


@pytest.mark.parametrize(("name", "sign"), [("rising", 1), ("falling", -1)])
def test_every_tile_brings_a_new_maximum_or_none_does(name, sign):
    case = make(inputs=name, seqlen=512)
    inputs = make_inputs(case)
    logits = torch.einsum("bqhd,bkhd->bhqk", inputs.q.double(), inputs.k.double()) * case.scale
    maxima = logits.unflatten(3, (4, 128)).amax(dim=-1).mean(dim=(0, 1, 2))
    steps = sign * maxima.diff()
    assert (steps > 5).all(), maxima


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("seqlen_q", "seqlen_k"), [(192, 192), (128, 192), (192, 128)])
def test_a_needle_retrieves_exactly_its_own_row_of_v(causal, seqlen_q, seqlen_k):
    case = make(inputs="needle", causal=causal, seqlen_q=seqlen_q, seqlen_k=seqlen_k, num_heads_kv=2)
    inputs = make_inputs(case)
    out = oracle(case, inputs, choose_rows(case, "full", "cpu")).out
    v = inputs.v.double().repeat_interleave(2, dim=2)
    for row in range(seqlen_q):
        key = row + seqlen_k - seqlen_q if causal else row % seqlen_k
        expected = v[:, key] if key >= 0 else torch.zeros_like(v[:, 0])
        torch.testing.assert_close(out[:, :, row], expected, rtol=1e-9, atol=1e-9)


def test_an_unknown_distribution_is_an_error():
    with pytest.raises(KeyError):
        make_inputs(make(inputs="nothing"))

"""Signs that flip in place: the answer flips exactly, the logits stay, and nobody is told."""

import pytest
import torch

from attnbench.backends import builtin
from attnbench.case import Case
from attnbench.reference.inputs import checksums, input_tensors, make_inputs, written
from attnbench.reference.signs import DRAWN, SignedInputs, Signs

SHAPE = {"batch": 2, "num_heads": 4, "num_heads_kv": 2, "seqlen_q": 33, "seqlen_k": 70, "head_dim": 32}


@pytest.mark.parametrize(("backend", "dtype"), [
    ("naive", "fp16"), ("naive", "bf16"), ("naive", "fp32"), ("cpu_flash", "bf16"), ("cpu_flash", "fp32"),
    ("fp8_emulated", "e4m3"), ("fp8_emulated", "e5m2"),
])  # fmt: skip
@pytest.mark.parametrize("causal", [False, True])
def test_the_answer_flips_exactly_and_the_logits_stay(backend, dtype, causal):
    case = Case.make(**SHAPE, dtype=dtype, causal=causal, head_dim_v=48 if backend == "naive" else 32)
    inputs = make_inputs(case)
    before, versions = checksums(inputs), [(x._version, x.data_ptr()) for x in input_tensors(inputs)]
    signed = SignedInputs(inputs, Signs(inputs, seed=5))
    call = builtin()[backend].prepare(case, inputs)
    first = call()
    out, lse = first.out.clone(), None if first.lse is None else first.lse.clone()
    for _ in range(3):
        signed.renew()
        assert written(inputs, before)
        raw = call()
        assert not torch.equal(raw.out, out)
        plain = signed.plain(raw)
        assert torch.equal(plain.out, out)
        assert lse is None or torch.equal(plain.lse, lse)
    signed.restore()
    assert not written(inputs, before)
    assert [(x._version, x.data_ptr()) for x in input_tensors(inputs)] == versions


def test_every_draw_is_another_and_follows_from_the_seed():
    case = Case.make(**SHAPE)
    signed, again, other = (SignedInputs(make_inputs(case), Signs(make_inputs(case), seed)) for seed in (1, 1, 2))
    seen, count = set(), DRAWN + 20
    for _ in range(count):
        signed.renew()
        again.renew()
        other.renew()
        assert torch.equal(signed.inputs.v, again.inputs.v) and not torch.equal(signed.inputs.v, other.inputs.v)
        seen.add(tuple(checksums(signed.inputs)))
    assert len(seen) == count


def test_sets_of_one_sequence_have_signs_of_their_own():
    inputs = [make_inputs(Case.make(**SHAPE)) for _ in range(3)]
    before = checksums(inputs[0])
    signs = Signs(inputs[0], seed=9)
    signed = [SignedInputs(one, signs) for one in inputs]
    for number in range(4):
        for one in signed[: 1 + number]:
            one.renew()
    assert len({tuple(checksums(one)) for one in inputs}) == 3
    for one in signed:
        one.restore()
        assert checksums(one.inputs) == before
        one.restore()
        assert checksums(one.inputs) == before


def test_strided_tensors_flip_in_place():
    case = Case.make(**SHAPE)
    inputs = make_inputs(case)
    wide = torch.full((2, 70, 2, 64), 7.0, dtype=torch.bfloat16)
    wide[..., :32] = inputs.v
    strided = type(inputs)(inputs.q, inputs.k, wide[..., :32])
    signed = SignedInputs(strided, Signs(strided, seed=3))
    signed.renew()
    assert bool((wide[..., 32:] == 7.0).all()) and not torch.equal(wide[..., :32], inputs.v)
    assert torch.equal(wide[..., :32].abs(), inputs.v.abs())

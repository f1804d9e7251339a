"""fp32: right attentions in any order of sums pass, fewer digits do not, TF32 and 16-bit k and v have their budgets."""

from __future__ import annotations

import math

import pytest
import torch

from attnbench.backend import Base, Outputs
from attnbench.case import Case
from attnbench.correctness.judge import diagnosed, judge
from attnbench.reference.inputs import make_inputs
from attnbench.reference.oracle import make_reference, tf32

SHAPES = (
    {"seqlen": 1}, {"seqlen_q": 3, "seqlen_k": 5, "causal": True}, {"seqlen_q": 1, "seqlen_k": 700},
    {"seqlen_q": 70, "seqlen_k": 130, "causal": True}, {"seqlen": 64, "head_dim": 256},
)  # fmt: skip
INPUTS = (
    "normal",
    "large_logits",
    "same_sign_v",
    "v_ones",
    "equal_logits",
    "needle",
    "sink",
    "steps",
    "nan_q",
    "nan_k",
    "nan_v",
)


class Declares(Base):
    name = "declares"

    def __init__(self, accumulator="fp32"):
        self.accumulator = accumulator


def posed(shape, inputs, **fields):
    case = Case.make(**{"batch": 1, "num_heads": 2, "num_heads_kv": 1, "head_dim": 64, "dtype": "fp32",
                        "inputs": inputs, **shape, **fields})  # fmt: skip
    return make_reference(case, make_inputs(case))


def one_by_one(a, b):
    """a @ b, each element's products added one after another in fp32."""
    total = torch.zeros(*a.shape[:-1], b.shape[-1])
    for place in range(a.shape[-1]):
        total = total + a[..., place : place + 1] * b[..., place : place + 1, :]
    return total


def inexact_exp2(x):
    """2**x, off by up to two units in the last place, as hardware's is."""
    found = torch.exp2(x)
    return found * (1 + (torch.rand(found.shape, generator=torch.Generator().manual_seed(3)) - 0.5) * 2.0**-21)


def attention(ref, tile=None, backwards=False, product=torch.matmul, exp2=None, factor=None, weight=None):
    """Online softmax in fp32 over tiles of keys; factor, weight: what is done to q, k, v and to P beforehand."""
    case, inputs = ref.case, ref.inputs
    ratio = case.num_heads // case.num_heads_kv
    q, k, v = (x.transpose(1, 2).float() for x in (inputs.q, inputs.k, inputs.v))
    k, v = k.repeat_interleave(ratio, 1), v.repeat_interleave(ratio, 1)
    if factor:
        q, k, v = factor(q), factor(k), factor(v)
    scale, raised = (case.scale * math.log2(math.e), exp2) if exp2 else (case.scale, torch.exp)
    maximum = torch.full((*q.shape[:3], 1), -math.inf)
    total, out = torch.zeros_like(maximum), torch.zeros(*q.shape[:3], v.shape[-1])
    starts = list(range(0, case.seqlen_k, tile or case.seqlen_k))
    for start in reversed(starts) if backwards else starts:
        stop = min(start + (tile or case.seqlen_k), case.seqlen_k)
        scores = product(q * scale, k[:, :, start:stop].transpose(2, 3))
        if case.causal:
            last = torch.arange(case.seqlen_q)[:, None] + case.seqlen_k - case.seqlen_q
            scores = scores.masked_fill(torch.arange(start, stop) > last, -math.inf)
        larger = torch.maximum(maximum, scores.amax(-1, keepdim=True))
        safe = larger.masked_fill(larger == -math.inf, 0.0)
        p, kept = raised(scores - safe), raised(maximum - safe)
        total = total * kept + product(p, torch.ones(stop - start, 1))
        out = out * kept + product(weight(p) if weight else p, v[:, :, start:stop])
        maximum = larger
    lse = (maximum + total.log2()) * math.log(2.0) if exp2 else maximum + total.log()
    return Outputs((out / total.masked_fill(total == 0, 1.0)).transpose(1, 2).contiguous(), lse.squeeze(-1))


RIGHT = {
    "whole": {},
    "tiles": {"tile": 32},
    "tiles backwards": {"tile": 16, "backwards": True},
    "one by one": {"product": one_by_one},
    "inexact exp2, one by one": {"tile": 64, "product": one_by_one, "exp2": inexact_exp2},
}


def to_bf16(x):
    return x.bfloat16().float()


@pytest.mark.parametrize("inputs", INPUTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_no_order_of_sums_is_accused(shape, inputs):
    ref = posed(shape, inputs)
    for name, options in RIGHT.items():
        found = judge(ref, Declares(), attention(ref, **options))
        assert found.passed, (name, [str(check) for check in found.failures])
        tight = [check for check in found.checks if check.limit]
        assert max(check.value / check.limit for check in tight) < 0.9, name


@pytest.mark.parametrize("inputs", ["normal", "large_logits", "outliers", "sink"])
@pytest.mark.parametrize("shape", SHAPES[2:], ids=str)
def test_fewer_digits_are_found_and_named(shape, inputs):
    ref = posed(shape, inputs)
    for name, options in {
        "TF32": {"factor": tf32, "weight": tf32},
        "bf16": {"factor": to_bf16, "weight": to_bf16},
        "fp16": {"factor": lambda x: x.half().float()},
    }.items():
        outputs = attention(ref, **options)
        assert not judge(ref, Declares(), outputs).passed, name
        cause = diagnosed(ref, Declares(), outputs).cause
        assert cause.startswith("precision") and (name in cause or "same_sign_v" in inputs), cause
    if inputs != "large_logits":  # there a key or two take all the weight, and rounding it changes nothing
        outputs = attention(ref, weight=to_bf16)
        assert not judge(ref, Declares(), outputs).passed
        cause = diagnosed(ref, Declares(), outputs).cause
        assert cause.startswith(("precision", "none is named from places: the worst row is at")), cause


@pytest.mark.parametrize("inputs", ["normal", "large_logits", "sink"])
def test_tf32_is_right_where_it_is_declared(inputs):
    def nearest(x):
        return tf32((x.contiguous().view(torch.int32) + 2**12).view(torch.float32))

    for shape in SHAPES[2:4]:
        ref = posed(shape, inputs)
        for form in (tf32, nearest):
            found = judge(ref, Declares("tf32"), attention(ref, factor=form, weight=form, tile=64))
            assert found.passed, [str(check) for check in found.failures]
        if shape != SHAPES[2] and inputs == "normal":  # two rows, or two keys of weight, leave much to chance
            coarse = judge(ref, Declares("tf32"), attention(ref, factor=to_bf16, weight=to_bf16))
            assert not coarse.passed, "bf16 has three bits fewer"


def test_tf32_takes_ten_fraction_bits():
    x = torch.tensor([1.0, 1.0 + 2.0**-10, 1.0 + 2.0**-11, -1.0 - 2.0**-10 - 2.0**-20, 3.4e38])
    expected = [1.0, 1.0 + 2.0**-10, 1.0, -1.0 - 2.0**-10, float(torch.tensor(3.4e38))]
    assert tf32(x)[:4].tolist() == expected[:4] and abs(float(tf32(x)[4]) / expected[4] - 1) < 2.0**-10


@pytest.mark.parametrize("kv_dtype", ["fp16", "bf16"])
@pytest.mark.parametrize("inputs", ["normal", "large_logits", "outliers", "needle"])
def test_k_and_v_in_16_bits_beside_an_fp32_q(kv_dtype, inputs):
    ref = posed(SHAPES[3], inputs, kv_dtype=kv_dtype)
    torch_type = {"fp16": torch.float16, "bf16": torch.bfloat16}[kv_dtype]
    assert (ref.inputs.q.dtype, ref.inputs.k.dtype, ref.inputs.v.dtype) == (torch.float32, torch_type, torch_type)

    def narrow(x):
        return x.to(torch_type).float()

    for options in ({}, {"factor": narrow}, {"factor": narrow, "weight": narrow, "tile": 32}):
        found = judge(ref, Declares(), attention(ref, **options))
        assert found.passed, (options, [str(check) for check in found.failures])
    if inputs == "normal":
        coarse = attention(ref, factor=lambda x: x.to(torch.float8_e4m3fn).float())
        assert not judge(ref, Declares(), coarse).passed


def test_nan_in_v_takes_no_budget_from_other_heads():
    ref = posed({"seqlen_q": 70, "seqlen_k": 130, "num_heads": 4, "num_heads_kv": 2}, "nan_v")
    found = judge(ref, Declares(), attention(ref, product=one_by_one))
    assert found.passed and 0 < max(check.value / check.limit for check in found.checks if check.limit) < 0.6

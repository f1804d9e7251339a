"""Kinds of mistakes beside those of the reports: each is named, and an 8-bit answer that is none is stamped."""

import sys

import pytest
import torch
from paths import ROOT
from safetensors.torch import save_file

from attnbench.backends import builtin
from attnbench.case import Case
from attnbench.plugins import FunctionBackend
from attnbench.records.record import NO_ANSWER
from attnbench.settings import Checks, Timing
from attnbench.worker.phases import Phases
from attnbench.worker.problem import Problem
from attnbench.worker.trial import run_trial

sys.path.insert(0, str(ROOT / "tests" / "reports" / "faults"))

from attention import attention, keys_seen  # the reports' kernels are written with it

GQA = {"batch": 3, "seqlen_q": 70, "seqlen_k": 70, "num_heads": 6, "num_heads_kv": 2, "head_dim": 32, "causal": True}
DECODE = {"batch": 3, "seqlen_q": 1, "seqlen_k": 129, "num_heads": 8, "num_heads_kv": 2, "head_dim": 64}


def trial(kernel, checks=Checks(), **fields):
    backend = kernel if hasattr(kernel, "prepare") else FunctionBackend("kernel", kernel, source="a test")
    case = Case.make(**{"dtype": "bf16", **fields})
    return run_trial(Problem(case, "cpu", checks, Timing(), 0, Phases()), backend, timed=False)


def rows_and_heads_exchanged(q, k, v, *, causal, softmax_scale):
    out, _ = attention(*(x.transpose(1, 2) for x in (q, k, v)), causal, softmax_scale)
    return out.transpose(1, 2).contiguous()


def head_zero(q, k, v, *, causal, softmax_scale):
    out, lse = attention(q, k, v, causal, softmax_scale)
    return out[:, :, :1].expand_as(out).contiguous(), lse[:, :1].expand_as(lse).contiguous()


def packed_rows(q, k, v, *, causal, softmax_scale):
    group = q.shape[2] // k.shape[2]
    return attention(q, k, v, causal, softmax_scale, torch.arange(q.shape[1]) // group + 1)


def prefix_skipped(q, k, v, *, causal, softmax_scale):
    return attention(q, k[:, k.shape[1] - q.shape[1] :], v[:, k.shape[1] - q.shape[1] :], causal, softmax_scale)


def half(q, k, v, *, causal, softmax_scale):
    return attention(q, k, v, causal, 0.5)


def scale_ignored(q, k, v, *, causal, softmax_scale):
    return attention(q, k, v, causal, q.shape[3] ** -0.5)


def lse_of_first_heads(q, k, v, *, causal, softmax_scale):
    out, lse = attention(q, k, v, causal, softmax_scale)
    written = torch.full_like(lse, float("nan"))
    written[:, :: q.shape[2] // k.shape[2]] = lse[:, :: q.shape[2] // k.shape[2]]
    return out, written


def lse_in_bf16(q, k, v, *, causal, softmax_scale):
    out, lse = attention(q, k, v, causal, softmax_scale)
    return out, lse.bfloat16().float()


def mean_where_blind(q, k, v, *, causal, softmax_scale):
    out, lse = attention(q, k, v, causal, softmax_scale)
    mean = v.float().mean(dim=1, keepdim=True).repeat_interleave(q.shape[2] // v.shape[2], dim=2)
    out[:, keys_seen(q, k, causal) == 0] = mean.to(out.dtype)
    return out, lse


@pytest.mark.parametrize(("kernel", "fields", "cause"), [
    (rows_and_heads_exchanged, {**GQA, "num_heads_kv": 6}, "layout: rows and heads are taken for each other"),
    (head_zero, GQA, "head mapping: every head's output is head 0's"),
    (packed_rows, GQA, "mask: the query's row is divided by the group's size, 3"),
    (prefix_skipped, {**GQA, "seqlen_k": 113}, "mask: the first seqlen_k - seqlen_q = 43 keys are left out"),
    (half, {**GQA, "head_dim": 8}, "scale: the softmax scale is 1.41 times what it should be"),
    (scale_ignored, {**GQA, "softmax_scale": 0.001}, "scale: the softmax scale given is ignored, head_dim**-0.5"),
    (scale_ignored, {**GQA, "softmax_scale": 1.0}, "scale: the softmax scale given is ignored, head_dim**-0.5"),
    (lse_of_first_heads, DECODE, "lse: not finite (never written) in the heads of each group but its first"),
    (lse_in_bf16, GQA, "the lse is right, but rounded to 16 bits (bf16)"),
    (mean_where_blind, {**GQA, "seqlen_q": 113}, "rows that see no key are not 0: they hold the mean of v"),
], ids=lambda value: getattr(value, "__name__", ""))  # fmt: skip
def test_the_mistake_is_named(kernel, fields, cause):
    record = trial(
        kernel, **{name: value for name, value in fields.items() if name != "seqlen" or "seqlen_q" not in fields}
    )
    assert record.status == "incorrect"
    assert cause in record.likely_cause


def test_where_a_limit_is_grazed_no_place_is_a_cause():
    def off(q, k, v, *, causal, softmax_scale):
        out, lse = attention(q, k, v, causal, softmax_scale)
        out[0, 20, 3] *= 1 + 2.0**-5  # twice the row's limit, in one row of one head
        return out, lse

    record = trial(off, **GQA)
    assert record.status == "incorrect"
    assert "head mapping" not in record.likely_cause and "none is named from places" in record.likely_cause


def test_probes_run_beside_a_failure_and_the_reason_counts_them():
    record = trial(half, checks=Checks(probes=("v_ones", "needle", "large_logits")), **GQA)
    assert "fail as well, worst in " in record.reason or "fails as well, worst in " in record.reason
    assert any(check.rule.startswith("large_logits: ") and not check.passed for check in record.accuracy.checks)


def test_a_call_that_fails_once_in_a_hundred_is_found_and_the_number_of_calls_told():
    calls = iter(range(10**6))

    def flaky(q, k, v, *, causal, softmax_scale):
        out, lse = attention(q, k, v, causal, softmax_scale)
        return (out * float("nan") if next(calls) % 100 == 99 else out), lse

    small = {"batch": 1, "seqlen_q": 1, "seqlen_k": 16, "num_heads": 1, "head_dim": 8}
    record = trial(flaky, checks=Checks(repeats=120), **small)
    told = record.accuracy.values["repeats"]
    assert record.status == "incorrect" or told < 120
    if record.status == "incorrect":
        assert record.likely_cause.startswith("another output each time")


def test_an_8_bit_answer_that_is_far_from_the_right_one_is_stamped(tmp_path):
    """k with channels that all keys share, hundreds of times as large as what tells keys apart."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 256, heads, 128, generator=generator) for heads in (4, 2, 2))
    k[..., :8] += 272.0
    save_file({"q": q.bfloat16(), "k": k.bfloat16(), "v": v.bfloat16()}, tmp_path / "shared.safetensors")
    fields = {"batch": 1, "seqlen": 256, "num_heads": 4, "num_heads_kv": 2, "head_dim": 128, "dtype": "e4m3"}
    far = trial(builtin()["fp8_emulated"], **fields, scaling="token", hadamard=True,
                inputs=str(tmp_path / "shared.safetensors"))  # fmt: skip
    near = trial(builtin()["fp8_emulated"], **fields)
    assert far.status == near.status == "ok"
    assert far.accuracy.values["e3"] > 0.5 > near.accuracy.values["e3"]
    (warning,) = far.warnings
    assert warning.startswith(NO_ANSWER) and "E3 " in warning and near.warnings == ()

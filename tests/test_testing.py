"""`attnbench.check`: a right function passes, a wrong one raises with the rule, the place and the cause."""

import pytest
import torch

import attnbench
from attnbench.suite.source import SuiteError

SMALL = {"dtype": "bf16", "group": "unequal_lengths"}


def right(q, k, v, *, causal, softmax_scale):
    return _attention(q, k, v, causal, softmax_scale, k.shape[1] - q.shape[1])


def top_left(q, k, v, *, causal, softmax_scale):
    return _attention(q, k, v, causal, softmax_scale, 0)


def _attention(q, k, v, causal, scale, offset):
    ratio = q.shape[2] // k.shape[2]
    k, v = (x.repeat_interleave(ratio, dim=2).float() for x in (k, v))
    scores = torch.einsum("bqhd,bkhd->bhqk", q.float(), k) * scale
    if causal:
        last = torch.arange(q.shape[1])[:, None] + offset
        scores = scores.masked_fill(torch.arange(k.shape[1]) > last, -torch.inf)
    lse = scores.logsumexp(dim=-1)
    p = (scores - lse.nan_to_num(neginf=0.0)[..., None]).exp().to(q.dtype).float()
    return torch.einsum("bhqk,bkhd->bqhd", p, v).to(q.dtype), lse


def test_a_right_function_passes_and_the_records_come_back():
    records = attnbench.check(right, only=SMALL)
    assert len(records) == 22
    assert all(record.status == "ok" for record in records)


def test_a_wrong_function_is_told_what_where_and_why():
    with pytest.raises(AssertionError) as caught:
        attnbench.check(top_left, only={**SMALL, "causal": True})
    text = str(caught.value)
    assert text.startswith("top_left: ")
    assert "of 11 cases of suite edges failed" in text.splitlines()[0]
    assert "likely cause: mask: causal is aligned top left, not bottom right" in text
    assert "error by head and tile of 64 query rows" in text
    assert "also: bf16-d64-h2-b1-" in text


def test_a_function_that_raises_fails_with_its_own_words():
    def picky(q, k, v, *, causal, softmax_scale):
        raise RuntimeError("head_dim must be 128")

    with pytest.raises(AssertionError, match="(?s)exception.*head_dim must be 128"):
        attnbench.check(picky, only=SMALL)


def test_a_kernel_that_takes_nothing_is_not_right():
    with pytest.raises(AssertionError, match="right: suite edges checked nothing, .* descales"):
        attnbench.check(right, only={"dtype": "e4m3", "group": "p_scale"})


def test_a_backend_object_is_taken_as_it_is():
    from attnbench.backends import builtin

    records = attnbench.check(builtin()["fp8_emulated"], only={"group": "p_scale"})
    assert {record.backend for record in records} == {"fp8_emulated"}


def test_a_suite_that_is_none_is_a_suite_error():
    with pytest.raises(SuiteError, match="no such suite"):
        attnbench.check(right, suite="edgy")
